"""Small multiples: one little picture per algorithm, on common axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from metabayfl.report.axes import Frame, draw_axes, horizontal, percent, short, vertical
from metabayfl.report.series import Series
from metabayfl.report.svg import NOTHING, Markup, Point, area, curve, dot, group, line, picture, rect, text

WIDTH = 254.0


class Bins(NamedTuple):
    """A reliability diagram: examples, mean confidence and accuracy of each bin."""

    examples: tuple[float, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


class Spread(NamedTuple):
    """How a quantity is distributed over one group of predictions."""

    name: str
    examples: int
    median: float | None
    heights: tuple[float, ...]  # relative density in equal bins of the common domain, the highest is 1; empty for no example


def reliability_panel(look: Series, bins: Bins, note: str) -> Markup:
    """Accuracy against confidence with the diagonal of perfect calibration, and below it how many predictions each bin holds."""
    frame = Frame(48.0, 64.0, WIDTH - 12, 244.0)
    x, y = horizontal((0.0, 1.0), frame, percent, 4), vertical((0.0, 1.0), frame, percent, 4)
    filled = [at for at in range(len(bins.examples)) if bins.examples[at]]
    parts = [_bar(frame, bins, at, look) for at in filled]
    points = [dot(x.at(bins.confidence[at]), y.at(bins.accuracy[at]), _radius(bins, at), f"fill ring {look.css}") for at in filled]
    ideal = line((x.at(0), y.at(0)), (x.at(1), y.at(1)), "ideal")
    described = f"Reliability diagram of {look.name}: accuracy against stated confidence, {note}"
    axes = draw_axes(frame, x, y, "confidence stated", "accuracy")
    return picture(WIDTH, 348.0, described, _heading(look, note), axes, *parts, ideal, *points, _counts(frame, bins, look), css="panel")


def _heading(look: Series, note: str) -> Markup:
    return group(dot(7.0, 11.0, 5.0, f"fill {look.css}"), text(18.0, 15.0, look.name, "heading"), text(18.0, 31.0, note, "tick"))


def _span(frame: Frame, bins: Bins, at: int) -> tuple[float, float]:
    width = (frame.right - frame.left) / len(bins.examples)
    return frame.left + at * width + 0.75, width - 1.5


def _radius(bins: Bins, at: int) -> float:
    """The dot's area grows with the share of predictions, so that a bin of three does not look like a bin of three hundred."""
    return 2.0 + 5.0 * math.sqrt(bins.examples[at] / sum(bins.examples))


def _bar(frame: Frame, bins: Bins, at: int, look: Series) -> Markup:
    left, width = _span(frame, bins, at)
    height = bins.accuracy[at] * (frame.bottom - frame.top)
    told = (
        f"{bins.examples[at]:.0f} predictions, confidence {percent(round(bins.confidence[at], 3))}, accuracy {percent(round(bins.accuracy[at], 3))}"
    )
    return rect(left, frame.bottom - height, width, height, f"soft {look.css}", told)


def _counts(frame: Frame, bins: Bins, look: Series) -> Markup:
    """Numbers of predictions by bin, hanging from one base line."""
    top, deep, most = frame.bottom + 46.0, 34.0, max(bins.examples, default=0.0)
    bars = []
    for at, count in enumerate(bins.examples):
        left, width = _span(frame, bins, at)
        height = deep * count / max(most, 1.0)
        bars.append(rect(left, top + deep - height, width, height, f"soft {look.css}", f"{count:.0f} predictions"))
    base = line((frame.left, top + deep), (frame.right, top + deep), "axis")
    return group(*bars, base, text(frame.left, top + deep + 15, f"how many (tallest {short(float(most))})", "tick"))


def spread_panel(look: Series, groups: Sequence[Spread], high: float, unit: str, note: str) -> Markup:
    """Distributions of one quantity over groups of predictions, one under the other on one axis from 0 to ``high``."""
    frame = Frame(92.0, 30.0, WIDTH - 12, 30.0 + 62.0 * len(groups))
    x = horizontal((0.0, high), frame, short, 4)
    rows = [_ridge(one, frame, frame.top + 62.0 * (at + 1), at) for at, one in enumerate(groups)]
    medians = [_median(one, x.at(one.median), frame.top + 62.0 * (at + 1)) for at, one in enumerate(groups) if one.median is not None]
    marks = [text(x.at(tick), frame.bottom + 17, x.label(tick), "tick", "middle") for tick in x.ticks]
    title = text((frame.left + frame.right) / 2, frame.bottom + 35, unit, "title", "middle")
    told = "; ".join(f"{one.name} median {one.median:.3g}" for one in groups if one.median is not None)
    described = f"Distribution of {unit} for {look.name}: {told}"
    return picture(WIDTH, frame.bottom + 42.0, described, _heading(look, note), *rows, *medians, *marks, title, css="panel")


def _ridge(one: Spread, frame: Frame, base: float, at: int) -> Markup:
    step = (frame.right - frame.left) / max(1, len(one.heights))
    top: list[Point] = [(frame.left + (place + 0.5) * step, base - 46.0 * height) for place, height in enumerate(one.heights)]
    shape = [(frame.left, base), *top, (frame.right, base)] if top else []
    label = group(text(frame.left - 8, base - 16, one.name, "label", "end"), text(frame.left - 8, base - 2, f"{one.examples:,}", "tick", "end"))
    return group(area(shape, f"soft g{at}"), curve(top, f"stroke thin g{at}"), line((frame.left, base), (frame.right, base), "axis"), label)


def _median(one: Spread, x: float, base: float) -> Markup:
    return line((x, base - 48), (x, base), "median") if one.heights else NOTHING


def points_panel(look: Series, points: Sequence[tuple[float, float, float, float]], domain: tuple[float, float], unit: str, note: str) -> Markup:
    """Predicted against true values with their intervals; ``points`` are ``(true, mean, low, high)``."""
    frame = Frame(56.0, 64.0, WIDTH - 12, 264.0)
    x, y = horizontal(domain, frame, short, 4), vertical(domain, frame, short, 4)
    low, high = domain

    def up(value: float) -> float:
        return y.at(min(max(value, low), high))

    bars = [line((x.at(true), up(bottom)), (x.at(true), up(top)), f"interval {look.css}") for true, _, bottom, top in points]
    dots = [dot(x.at(true), up(mean), 2.2, f"fill {look.css}") for true, mean, _, _ in points]
    ideal = line((x.at(low), y.at(low)), (x.at(high), y.at(high)), "ideal")
    described = f"Predicted against true {unit} of {look.name} with 90 % intervals, {note}"
    return picture(
        WIDTH, 308.0, described, _heading(look, note), draw_axes(frame, x, y, f"true {unit}", "predicted"), *bars, ideal, *dots, css="panel"
    )
