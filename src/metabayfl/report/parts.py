"""Pieces of the page: sections, tables, tiles, and pictures that come in two widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from metabayfl.report import words
from metabayfl.report.series import Series
from metabayfl.report.svg import NOTHING, Markup, element, escape, join
from metabayfl.report.table import Column, Row, Table

WIDE, NARROW = 1040.0, 340.0


def paragraph(text: object, css: str | None = None) -> Markup:
    """A paragraph of plain text."""
    return element("p", escape(text), class_=css)


def section(said: words.Words, *content: Markup) -> Markup:
    """A heading, what is shown, the content, and how to read it."""
    head = element("h2", escape(said.heading))
    return element("section", head, paragraph(said.shown, "shown"), *content, paragraph(said.reading, "reading"))


def both(draw: Callable[[float], Markup]) -> Markup:
    """A picture drawn for wide and for narrow windows; the style sheet shows one, so that letters keep their size."""
    return element("div", element("div", draw(WIDE), class_="wide"), element("div", draw(NARROW), class_="narrow"), class_="chart")


def gallery(pictures: Sequence[Markup]) -> Markup:
    """Small multiples, as many side by side as there is room for."""
    return element("div", *pictures, class_="gallery") if pictures else paragraph(words.EMPTY, "empty")


def chart(drawn: Sequence[object], draw: Callable[[float], Markup]) -> Markup:
    """A picture of the things drawn, or the plain statement that nothing was kept for it."""
    return both(draw) if drawn else paragraph(words.EMPTY, "empty")


def figures_table(found: Table, looks: Mapping[str, Series], caption: str) -> Markup:
    """One row per algorithm; it scrolls sideways by itself where the window is narrow."""
    head = element("tr", element("th", escape("algorithm"), scope="col"), *(_head(column) for column in found.columns))
    body = [_row(row, looks[row.name]) for row in found.rows]
    inner = element("table", element("caption", escape(caption)), element("thead", head), element("tbody", *body))
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _head(column: Column) -> Markup:
    arrows = {"higher": "↑", "lower": "↓", "near 0.9": "→ 90", "neither": ""}
    told = {"higher": "higher is better", "lower": "lower is better", "near 0.9": "should be 90", "neither": ""}
    mark = element("span", escape(arrows[column.better]), class_="better", title=told[column.better])
    return element("th", escape(column.title + " "), mark, scope="col", title=column.meaning)


def _row(row: Row, look: Series) -> Markup:
    swatch = element("span", class_=f"swatch {look.css}")
    cells = [element("td", *_cell(cell.text, best=cell.best), class_="best" if cell.best else None) for cell in row.cells]
    return element("tr", element("th", swatch, escape(row.name), scope="row"), *cells)


def _cell(text: str, *, best: bool) -> list[Markup]:
    mean, _, sd = text.partition(" ± ")
    parts = [escape(mean)] + ([element("span", escape(f" ± {sd}"), class_="sd")] if sd else [])
    return [element("span", escape("★"), class_="star", role="img", aria_label="best"), *parts] if best else parts


def meanings(title: str, pairs: Sequence[tuple[str, str]]) -> Markup:
    """Words and what they mean, folded away until asked for; nothing for none."""
    rows = [part for word, meaning in pairs for part in (element("dt", escape(word)), element("dd", escape(meaning)))]
    return element("details", element("summary", escape(title)), element("dl", *rows)) if rows else NOTHING


def tile(title: str, name: str, value: str, note: str, look: Series) -> Markup:
    """One headline figure and whose it is."""
    swatch = element("span", class_=f"swatch {look.css}")
    return element(
        "div",
        element("div", escape(title), class_="tile-title"),
        element("div", escape(value), element("span", escape(note), class_="tile-note"), class_="tile-value"),
        element("div", swatch, escape(name), class_="tile-name"),
        class_="tile",
    )


def tiles(parts: Sequence[Markup]) -> Markup:
    """Headline figures side by side."""
    return element("div", join(parts), class_="tiles")
