"""Every held-out client as a dot: how evenly the quality is spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from metabayfl.report.axes import Axis, Frame, horizontal, padded
from metabayfl.report.series import Series
from metabayfl.report.svg import Markup, dot, group, line, picture, text

ROW = 74.0
MOST = 150
"""Dots a row; more clients are thinned evenly, the extremes stay."""


class Clients(NamedTuple):
    """One algorithm's clients: a name and a value each, and their mean and the mean of the worst tenth over seeds."""

    look: Series
    names: tuple[str, ...]
    values: tuple[float, ...]
    mean: float
    tail: float


def clients_chart(rows: Sequence[Clients], width: float, title: str, label: Callable[[float], str]) -> Markup:
    """One row per algorithm, its clients' dots rising from the lowest value to the highest, with the mean and the mean of the worst tenth.

    Args:
        rows: algorithms; one without a client gives an empty row.
        width: pixels.
        title: what is measured.
        label: how a value is written.
    """
    frame = Frame(10.0, 8.0, width - 14.0, 8.0 + ROW * len(rows))
    domain = padded([value for row in rows for value in row.values], 0.04)
    x = horizontal(domain, frame, label, 6 if width > 500 else 4)
    grid = [line((x.at(tick), frame.top), (x.at(tick), frame.bottom), "grid") for tick in x.ticks]
    marks = [text(x.at(tick), frame.bottom + 17, x.label(tick), "tick", "middle") for tick in x.ticks]
    body = [_row(row, x, frame, frame.top + ROW * at, label) for at, row in enumerate(rows)]
    heading = text((frame.left + frame.right) / 2, frame.bottom + 35, title, "title", "middle")
    return picture(width, frame.bottom + 42.0, f"{title}: one dot for every held-out client, a row for each algorithm", *grid, *body, *marks, heading)


def _row(row: Clients, x: Axis, frame: Frame, top: float, label: Callable[[float], str]) -> Markup:
    order = sorted(range(len(row.values)), key=lambda at: row.values[at])
    shown = _thin(order)
    base, rise = top + ROW - 8.0, 40.0
    dots = [
        dot(x.at(row.values[at]), base - 4 - (rise - 8) * place / max(1, len(shown) - 1), 3.2, f"fill thinring {row.look.css}", _told(row, at, label))
        for place, at in enumerate(shown)
    ]
    head = group(dot(frame.left + 5, top + 12, 5.0, f"fill {row.look.css}"), text(frame.left + 16, top + 16, row.look.name, "heading"))
    return group(head, line((frame.left, base), (frame.right, base), "axis"), *dots, _means(row, x, frame, top, base, label))


def _thin(order: list[int]) -> list[int]:
    if len(order) <= MOST:
        return order
    return [order[round(at * (len(order) - 1) / (MOST - 1))] for at in range(MOST)]


def _told(row: Clients, at: int, label: Callable[[float], str]) -> str:
    return f"{row.names[at]}: {label(row.values[at])}"


def _means(row: Clients, x: Axis, frame: Frame, top: float, base: float, label: Callable[[float], str]) -> Markup:
    if not row.values:
        return text(frame.right, top + 16, "no client", "tick", "end")
    words = f"mean {label(row.mean)} · worst tenth {label(row.tail)}"
    marks = ((x.at(row.mean), "median"), (x.at(row.tail), "median dotted"))
    ticks = group(*(line((at, base - 42), (at, base), css) for at, css in marks))
    return group(ticks, text(frame.right, top + 16, words, "tick", "end"))


def worst_tenth(values: Sequence[float], worst: str) -> float:
    """Mean of the worst tenth of the values, at least one.

    Example:
        >>> worst_tenth([0.5, 0.9, 0.8], "low")
        0.5
    """
    ordered = sorted(values, reverse=worst == "high")
    return statistics.fmean(ordered[: max(1, len(ordered) // 10)])
