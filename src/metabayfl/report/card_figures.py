"""The second half of a model card: how good the strategy is, whether it can be believed, and for whom it is worst."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metabayfl.report import kept
from metabayfl.report.card_part import Part, shipped, under
from metabayfl.report.sections import Study
from metabayfl.report.series import Series
from metabayfl.report.table import PROMISES, is_regression, quality, table

WORST = 5
"""Clients with the lowest accuracy, and with the highest NLL, that are named."""


def evaluation(study: Study) -> Part:
    """The figures on held-out clients, what referring buys, and the other algorithms of the study."""
    found = table(study.summary, (*quality(study.summary), *PROMISES))
    own = next(row for row in found.rows if row.name == shipped(study))
    rows = tuple((column.title, cell.text, column.meaning) for column, cell in zip(found.columns, own.cells, strict=True))
    said = "On held-out clients, mean ± standard deviation over seeds." if len(study.summary["seeds"]) > 1 else "On held-out clients, one seed."
    return Part("Evaluation", grid=(("figure", "value", "what it means"), *rows), sentences=(said, *_referred(study)))


def _referred(study: Study) -> Iterable[str]:
    mean = study.summary["algorithms"][shipped(study)]["mean"]
    accuracy, rest = mean.get("accuracy"), mean.get("accuracy_at_80_coverage")
    if accuracy is not None and rest is not None:
        yield (
            f"{100 * accuracy:.1f} % of all predictions are right. When the 20 % least certain go to a person, {100 * rest:.1f} % of the others are: "
            f"{100 * (rest - accuracy):+.1f} points."
        )


def calibration(study: Study) -> Part:
    """Whether stated confidence, or promised intervals, can be believed; all seeds together."""
    entries = study.entries(shipped(study))
    if is_regression(study.summary):
        line = kept.curve(Series("", ""), entries, "coverage", "nominal", "observed")
        return Part("Calibration", grid=under(("promised %", "inside %"), ((f"{100 * at:.0f}", f"{100 * up:.1f}") for at, up in line.points)))
    bins = kept.bins(entries)
    filled = [row for row in zip(bins.examples, bins.confidence, bins.accuracy, strict=True) if row[0]]
    rows = tuple((f"{100 * stated:.1f}", f"{100 * right:.1f}", f"{count:,.0f}") for count, stated, right in filled)
    return Part("Calibration", grid=under(("stated %", "right %", "predictions"), rows), sentences=(_verdict(filled),) if filled else ())


def _verdict(filled: Sequence[tuple[float, float, float]]) -> str:
    """From (predictions, mean confidence, share right) of each bin."""
    total = sum(count for count, _, _ in filled)
    stated, right = (100 * sum(row[0] * row[at] for row in filled) / total for at in (1, 2))
    verdict = "overconfident" if stated > right else "too modest"
    return f"Stated confidence is {stated:.1f} % on average and {right:.1f} % are right: {verdict} by {abs(stated - right):.1f} points."


def worst(study: Study) -> Part:
    """The held-out clients with the worst figures, all seeds together."""
    figure = "rmse" if is_regression(study.summary) else "accuracy"
    rows = [row for seed, entry in zip(study.summary["seeds"], study.entries(shipped(study)), strict=False) for row in _clients(seed, entry, figure)]
    by_figure = sorted(rows, key=lambda row: row[figure], reverse=figure == "rmse")[:WORST]
    by_nll = sorted((row for row in rows if row["nll"] is not None), key=lambda row: -row["nll"])[:WORST]
    named = [row for row in by_figure if row not in by_nll] + by_nll
    head = ("client", "seed", "adapted on", "test samples", "accuracy %" if figure == "accuracy" else "RMSE", "NLL")
    sentence = (
        f"The {WORST} worst by {'accuracy' if figure == 'accuracy' else 'RMSE'} and the {WORST} worst by NLL, of {len(rows)} results of clients."
    )
    return Part(
        "Who is served worst", grid=under(head, (_worst_row(row, figure) for row in named)), sentences=(sentence,) if len(rows) > WORST else ()
    )


def _clients(seed: int, entry: Mapping[str, Any], figure: str) -> list[dict[str, Any]]:
    columns = entry["clients"]
    count = len(columns["id"])
    return [{"seed": seed, **{name: columns.get(name, [None] * count)[at] for name in ("id", "support", "n", figure, "nll")}} for at in range(count)]


def _worst_row(row: Mapping[str, Any], figure: str) -> tuple[str, ...]:
    shown = f"{100 * row[figure]:.1f}" if figure == "accuracy" else f"{row[figure]:.3f}"
    unknown = "–"
    return (
        str(row["id"]),
        str(row["seed"]),
        unknown if row["support"] is None else f"{row['support']:,}",
        f"{row['n']:,}",
        shown,
        unknown if row["nll"] is None else f"{row['nll']:.3f}",
    )
