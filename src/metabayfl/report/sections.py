"""The sections of the page, one function a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from metabayfl.report import kept, parts, words
from metabayfl.report.axes import padded
from metabayfl.report.clients import clients_chart
from metabayfl.report.curves import Line, coverage_chart, learning_chart, referral_chart
from metabayfl.report.panels import points_panel, reliability_panel, spread_panel
from metabayfl.report.series import Series, by_mean, series
from metabayfl.report.svg import NOTHING, Markup, element, escape, join
from metabayfl.report.table import COST, PROMISES, Table, algorithms, is_regression, quality, table
from metabayfl.report.tradeoff import Mark, tradeoff_chart

POINTS = 120
"""Points of one predicted-against-true panel."""


class Study(NamedTuple):
    """Everything that the page is made of; algorithms stand in the order of rising NLL."""

    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    figures: Mapping[str, kept.Entries]
    looks: Mapping[str, Series]
    order: tuple[str, ...]

    def entries(self, name: str) -> kept.Entries:
        """What was kept of one algorithm, a seed each."""
        return self.figures.get(name, ())


def gathered(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], figures: Mapping[str, kept.Entries]) -> Study:
    """A study from the content of its three files.

    Args:
        summary: ``summary.json``: ``algorithms``, and ``title``, ``seeds``, ``notes`` (sentences), ``versions`` and ``about``
            (:mod:`metabayfl.provenance`) where given.
        rows: ``metrics.jsonl``: ``algorithm``, ``seed``, ``round``, ``loss``, and ``validation`` in rounds that looked.
        figures: ``figures.json``: a list per algorithm with an entry a seed (:mod:`metabayfl.evaluation.pictures`).

    Raises:
        ArtifactError: if the summary has no algorithms.
    """
    found = algorithms(summary)
    return Study(summary, rows, figures, series(found), tuple(by_mean(found, "nll")))


def page_sections(study: Study) -> Markup:
    """All sections, in reading order."""
    special = regression_sections if is_regression(study.summary) else classification_sections
    return join([comparison(study), learning(study), *special(study), promises(study), tradeoff(study), cost(study)])


def classification_sections(study: Study) -> list[Markup]:
    """Pictures of class predictions."""
    return [reliability(study), clients(study), uncertainty(study), epistemic(study), referral(study)]


def regression_sections(study: Study) -> list[Markup]:
    """Pictures of real-valued predictions."""
    return [points(study), coverage(study), client_errors(study)]


def comparison(study: Study) -> Markup:
    """The table of quality."""
    found = table(study.summary, quality(study.summary))
    told = [(row.name, words.ALGORITHMS[row.name]) for row in found.rows if row.name in words.ALGORITHMS]
    return parts.section(
        words.TABLE,
        parts.figures_table(found, study.looks, "Quality on held-out clients"),
        parts.meanings("What the columns mean", _meanings(found)),
        parts.meanings("What the algorithms do", told),
    )


def _meanings(found: Table) -> list[tuple[str, str]]:
    return [(column.title, column.meaning) for column in found.columns]


def promises(study: Study) -> Markup:
    """The table of prediction sets and intervals."""
    found = table(study.summary, PROMISES)
    if not found.columns:
        return NOTHING
    shown = parts.figures_table(found, study.looks, "Prediction sets")
    return parts.section(words.PROMISES, shown, parts.meanings("What the columns mean", _meanings(found)))


def cost(study: Study) -> Markup:
    """The table of bytes and seconds."""
    found = table(study.summary, COST)
    if not found.columns:
        return NOTHING
    return parts.section(words.COST, parts.figures_table(found, study.looks, "Cost"), parts.meanings("What the columns mean", _meanings(found)))


def learning(study: Study) -> Markup:
    """Validation loss by round, and the training loss."""
    return join(
        [_learning(study, "validation", words.LEARNING, "validation NLL, nats"), _learning(study, "loss", words.TRAINING_LOSS, "training loss")]
    )


def _learning(study: Study, name: str, said: words.Words, y_title: str) -> Markup:
    lines = [kept.learning(study.looks[one], study.rows, name) for one in study.order]
    drawn = [line for line in lines if line.points]
    return parts.section(said, parts.chart(drawn, lambda width: learning_chart(drawn, width, y_title)))


def reliability(study: Study) -> Markup:
    """A reliability diagram per algorithm."""
    found = {name: kept.bins(study.entries(name)) for name in study.order}
    pictures = [reliability_panel(study.looks[name], one, _note(study, name, "ece", "ECE", 100, " %")) for name, one in found.items() if one.examples]
    return parts.section(words.RELIABILITY, parts.gallery(pictures))


def _note(study: Study, name: str, key: str, title: str, factor: float, unit: str) -> str:
    value = algorithms(study.summary)[name]["mean"].get(key)
    return "" if value is None else f"{title} {value * factor:.1f}{unit}"


def clients(study: Study) -> Markup:
    """Accuracy of every held-out client."""
    return _client_rows(study, words.CLIENTS, "accuracy", "accuracy on a client's own test samples", lambda value: f"{100 * value:.3g} %", "low")


def client_errors(study: Study) -> Markup:
    """RMSE of every held-out client."""
    return _client_rows(study, words.CLIENT_ERRORS, "rmse", "RMSE on a client's own test samples", lambda value: f"{value:.3g}", "high")


def _client_rows(study: Study, said: words.Words, name: str, title: str, label: Callable[[float], str], worst: str) -> Markup:
    rows = [kept.clients(study.looks[one], study.entries(one), name, worst) for one in study.order]
    rows = [row for row in rows if row.values]
    return parts.section(said, parts.chart(rows, lambda width: clients_chart(rows, width, title, label)))


def uncertainty(study: Study) -> Markup:
    """Total uncertainty of right, wrong and unseen-class predictions."""
    return parts.section(words.UNCERTAINTY, _ridges(study, "total", "entropy, nats"))


def epistemic(study: Study) -> Markup:
    """The epistemic part, where there is one."""
    if not any(kept.has(study.entries(name), "epistemic") for name in study.order):
        return NOTHING
    return parts.section(words.EPISTEMIC, _ridges(study, "epistemic", "mutual information, nats"))


def _ridges(study: Study, kind: str, unit: str) -> Markup:
    names = [name for name in study.order if kept.has(study.entries(name), kind)]
    high = max((kept.highest(study.entries(name), kind) for name in names), default=0.0) or 1.0
    panels = [
        spread_panel(study.looks[name], kept.spreads(study.entries(name), kind, high), high, unit, _auroc_of(study, name, kind)) for name in names
    ]
    return parts.gallery(panels)


def _auroc_of(study: Study, name: str, kind: str) -> str:
    """The AUROC beside the uncertainty that it was computed from."""
    used = "epistemic" if kept.has(study.entries(name), "epistemic") else "total"
    return _note(study, name, "auroc_unseen", "unseen AUROC", 100, " %") if kind == used else ""


def referral(study: Study) -> Markup:
    """Accuracy against the share referred."""
    lines = [kept.curve(study.looks[name], study.entries(name), "referral", "referred", "accuracy") for name in study.order]
    lines = [line._replace(points=tuple(point for point in line.points if point[0] <= 0.6)) for line in lines]
    return parts.section(words.REFERRAL, _chart_of(lines, referral_chart))


def coverage(study: Study) -> Markup:
    """Coverage by nominal level."""
    lines = [kept.curve(study.looks[name], study.entries(name), "coverage", "nominal", "observed") for name in study.order]
    return parts.section(words.COVERAGE, _chart_of(lines, coverage_chart))


def _chart_of(lines: Sequence[Line], draw: Callable[[Sequence[Line], float], Markup]) -> Markup:
    drawn = [line for line in lines if line.points]
    return parts.chart(drawn, lambda width: draw(drawn, width))


def points(study: Study) -> Markup:
    """Predicted against true, a gallery per target."""
    first = {name: study.entries(name)[0].get("points", ()) for name in study.order if study.entries(name)}
    targets = list(dict.fromkeys(str(one["target"]) for found in first.values() for one in found))
    galleries = [_target(study, first, target) for target in targets]
    return parts.section(words.POINTS, *galleries) if galleries else parts.section(words.POINTS, parts.gallery([]))


def _target(study: Study, first: Mapping[str, Sequence[Mapping[str, Any]]], target: str) -> Markup:
    own = {name: one for name, found in first.items() for one in found if str(one["target"]) == target}
    domain = padded([value for one in own.values() for value in one["true"]], 0.08)
    rows = {name: _rows(one) for name, one in own.items()}
    panels = [points_panel(study.looks[name], found, domain, "value", f"{len(found)} test samples") for name, found in rows.items()]
    return join([element("h3", escape(target)), parts.gallery(panels)])


def _rows(one: Mapping[str, Any]) -> list[tuple[float, float, float, float]]:
    rows = list(zip(one["true"], one["mean"], one["low"], one["high"], strict=True))
    return rows if len(rows) <= POINTS else [rows[round(at * (len(rows) - 1) / (POINTS - 1))] for at in range(POINTS)]


def tradeoff(study: Study) -> Markup:
    """NLL against bytes."""
    marks = [mark for name in study.order if (mark := _mark(study, name)) is not None]
    return parts.section(words.TRADEOFF, parts.chart(marks, lambda width: tradeoff_chart(marks, width)))


def _mark(study: Study, name: str) -> Mark | None:
    entry = algorithms(study.summary)[name]
    sizes, nll = (entry["mean"].get("bytes_up"), entry["mean"].get("bytes_down")), entry["mean"].get("nll")
    if nll is None or sizes[0] is None or sizes[1] is None:
        return None
    return Mark(study.looks[name], sizes[0] + sizes[1], nll, entry.get("sd", {}).get("nll") or 0.0)
