"""One look per algorithm, the same in every picture, and the order in which they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

HERO = "meta_bayfl"
COLOURS = 8


class Series(NamedTuple):
    """An algorithm's name and the CSS classes that give its colour and, beyond the palette, its dashes."""

    name: str
    css: str


def series(names: Iterable[str]) -> dict[str, Series]:
    """Looks by name: Meta-BayFL has the first colour, the others follow in their order; after eight colours lines are dashed.

    Example:
        >>> series(["fedavg", "meta_bayfl"])["meta_bayfl"].css
        's0'
    """
    given = list(dict.fromkeys(names))
    ordered = [name for name in given if name == HERO] + [name for name in given if name != HERO]
    return {name: Series(name, _css(at)) for at, name in enumerate(ordered)}


def _css(at: int) -> str:
    return f"s{at % COLOURS}" + (" dashed" if (at // COLOURS) % 2 else "")


def by_mean(summary: Mapping[str, Mapping[str, Mapping[str, float | None]]], key: str) -> list[str]:
    """Algorithms by rising mean of ``key``; those without one come last."""
    means = {name: entry.get("mean", {}).get(key) for name, entry in summary.items()}
    return sorted(means, key=lambda name: (means[name] is None, means[name] or 0.0))
