"""Scales, ticks, the frame of a plot, and labels that keep out of each other's way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from metabayfl.report.svg import Markup, group, line, text

Scale = Callable[[float], float]


class Frame(NamedTuple):
    """The rectangle of a plot inside its picture, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Axis(NamedTuple):
    """From data to pixels along one side, with the values to mark."""

    at: Scale
    ticks: tuple[float, ...]
    label: Callable[[float], str]


def linear(domain: tuple[float, float], pixels: tuple[float, float]) -> Scale:
    """A straight map; a domain of one value goes to the middle.

    Example:
        >>> linear((0, 10), (100, 200))(5)
        150.0
    """
    low, high = domain
    if high == low:
        return lambda value: (pixels[0] + pixels[1]) / 2
    return lambda value: pixels[0] + (value - low) / (high - low) * (pixels[1] - pixels[0])


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Round values inside ``[low, high]``, about ``count`` of them, in steps of 1, 2 or 5 times a power of ten.

    Example:
        >>> ticks(0, 1)
        (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    if not high > low:
        return (low,)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return tuple(dict.fromkeys(round(step * at, digits) for at in range(first, last + 1)))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Powers of ten inside ``[low, high]``, with 2 and 5 between where they are few.

    Example:
        >>> log_ticks(800, 120000)
        (1000.0, 10000.0, 100000.0)
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 2, 5)):
        found = tuple(part * 10.0**power for power in powers for part in parts if low <= part * 10.0**power <= high)
        if len(found) > 2:
            break
    return found


def short(value: float) -> str:
    """A tick's number.

    Example:
        >>> short(0.25), short(20.0), short(1500.0), short(0.00001), short(2500000.0)
        ('0.25', '20', '1,500', '1e-05', '2.5e+06')
    """
    return f"{value:,.10g}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def percent(value: float) -> str:
    """A share as a percentage.

    Example:
        >>> percent(0.2)
        '20 %'
    """
    return f"{100 * value:.4g} %"


def horizontal(domain: tuple[float, float], frame: Frame, label: Callable[[float], str] = short, count: int = 5) -> Axis:
    """A linear axis along the bottom."""
    return Axis(linear(domain, (frame.left, frame.right)), ticks(*domain, count), label)


def vertical(domain: tuple[float, float], frame: Frame, label: Callable[[float], str] = short, count: int = 5) -> Axis:
    """A linear axis up the left side."""
    return Axis(linear(domain, (frame.bottom, frame.top)), ticks(*domain, count), label)


def padded(values: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """A domain around the values with some air; ``(0, 1)`` for none."""
    known = list(values)
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    air = (high - low) * share or max(abs(high), 1.0) * share
    return low - air, high + air


def draw_axes(frame: Frame, x: Axis, y: Axis, x_title: str, y_title: str) -> Markup:
    """Grid lines, tick labels, and titles: below the plot for x, above its left corner for y, where nobody has to tilt the head."""
    across = [line((frame.left, y.at(tick)), (frame.right, y.at(tick)), "grid") for tick in y.ticks]
    heights = [text(frame.left - 6, y.at(tick) + 4, y.label(tick), "tick", "end") for tick in y.ticks]
    marks = [line((x.at(tick), frame.bottom), (x.at(tick), frame.bottom + 4), "axis") for tick in x.ticks]
    below = [text(x.at(tick), frame.bottom + 17, x.label(tick), "tick", "middle") for tick in x.ticks]
    base = line((frame.left, frame.bottom), (frame.right, frame.bottom), "axis")
    titles = [
        text((frame.left + frame.right) / 2, frame.bottom + 35, x_title, "title", "middle"),
        text(max(0.0, frame.left - 40), frame.top - 12, y_title, "title"),
    ]
    return group(*across, base, *marks, *heights, *below, *titles)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least ``gap`` apart and inside ``[low, high]`` as far as there is room; in the order given.

    Example:
        >>> spread([10, 11, 50], 12, 0, 100)
        [4.5, 16.5, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    blocks: list[list[float]] = []  # each: sum of (wanted - own offset), members; labels that would touch merge and share one shift
    for at in order:
        blocks.append([wanted[at], 1.0])
        while len(blocks) > 1 and _start(blocks[-2], gap, low, high) + blocks[-2][1] * gap > _start(blocks[-1], gap, low, high):
            total, members = blocks.pop()
            blocks[-1][0] += total - members * blocks[-1][1] * gap
            blocks[-1][1] += members
    placed = [_start(block, gap, low, high) + step * gap for block in blocks for step in range(int(block[1]))]
    return [placed[order.index(at)] for at in range(len(wanted))]


def _start(block: list[float], gap: float, low: float, high: float) -> float:
    return max(low, min(block[0] / block[1], high - (block[1] - 1) * gap))
