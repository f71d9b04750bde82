"""The report: one HTML file that needs nothing else, neither a network nor scripts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from metabayfl.report import parts, words
from metabayfl.report.card_files import card_section
from metabayfl.report.sections import Study, page_sections
from metabayfl.report.svg import Markup, element, escape, join
from metabayfl.report.table import Column, Table, algorithms, is_regression, quality, table
from metabayfl.report.tradeoff import size_text


def report_page(study: Study) -> Markup:
    """The page as text."""
    title = f"{study.summary.get('title', 'Study')}: personal models for clients never seen before"
    return document(title, _header(study, title), _tiles(study), page_sections(study), card_section(study), _footer(study))


def document(title: str, *content: Markup) -> Markup:
    """A whole page: the head, the style, and the content."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", escape(title)),
        element("style", _style()),
    )
    body = element("body", element("main", *content))
    return Markup(f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n")


def _style() -> Markup:
    return Markup(resources.files("metabayfl.report").joinpath("style.css").read_text(encoding="utf-8"))


def _header(study: Study, title: str) -> Markup:
    seeds = study.summary.get("seeds") or ()
    held: Mapping[str, Any] = next((entries[0]["clients"] for entries in study.figures.values() if entries), {"id": [], "n": []})
    facts = [
        f"{len(study.order)} algorithms",
        f"{len(seeds)} seeds ({', '.join(str(seed) for seed in seeds)})" if seeds else "",
        f"{len(held['id'])} held-out clients with {sum(held['n']):,} test samples a seed" if held["id"] else "",
    ]
    notes = [parts.paragraph(note, "facts") for note in study.summary.get("notes") or ()]
    return element("header", element("h1", escape(title)), parts.paragraph(" · ".join(fact for fact in facts if fact), "facts"), *notes)


def _tiles(study: Study) -> Markup:
    found = table(study.summary, quality(study.summary))
    chosen = ("rmse", "nll", "coverage_90") if is_regression(study.summary) else ("accuracy", "nll", "ece", "auroc_unseen")
    headings = {
        "accuracy": "Right most often (accuracy)",
        "nll": "Least surprised by the truth (NLL)",
        "ece": "Most honest confidence (ECE)",
        "auroc_unseen": "Best at noticing new classes (AUROC)",
        "rmse": "Smallest errors (RMSE)",
        "coverage_90": "Most honest intervals (in 90 %)",
    }
    shown = [_tile(study, found, column, headings[column.key]) for column in found.columns if column.key in chosen]
    return parts.tiles([*shown, *_smallest(study)])


def _tile(study: Study, found: Table, column: Column, heading: str) -> Markup:
    at = found.columns.index(column)
    winners = [row for row in found.rows if row.cells[at].best] or list(found.rows)[:1]
    names = ", ".join(row.name for row in winners)
    mean, sign, sd = winners[0].cells[at].text.partition(" ± ")
    unit = " %" if column.factor == 100 else ""
    return parts.tile(heading, names, mean + unit, sign + sd, study.looks[winners[0].name])


def _smallest(study: Study) -> list[Markup]:
    """The algorithm that sends least, of those that send anything."""
    sizes = {name: (entry["mean"].get("bytes_up") or 0) + (entry["mean"].get("bytes_down") or 0) for name, entry in algorithms(study.summary).items()}
    sending = {name: size for name, size in sizes.items() if size > 0}
    if not sending:
        return []
    name = min(sending, key=lambda one: sending[one])
    return [parts.tile("Smallest messages (both ways)", name, size_text(sending[name]), " a round", study.looks[name])]


def _footer(study: Study) -> Markup:
    versions = study.summary.get("versions") or {}
    said = " · ".join(f"{name} {version}" for name, version in versions.items())
    return element("footer", join([parts.paragraph(words.METHOD), parts.paragraph(said)]))
