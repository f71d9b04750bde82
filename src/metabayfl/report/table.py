"""The comparison table: which figures, what they mean, and which algorithm is best in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from metabayfl.errors import ArtifactError
from metabayfl.report.series import by_mean

Better = Literal["higher", "lower", "near 0.9", "neither"]


class Column(NamedTuple):
    """One figure."""

    key: str  # in summary.json
    title: str
    better: Better
    factor: float  # from the stored unit to the shown one
    digits: int
    meaning: str  # one sentence for a newcomer


class Cell(NamedTuple):
    """One algorithm's figure."""

    text: str
    best: bool


class Row(NamedTuple):
    """One algorithm."""

    name: str
    cells: tuple[Cell, ...]


class Table(NamedTuple):
    """Columns that at least one algorithm has a figure for."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


CLASSIFICATION = (
    Column("accuracy", "accuracy %", "higher", 100, 1, "Share of right predictions."),
    Column(
        "nll", "NLL", "lower", 1, 3, "How surprised the model is by the true answers, in nats: small only where it is right and knows how sure to be."
    ),
    Column("brier", "Brier", "lower", 1, 3, "Mean squared distance between the stated probabilities and what happened."),
    Column("ece", "ECE %", "lower", 100, 1, "Calibration error: how far the stated confidence is from the share that turns out right."),
    Column(
        "ece_worst_client",
        "ECE worst client %",
        "lower",
        100,
        1,
        "The same for the client where it is largest; with few test samples it is mostly chance.",
    ),
    Column("accuracy_worst_decile", "accuracy worst tenth %", "higher", 100, 1, "Mean accuracy of the worst-served tenth of the clients."),
    Column(
        "auroc_unseen",
        "unseen AUROC %",
        "higher",
        100,
        1,
        "How well uncertainty singles out classes that the client never showed: 50 is chance, 100 perfect.",
    ),
    Column(
        "accuracy_at_80_coverage",
        "accuracy, 20 % referred",
        "higher",
        100,
        1,
        "Accuracy, in percent, when the 20 % least certain cases go to a person.",
    ),
)
REGRESSION = (
    Column("rmse", "RMSE", "lower", 1, 3, "Typical size of an error, in the target's unit."),
    Column("nll", "NLL", "lower", 1, 3, "How surprised the model is by the true values, in nats."),
    Column(
        "crps", "CRPS", "lower", 1, 3, "Error of the whole predicted distribution, in the target's unit: rewards being close and knowing how close."
    ),
    Column("coverage_90", "in 90 % interval, %", "near 0.9", 100, 1, "Share of true values inside the 90 % interval: it should be 90."),
)
PROMISES = (
    Column("set_coverage_90", "in 90 % set, %", "near 0.9", 100, 1, "Share of truths inside their conformal set or interval: it should be 90."),
    Column("set_coverage_90_worst_client", "worst client, %", "higher", 100, 1, "The same for the client where it is least."),
    Column("set_size_90", "set size", "lower", 1, 2, "Classes in a 90 % set, or width of a 90 % interval in standard deviations of the target."),
)
COST = (
    Column("bytes_down", "KB down", "lower", 1e-3, 1, "What a client downloads in a round."),
    Column("bytes_up", "KB up", "lower", 1e-3, 1, "What a client sends back in a round."),
    Column("adapt_ms", "adapt ms", "lower", 1, 1, "Time in which one client makes the strategy its own."),
    Column("predict_ms", "predict ms", "lower", 1, 1, "Time of one call for up to 100 predictions."),
    Column("train_seconds", "training s", "lower", 1, 1, "Time of the whole training in this simulation."),
    Column("peak_memory_mb", "memory MB", "lower", 1, 0, "Peak memory of the simulation."),
    Column("rounds", "rounds", "neither", 1, 0, "Rounds of communication until training stopped."),
)
COMPACT = ("accuracy", "rmse", "nll", "crps", "coverage_90", "ece", "accuracy_worst_decile", "auroc_unseen", "bytes_up", "adapt_ms")
"""What a terminal has room for."""


def algorithms(summary: Mapping[str, Any]) -> Mapping[str, Mapping[str, Mapping[str, float | None]]]:
    """The summary's algorithms.

    Raises:
        ArtifactError: if it has none.
    """
    found = summary.get("algorithms")
    if not isinstance(found, Mapping) or not all(isinstance(entry, Mapping) and "mean" in entry for entry in found.values()):
        raise ArtifactError("the summary has no 'algorithms' with a 'mean' each: it is damaged or not a summary.json of metabayfl.")
    return found


def is_regression(summary: Mapping[str, Any]) -> bool:
    """Whether the figures are those of a regression."""
    return any("rmse" in entry["mean"] for entry in algorithms(summary).values())


def quality(summary: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns that say how good predictions are."""
    return REGRESSION if is_regression(summary) else CLASSIFICATION


