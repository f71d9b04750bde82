"""What an algorithm sends against how well it predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from metabayfl.report.axes import Axis, Frame, draw_axes, linear, log_ticks, padded, vertical
from metabayfl.report.series import Series
from metabayfl.report.svg import Markup, Point, dot, group, line, picture, text

LETTER = 6.7
Box = tuple[float, float, float, float]


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
    return picture(width, 340.0, told, axes, *whiskers, *dots, _labels(marks, places, frame))


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
    """Each name at the first free place around its dot: right, left, above, below, and further off."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    parts = []
    for mark, (x, y) in zip(marks, places, strict=True):
        box = _free(x, y, LETTER * len(mark.look.name), taken, frame)
        taken.append(box)
        parts.append(text(box[0], box[3] - 3, mark.look.name, "name"))
    return group(*parts)


def _free(x: float, y: float, width: float, taken: Sequence[Box], frame: Frame) -> Box:
    spots: list[Box] = []
    for far in (0.0, 14.0, 28.0, 42.0):
        starts = [(x + 10, y + 5), (x - width - 10, y + 5), (x - width / 2, y - 10), (x - width / 2, y + 20)]
        spots += [
            (left, base + shift - 11, left + width, base + shift + 3) for left, base in starts for shift in ((0.0,) if not far else (-far, far))
        ]
    inside = [box for box in spots if box[0] >= frame.left and box[2] <= frame.right + 12 and box[1] >= frame.top - 8 and box[3] <= frame.bottom]
    return next((box for box in inside if not any(_overlap(box, other) for other in taken)), (inside or spots)[0])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
