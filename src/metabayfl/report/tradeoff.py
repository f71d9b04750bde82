"""What an algorithm sends against how well it predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from metabayfl.report import key
from metabayfl.report.axes import Axis, Frame, draw_axes, linear, log_ticks, padded, spread, vertical
from metabayfl.report.series import Series
from metabayfl.report.svg import Markup, Point, curve, dot, group, line, picture, text

LETTER = 6.7
ROOM = 560
"""Pictures at least so wide have names beside their dots."""
NEAR = 40.0
"""Dots so near to each other on the axis of bytes share a column of names, pixels."""


class Mark(NamedTuple):
    """One algorithm: bytes per client-round both ways together, mean NLL and its standard deviation over seeds."""

    look: Series
    size: float
    nll: float
    sd: float


def size_text(count: float) -> str:
    """Bytes in a reader's unit.

    Example:
        >>> size_text(0), size_text(512), size_text(6860), size_text(2.5e6)
        ('0', '512 B', '6.9 KB', '2.5 MB')
    """
    for limit, unit in ((1e6, "MB"), (1e3, "KB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}" if count >= 100 * limit else f"{count / limit:.2g} {unit}"
    return f"{count:.0f} B" if count else "0"


def tradeoff_chart(marks: Sequence[Mark], width: float) -> Markup:
    """NLL against bytes on a logarithmic axis; what sends nothing stands at the left edge."""
    frame = Frame(56.0, 30.0, width - 16.0, 294.0)
    x = _bytes_axis([mark.size for mark in marks], frame)
    y = vertical(padded([edge for mark in marks for edge in (mark.nll - mark.sd, mark.nll + mark.sd)], 0.1), frame)
    places = [(x.at(mark.size), y.at(mark.nll)) for mark in marks]
    whiskers = [
        line((place[0], y.at(mark.nll - mark.sd)), (place[0], y.at(mark.nll + mark.sd)), f"stroke thin {mark.look.css}")
        for mark, place in zip(marks, places, strict=True)
    ]
    dots = [
        dot(*place, 6.0, f"fill ring {mark.look.css}", f"{mark.look.name}: {size_text(mark.size)}, NLL {mark.nll:.3f} ± {mark.sd:.3f}")
        for mark, place in zip(marks, places, strict=True)
    ]
    told = "NLL against bytes sent and received by a client in a round, for each algorithm"
    axes = draw_axes(frame, x, y, "bytes a client sends and receives in a round (log)", "NLL, nats")
    if width >= ROOM:
        return picture(width, 340.0, told, axes, *whiskers, _labels(marks, places, frame), *dots)
    names = key.key([mark.look for mark in marks], width, 348.0, lambda left, middle, css: dot(left + 10, middle, 6.0, f"fill {css}"))
    return picture(width, 348.0 + key.STEP * key.rows(len(marks)), told, axes, *whiskers, *dots, names)


def _bytes_axis(sizes: Sequence[float], frame: Frame) -> Axis:
    positive = [size for size in sizes if size > 0]
    low, high = math.log10(min(positive, default=1e3)) - 0.25, math.log10(max(positive, default=1e5)) + 0.25
    start = frame.left + (70.0 if len(positive) < len(sizes) else 14.0)
    scale = linear((low, high), (start, frame.right - 14.0))
    marks = log_ticks(10**low, 10**high)
    return Axis(
        lambda size: scale(math.log10(size)) if size > 0 else frame.left + 16.0, ((0.0,) if len(positive) < len(sizes) else ()) + marks, size_text
    )


def _labels(marks: Sequence[Mark], places: Sequence[Point], frame: Frame) -> Markup:
    """Names beside the dots; dots of nearly the same size share a column of names, with a thin line to each."""
    return group(*(_column([marks[at] for at in cluster], [places[at] for at in cluster], places, frame) for cluster in _clusters(places)))


def _clusters(places: Sequence[Point]) -> list[list[int]]:
    order = sorted(range(len(places)), key=lambda at: places[at][0])
    clusters: list[list[int]] = []
    for at in order:
        if clusters and places[at][0] - places[clusters[-1][-1]][0] < NEAR:
            clusters[-1].append(at)
        else:
            clusters.append([at])
    return clusters


def _column(marks: Sequence[Mark], own: Sequence[Point], every: Sequence[Point], frame: Frame) -> Markup:
    width = LETTER * max(len(mark.look.name) for mark in marks)
    heights = spread([y for _, y in own], 16.0, frame.top, frame.bottom - 6.0)
    right, left = max(x for x, _ in own) + 16.0, min(x for x, _ in own) - 16.0
    column = (
        (right, right + width) if _hidden(right, right + width, heights, every, frame) <= _hidden(left - width, left, heights, every, frame) else None
    )
    start, anchor = (right, "start") if column else (left, "end")
    towards = start - 3.0 if column else start + 3.0
    lines = [curve([place, (towards, height)], f"leader {mark.look.css}") for mark, place, height in zip(marks, own, heights, strict=True)]
    return group(*lines, *(text(start, height + 4, mark.look.name, "name", anchor) for mark, height in zip(marks, heights, strict=True)))


def _hidden(left: float, right: float, heights: Sequence[float], every: Sequence[Point], frame: Frame) -> float:
    """How bad a column of names stands: dots under its names, and pixels outside the frame."""
    covered = sum(left - 6 < x < right + 6 and abs(y - height) < 12 for x, y in every for height in heights)
    return covered + max(0.0, frame.left - left) + max(0.0, right - frame.right - 14.0)