def table(summary: Mapping[str, Any], columns: Sequence[Column]) -> Table:
    """Means and standard deviations over seeds by rising NLL; the best of a column is marked, and what reads the same is as good.

    Nothing is marked where the summary says that its algorithms are not ``comparable``.
    """
    found, marked = algorithms(summary), summary.get("comparable", True)
    entries = {name: found[name] for name in by_mean(found, "nll")}
    kept = tuple(column for column in columns if any(_mean(entry, column) is not None for entry in entries.values()))
    by_column = [_cells(list(entries.values()), column, marked=marked) for column in kept]
    return Table(kept, tuple(Row(name, tuple(cells[at] for cells in by_column)) for at, name in enumerate(entries)))


def _mean(entry: Mapping[str, Mapping[str, float | None]], column: Column) -> float | None:
    return entry["mean"].get(column.key)


def _cells(entries: Sequence[Mapping[str, Any]], column: Column, *, marked: bool) -> list[Cell]:
    means = [_mean(entry, column) for entry in entries]
    best = _best([mean for mean in means if mean is not None], column) if marked else None
    spreads = [_spread(entry, column) for entry in entries]
    varies = any(spread.strip("0.") for spread in spreads)  # a column of "± 0" says nothing
    return [
        Cell(
            "–" if mean is None else _shown(mean, column) + (f" ± {spread}" if spread and varies else ""),
            mean is not None and _shown(mean, column) == best,
        )
        for mean, spread in zip(means, spreads, strict=True)
    ]


def _spread(entry: Mapping[str, Any], column: Column) -> str:
    """The standard deviation as it is shown; nothing where there is none or a single seed."""
    sd = entry.get("sd", {}).get(column.key)
    return _shown(sd, column) if sd is not None and len(entry.get("per_seed", ())) > 1 else ""


def _best(means: Sequence[float], column: Column) -> str | None:
    """The best mean as it is shown; None where nothing is to be won, as when all are alike. Costing nothing wins nothing either."""
    known = [mean for mean in means if column not in COST or _shown(mean, column).strip("0.")]
    if column.better == "neither" or len({_shown(mean, column) for mean in known}) < 2:
        return None
    return _shown(min(known, key=_rank(column.better)), column)


def _rank(better: Better) -> Callable[[float], float]:
    ranks: dict[Better, Callable[[float], float]] = {"higher": lambda v: -v, "lower": lambda v: v, "near 0.9": lambda v: abs(v - 0.9), "neither": abs}
    return ranks[better]


def _shown(value: float, column: Column) -> str:
    return f"{value * column.factor:,.{column.digits}f}"


def comparison_table(summary: Mapping[str, Any], keys: Sequence[str] = COMPACT) -> list[list[str]]:
    """The table as text, the titles first; the best figure of a column ends with a star.

    Args:
        summary: the content of ``summary.json``.
        keys: which figures; by default those that a terminal has room for.

    Raises:
        ArtifactError: if it is no summary.

    Example:
        >>> one, two = ({"mean": {"accuracy": share}, "sd": {}} for share in (0.8, 0.9))
        >>> comparison_table({"algorithms": {"fedavg": one, "meta_bayfl": two}})
        [['algorithm', 'accuracy %'], ['fedavg', '80.0'], ['meta_bayfl', '90.0 *']]
    """
    columns = [column for column in (*quality(summary), *PROMISES, *COST) if column.key in keys]
    found = table(summary, columns)
    head = ["algorithm", *(column.title for column in found.columns)]
    return [head, *([row.name, *(cell.text + (" *" if cell.best else "") for cell in row.cells)] for row in found.rows)]
