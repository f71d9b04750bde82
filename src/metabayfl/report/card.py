"""The model card: what the strategy of a study is, how it came about, how well it serves whom, and where its limits are (Mitchell et al. 2019).

Every sentence follows from a number in the study's files; where a file does not know, the card does not say. The card is a list of parts, which
:mod:`metabayfl.report.card_files` writes as Markdown and as a section of the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from metabayfl.report import kept, words
from metabayfl.report.limits import limits
from metabayfl.report.sections import Study
from metabayfl.report.series import Series
from metabayfl.report.table import is_regression, quality, table

SHOWN = 40
"""Names of inputs or classes that are written out; more are counted."""
WORST = 5
"""Clients with the lowest accuracy, and with the highest NLL, that are named."""

COUNTED = {"examples": "by their examples", "uniform": "all alike"}
ROLES = ("training", "validation", "held-out")

Grid = tuple[tuple[str, ...], ...]
"""Rows of text, the titles first."""


class Part(NamedTuple):
    """One heading and what stands under it."""

    heading: str
    facts: tuple[tuple[str, str], ...] = ()
    grid: Grid = ()
    sentences: tuple[str, ...] = ()


def shipped(study: Study) -> str:
    """The algorithm whose strategy the card is about."""
    return str(study.summary["about"]["strategy"]["algorithm"])


def card(study: Study) -> tuple[Part, ...]:
    """All parts, in the order of the convention.

    Raises:
        KeyError: if ``study.summary`` does not say what the strategy is about.
    """
    return (
        details(study),
        use(study),
        data(study),
        training(study),
        protection(study),
        quality_part(study),
        calibration(study),
        worst(study),
        end(study),
    )


def details(study: Study) -> Part:
    """What the strategy is."""
    about = study.summary["about"]["strategy"]
    name = str(about["algorithm"])
    model = ", ".join(_setting(key, value) for key, value in about["model"].items() if key != "name")
    facts = (
        ("algorithm", f"{name}. {words.ALGORITHMS[name]}" if name in words.ALGORITHMS else name),
        ("its arguments", ", ".join(_setting(key, value) for key, value in about["arguments"].items()) or "all as they are by default"),
        ("model", f"{about['model']['name']} ({model})" if model else str(about["model"]["name"])),
        ("size", f"{about['numbers']:,} numbers in {about['bytes']:,} bytes, codec {about['codec']}"),
        ("digest", f"sha256 {about['digest']}"),
        ("seed", str(about["seed"])),
        ("versions", ", ".join(f"{key} {value}" for key, value in study.summary["versions"].items())),
    )
    return Part("Model details", facts)


def _setting(name: str, value: object) -> str:
    return f"{name} = {value}"


def use(study: Study) -> Part:
    """What it was made for, and what it takes and gives."""
    inputs = study.summary["about"]["inputs"]
    outputs = inputs["classes"] or inputs["targets"]
    sizes = sorted({size for entry in study.entries(shipped(study)) for size in entry["clients"].get("support", ())})
    own = f"{_range(sizes[0], sizes[-1])} labelled samples" if sizes else "labelled samples"
    what = "the probability of each class" if inputs["classes"] else "each target's value and an interval around it"
    sentence = (
        f"A client that took no part in training adapts the strategy on {own} of its own, and the model that it gets predicts {what}. "
        "Predictions marked 'refer' are for a person to decide."
    )
    facts = (
        ("inputs", _inputs(inputs)),
        ("classes" if inputs["classes"] else "targets", _names(outputs)),
    )
    return Part("Intended use", facts, sentences=(sentence,))


def _inputs(inputs: Mapping[str, Any]) -> str:
    if inputs["form"] == "table":
        return _names([_feature(item) for item in inputs["features"]])
    return "arrays of " + " x ".join(str(size) for size in inputs["shape"])


def _feature(feature: Mapping[str, Any]) -> str:
    names = feature["categories"]
    return f"{feature['name']} (a category: {_names(names)})" if names else str(feature["name"])


def _names(names: Sequence[object]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(str(name) for name in names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def data(study: Study) -> Part:
    """Whose data trained, chose and judged it; one seed in full, and what differs at the others."""
    seeds = study.summary["about"]["data"]
    head = ("seed", "clients", "how many", "samples", "samples of one")
    rows = tuple(_group(one["seed"], role, one["clients"][role]) for one in seeds for role in ROLES)
    facts = (
        ("study", str(study.summary["title"])),
        ("source", seeds[0]["name"]),
        *((f"fingerprint, seed {one['seed']}", one["fingerprint"]) for one in seeds),
    )
    notes = dict.fromkeys(note for one in seeds for note in one["notes"])
    return Part("Data", facts, (head, *rows), ("Training, validation and held-out clients are disjoint; a seed decides who is which.", *notes))


def _group(seed: int, role: str, group: Mapping[str, int]) -> tuple[str, ...]:
    return str(seed), role, f"{group['clients']:,}", f"{group['samples']:,}", _range(group["fewest"], group["most"])


def training(study: Study) -> Part:
    """How it was trained."""
    about, options = study.summary["about"]["strategy"], study.summary["about"]["training"]
    looked = bool(options["validate_every"]) and bool(study.summary["about"]["data"][0]["clients"]["validation"]["clients"])
    chosen = f"that of round {about['best_round']}, the best on the validation clients" if looked else "the last: no validation client chose it"
    behind = f"; asynchronous, with {_options(options['asynchronous'])}" if options["asynchronous"] else ""
    facts = (
        ("rounds", f"{about['rounds']:,} of at most {options['rounds']:,}, with {options['cohort']:,} clients each at most{behind}"),
        ("strategy kept", chosen),
        ("clients count", COUNTED[options["weighting"]]),
        ("seeds", f"{len(study.summary['seeds'])} ({_names(study.summary['seeds'])})"),
        ("where", "a simulation in one process: no data went from machine to machine"),
    )
    return Part("Training", facts if about["rounds"] else (("rounds", "none: this algorithm sends nothing"), *facts[3:]))


def protection(study: Study) -> Part:
    """Privacy spent, secure aggregation, defences, and attacks that were simulated."""
    about = study.summary["about"]
    options = about["training"]
    spent = tuple((f"privacy spent, seed {one['seed']}", _spent(one)) for one in about["privacy"])
    secure = "none: the server sees each client's message"
    if options["secure"]:
        secure = f"the server sees sums alone ({_options(options['secure'])})" + ("" if options["secure"]["masks"] else "; simulated without masks")
    facts = (
        *(spent or (("privacy spent", "none: nothing bounds what the strategy tells of a client that took part"),)),
        ("secure aggregation", secure),
        ("defence against hostile clients", _options(options["defence"]) if options["defence"] else "none: a plain mean"),
        *((("attack, simulated", _options(options["attack"])),) if options["attack"] else ()),
    )
    return Part("Privacy and security", facts)


def _spent(one: Mapping[str, Any]) -> str:
    text = f"epsilon {one['spent']:.4g} of {one['budget']:g} at delta {one['delta']:g}, in {one['releases']:,} releases"
    seeded = "; the noise came from the seed: a simulation, which protects nobody" if one["source"] == "seeded" else ""
    return f"{text}, for a client with all its samples ({one['mechanism']} noise, {one['sampling']} sampling){seeded}"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(_setting(name, value) for name, value in options.items())


def quality_part(study: Study) -> Part:
    """The figures on held-out clients, what referring buys, and the other algorithms of the study."""
    found = table(study.summary, quality(study.summary))
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
        return Part("Calibration", grid=(("promised %", "inside %"), *((f"{100 * at:.0f}", f"{100 * up:.1f}") for at, up in line.points)))
    bins = kept.bins(entries)
    filled = [row for row in zip(bins.examples, bins.confidence, bins.accuracy, strict=True) if row[0]]
    rows = tuple((f"{100 * stated:.1f}", f"{100 * right:.1f}", f"{count:,.0f}") for count, stated, right in filled)
    return Part("Calibration", grid=(("stated %", "right %", "predictions"), *rows), sentences=(_verdict(filled),) if filled else ())


def _verdict(filled: Sequence[tuple[float, float, float]]) -> str:
    """From (predictions, mean confidence, share right) of each bin."""
    total = sum(count for count, _, _ in filled)
    stated, right = (100 * sum(row[0] * row[at] for row in filled) / total for at in (1, 2))
    verdict = "overconfident" if stated > right else "too modest"
    return f"Stated confidence is {stated:.1f} % on average and {right:.1f} % are right: {verdict} by {abs(stated - right):.1f} points."


def worst(study: Study) -> Part:
    """The held-out clients with the worst figures, all seeds together."""
    figure = "rmse" if is_regression(study.summary) else "accuracy"
    rows = [row for seed, entry in zip(study.summary["seeds"], study.entries(shipped(study)), strict=True) for row in _clients(seed, entry, figure)]
    by_figure = sorted(rows, key=lambda row: row[figure], reverse=figure == "rmse")[:WORST]
    by_nll = sorted((row for row in rows if row["nll"] is not None), key=lambda row: -row["nll"])[:WORST]
    named = [row for row in by_figure if row not in by_nll] + by_nll
    head = ("client", "seed", "adapted on", "test samples", "accuracy %" if figure == "accuracy" else "RMSE", "NLL")
    sentence = (
        f"The {WORST} worst by {'accuracy' if figure == 'accuracy' else 'RMSE'} and the {WORST} worst by NLL, of {len(rows)} results of clients."
    )
    return Part("Who is served worst", grid=(head, *(_worst_row(row, figure) for row in named)), sentences=(sentence,) if len(rows) > WORST else ())


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


def end(study: Study) -> Part:
    """What the study does not show."""
    return Part("Limits", sentences=limits(study, shipped(study)))
