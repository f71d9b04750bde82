"""Markup as values: a few pure functions that write SVG and HTML, escaping everything that comes from data.

What they write is XML as well as HTML5, so that a parser can check it. Nothing here knows a colour: classes do, in ``style.css``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NewType

Markup = NewType("Markup", str)
"""Text that is safe to put into the page: made by this module alone."""

NOTHING = Markup("")
Point = tuple[float, float]

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})


def escape(value: object) -> Markup:
    """Any value as text; characters that XML forbids become the replacement character.

    Example:
        >>> escape("<b>&'\\0")
        '&lt;b&gt;&amp;&#39;�'
    """
    return Markup(clean(value).translate(_ENTITIES))


def clean(value: object) -> str:
    """Any value as text that every file can hold: characters that XML forbids, lone surrogates among them, become the replacement character."""
    return _ILLEGAL.sub("\ufffd", str(value))


def join(parts: Iterable[Markup], between: str = "") -> Markup:
    """Markup in a row."""
    return Markup(escape(between).join(parts))


def element(name: str, /, *children: Markup, **attributes: object) -> Markup:
    """``<name attributes>children</name>``; ``class_`` gives ``class``, ``stroke_width`` gives ``stroke-width``, None leaves one out.

    Example:
        >>> element("text", escape("a < b"), x=1.25, class_="label")
        '<text x="1.25" class="label">a &lt; b</text>'
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    inside = "".join(children)
    return Markup(f"<{name}{given}>{inside}</{name}>" if inside or name not in _EMPTY else f"<{name}{given}/>")


_EMPTY = {"line", "rect", "circle", "path", "polyline", "meta", "br", "col", "hr"}


def _value(value: object) -> str:
    return number(value) if isinstance(value, float) else escape(value)


def number(value: float) -> str:
    """A coordinate to a hundredth, without superfluous digits.

    Example:
        >>> number(3.0), number(0.126), number(-0.0001)
        ('3', '0.13', '0')
    """
    short = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def text(x: float, y: float, words: object, css: str = "label", anchor: str = "start") -> Markup:
    """Text with its baseline at ``(x, y)``; ``anchor`` is start, middle or end."""
    return element("text", escape(words), x=x, y=y, class_=css, text_anchor=None if anchor == "start" else anchor)


def line(start: Point, end: Point, css: str) -> Markup:
    """A straight line."""
    return element("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=css)


def rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> Markup:
    """A rectangle; ``title`` shows on hovering."""
    return element("rect", _title(title), x=x, y=y, width=max(0.0, width), height=max(0.0, height), class_=css)


def dot(x: float, y: float, radius: float, css: str, title: str = "") -> Markup:
    """A filled circle; ``title`` shows on hovering."""
    return element("circle", _title(title), cx=x, cy=y, r=radius, class_=css)


def _title(words: str) -> Markup:
    return element("title", escape(words)) if words else NOTHING


def _pairs(points: Sequence[Point]) -> str:
    return "L".join(f"{number(x)} {number(y)}" for x, y in points)


def curve(points: Sequence[Point], css: str) -> Markup:
    """An open line through the points; nothing for none."""
    return element("path", d=f"M{_pairs(points)}", class_=css) if points else NOTHING


def area(points: Sequence[Point], css: str) -> Markup:
    """A closed, filled shape; nothing for none."""
    return element("path", d=f"M{_pairs(points)}Z", class_=css) if points else NOTHING


def group(*children: Markup, css: str | None = None) -> Markup:
    """Children under one class."""
    return element("g", *children, class_=css)


def picture(width: float, height: float, description: str, *children: Markup, css: str = "") -> Markup:
    """A whole ``<svg>`` that shrinks with its box; ``description`` is what a screen reader says."""
    size = f"0 0 {number(width)} {number(height)}"
    return element("svg", *children, viewBox=size, width=width, height=height, role="img", aria_label=description, class_=f"picture {css}".strip())
