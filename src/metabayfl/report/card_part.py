"""What a model card is made of, and words that several of its parts use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from metabayfl.report.sections import Study

Grid = tuple[tuple[str, ...], ...]
"""Rows of text, the titles first."""


class Part(NamedTuple):
    """One heading and what stands under it."""

    heading: str
    facts: tuple[tuple[str, str], ...] = ()
    grid: Grid = ()
    sentences: tuple[str, ...] = ()


def under(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Grid:
    """Rows with their titles; nothing for no row."""
    found = tuple(rows)
    return (head, *found) if found else ()


def span(low: int, high: int) -> str:
    """A range of counts.

    Example:
        >>> span(20, 20), span(30, 1500)
        ('20', '30 to 1,500')
    """
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def shipped(study: Study) -> str:
    """The algorithm whose strategy the card is about."""
    return str(study.summary["about"]["strategy"]["algorithm"])
