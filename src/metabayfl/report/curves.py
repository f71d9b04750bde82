"""Line charts: one line per algorithm, named at its end where there is room and in a key below where there is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from metabayfl.report import key
from metabayfl.report.axes import Axis, Frame, draw_axes, horizontal, percent, short, spread, vertical
from metabayfl.report.series import Series
from metabayfl.report.svg import NOTHING, Markup, Point, curve, group, line, picture, text

ROOM = 560
"""Pictures at least so wide have names at the ends of their lines."""
LETTER = 6.7
"""Width of a letter of a label, pixels."""


class Line(NamedTuple):
    """One algorithm's curve in data units."""

    look: Series
    points: tuple[Point, ...]


class Plot(NamedTuple):
    """What a line chart shows besides its lines."""

    description: str
    x_title: str
    y_title: str
    x_domain: tuple[float, float]
    y_domain: tuple[float, float]
    x_label: Callable[[float], str] = short
    y_label: Callable[[float], str] = short
    ideal: tuple[Point, Point] | None = None  # a dashed line to compare with
    height: float = 340.0


def line_chart(lines: Sequence[Line], plot: Plot, width: float) -> Markup:
    """The chart at one width. Values beyond the domain run along the frame's edge.

    Args:
        lines: curves; one without points is left out.
        plot: titles, domains and formats.
        width: pixels; decides where the names stand.
    """
    drawn = [one for one in lines if one.points]
    named = width >= ROOM
    right = max((len(one.look.name) for one in drawn), default=0) * LETTER + 56 if named else 14.0
    below = 0.0 if named else 8.0 + key.STEP * key.rows(len(drawn))
    frame = Frame(48.0, 30.0, width - right, plot.height - 46.0)
    x = horizontal(plot.x_domain, frame, plot.x_label, count=5 if named else 4)
    y = vertical(plot.y_domain, frame, plot.y_label)
    paths = [_pixels(one, x, y, plot) for one in drawn]
    body = [curve(points, f"stroke {one.look.css}") for one, points in zip(drawn, paths, strict=True)]
    names = _end_labels(drawn, paths, frame) if named else _key(drawn, paths, width, plot.height + 8.0)
    return picture(
        width,
        plot.height + below,
        plot.description,
        draw_axes(frame, x, y, plot.x_title, plot.y_title),
        _ideal(plot, x, y),
        *body,
        names,
    )


def _pixels(one: Line, x: Axis, y: Axis, plot: Plot) -> list[Point]:
    low, high = plot.y_domain
    return [(x.at(across), y.at(min(max(up, low), high))) for across, up in one.points]


def _ideal(plot: Plot, x: Axis, y: Axis) -> Markup:
    if plot.ideal is None:
        return NOTHING
    start, end = plot.ideal
    return line((x.at(start[0]), y.at(start[1])), (x.at(end[0]), y.at(end[1])), "ideal")


def _end_labels(lines: Sequence[Line], paths: Sequence[Sequence[Point]], frame: Frame) -> Markup:
    places = spread([points[-1][1] for points in paths], 15.0, frame.top, frame.bottom)
    parts = []
    for one, points, place in zip(lines, paths, places, strict=True):
        parts.append(curve([points[-1], (frame.right + 20, place)], f"leader {one.look.css}"))
        parts.append(line((frame.right + 20, place), (frame.right + 42, place), f"stroke {one.look.css}"))
        parts.append(text(frame.right + 48, place + 4, one.look.name, "name"))
    return group(*parts)


def _key(lines: Sequence[Line], paths: Sequence[Sequence[Point]], width: float, top: float) -> Markup:
    """Names in the order of the lines' ends, the highest first, so that the key can be read beside the picture."""
    order = sorted(range(len(lines)), key=lambda at: paths[at][-1][1])
    return key.key([lines[at].look for at in order], width, top, lambda left, middle, css: line((left, middle), (left + 20, middle), f"stroke {css}"))


def referral_chart(lines: Sequence[Line], width: float) -> Markup:
    """Accuracy of the cases kept against the share referred to a person."""
    lowest = min((up for one in lines for _, up in one.points), default=0.0)
    plot = Plot(
        "Accuracy of the cases kept, against the share of cases referred to a person, for each algorithm",
        "share of cases referred, the least certain first",
        "accuracy of the rest",
        (0.0, max((across for one in lines for across, _ in one.points), default=1.0)),
        (max(0.0, lowest - 0.02), 1.0),
        percent,
        percent,
    )
    return line_chart(lines, plot, width)


def coverage_chart(lines: Sequence[Line], width: float) -> Markup:
    """Share of true values inside the interval against the share promised."""
    plot = Plot(
        "Share of true values inside the predicted interval, against the share the interval promises, for each algorithm",
        "promised by the interval",
        "found inside",
        (0.0, 1.0),
        (0.0, 1.0),
        percent,
        percent,
        ((0.0, 0.0), (1.0, 1.0)),
    )
    return line_chart(lines, plot, width)


def learning_chart(lines: Sequence[Line], width: float, y_title: str) -> Markup:
    """Loss against round; the highest 4 % of values are cut, since a first round can be far above all others."""
    values = sorted(up for one in lines for _, up in one.points) or [0.0, 1.0]
    high = max(values[int(0.96 * (len(values) - 1))], *(one.points[-1][1] for one in lines if one.points), values[0])
    air = 0.05 * (high - values[0]) or 0.05 * max(1.0, abs(high))
    last = max((across for one in lines for across, _ in one.points), default=1.0)
    plot = Plot(f"{y_title} against the round, for each algorithm", "round", y_title, (0.0, last), (values[0] - air, high + air))
    return line_chart(lines, plot, width)
