"""The gallery's pictures: panels with axes, lines, bands and dots, written as one SVG file that stands alone and follows light and dark.

Everything is drawn by :mod:`metabayfl.report`, with the colours of its reports; here are only the few shapes that several scripts need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from metabayfl import storage
from metabayfl.report.axes import Axis, Frame, draw_axes, horizontal, short, vertical
from metabayfl.report.svg import Markup, Point, area, curve, dot, element, group, line, rect, text

STYLE = """
svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
svg .head { font-size: 14px; font-weight: 650; }
svg .note { fill: var(--quiet); font-size: 12px; }
svg .note, svg .head { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.paper { fill: var(--paper); }
.shade { fill: var(--c); fill-opacity: 0.16; }
.hollow { fill: var(--paper); stroke: var(--c); stroke-width: 2; }
.frame { fill: none; stroke: var(--c); stroke-width: 2.5; }
"""
"""What a picture of its own needs beside the reports' style sheet."""


class Panel(NamedTuple):
    """A plot inside the picture, from data to pixels."""

    frame: Frame
    x: Axis
    y: Axis

    def at(self, across: float, up: float) -> Point:
        """Where a point of the data lies; what is beyond the axes lies on their edge."""
        x, y = self.x.at(across), self.y.at(up)
        return min(max(x, self.frame.left), self.frame.right), min(max(y, self.frame.top), self.frame.bottom)


class Axes(NamedTuple):
    """What stands beside a panel: its heading, titles, domains and how ticks are written."""

    heading: str
    x_title: str
    y_title: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: Callable[[float], str] = short
    y_label: Callable[[float], str] = short


def panel(frame: Frame, axes: Axes, count: int = 5) -> tuple[Panel, Markup]:
    """A panel, and its axes drawn; the heading stands above the frame."""
    made = Panel(frame, horizontal(axes.x, frame, axes.x_label, count), vertical(axes.y, frame, axes.y_label, count))
    heading = text(max(0.0, frame.left - 40), frame.top - 34, axes.heading, "head")
    return made, group(draw_axes(frame, made.x, made.y, axes.x_title, axes.y_title), heading)


def trace(panel: Panel, across: Sequence[float], up: Sequence[float], css: str) -> Markup:
    """A line through the data."""
    return curve([panel.at(x, y) for x, y in zip(across, up, strict=True)], f"stroke {css}")


def band(panel: Panel, across: Sequence[float], low: Sequence[float], high: Sequence[float], css: str) -> Markup:
    """A shaded area between two lines."""
    lower = [panel.at(x, y) for x, y in zip(across, low, strict=True)]
    upper = [panel.at(x, y) for x, y in zip(across, high, strict=True)]
    return area([*lower, *reversed(upper)], f"shade {css}")


def dots(panel: Panel, across: Sequence[float], up: Sequence[float], css: str, radius: float = 3.0) -> Markup:
    """One dot a row of the data."""
    return group(*(dot(*panel.at(x, y), radius, css) for x, y in zip(across, up, strict=True)))


def upright(panel: Panel, across: float, words: str) -> Markup:
    """A dashed line at one value, with its meaning at the top."""
    x = panel.x.at(across)
    return group(line((x, panel.frame.top), (x, panel.frame.bottom), "ideal"), text(x + 5, panel.frame.top + 11, words, "note"))


def level(panel: Panel, up: float) -> Markup:
    """A dashed line at one height."""
    return line((panel.frame.left, panel.y.at(up)), (panel.frame.right, panel.y.at(up)), "ideal")


def named(place: Point, words: str, css: str, note: str = "") -> Markup:
    """A name with a dash of its line's colour before it, and a quieter line below."""
    x, y = place
    below = [text(x + 22, y + 19, note, "note")] if note else []
    return group(line((x, y), (x + 16, y), f"stroke {css}"), text(x + 22, y + 4, words, "name"), *below)


def save(path: Path, width: float, height: float, described: str, *parts: Markup) -> None:
    """Write the picture; ``described`` is what a screen reader says."""
    style = Markup((resources.files("metabayfl.report") / "style.css").read_text(encoding="utf-8") + STYLE)
    box = {"viewBox": f"0 0 {width:g} {height:g}", "width": width, "height": height}
    paper = rect(0.0, 0.0, width, height, "paper")
    root = element("svg", element("style", style), paper, *parts, xmlns="http://www.w3.org/2000/svg", role="img", aria_label=described, **box)
    storage.write_text(path, root + "\n")
    print(f"\npicture: {path.name}")
