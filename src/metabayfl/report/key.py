"""The key below a narrow picture, where names beside lines and dots would not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metabayfl.report.series import Series
from metabayfl.report.svg import Markup, group, text

STEP = 18.0
"""Height of a row, pixels."""


def rows(count: int) -> int:
    """Rows of two columns.

    Example:
        >>> rows(5)
        3
    """
    return -(-count // 2)


def key(looks: Sequence[Series], width: float, top: float, sample: Callable[[float, float, str], Markup]) -> Markup:
    """Names in two columns, read downwards.

    Args:
        looks: in the order wanted.
        width: of the picture, pixels.
        top: where the first row's middle is.
        sample: draws what the picture shows of a series, given left edge (20 pixels are free), middle and CSS classes.
    """
    parts = []
    for place, look in enumerate(looks):
        left, middle = 8.0 + (place // rows(len(looks))) * width / 2, top + STEP * (place % rows(len(looks)))
        parts.append(group(sample(left, middle, look.css), text(left + 26, middle + 4, look.name, "name")))
    return group(*parts)
