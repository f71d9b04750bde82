"""From the files of a study to what the pictures draw: the seeds of each algorithm are put together here.

``figures.json`` is ``{algorithm: [one entry a seed]}``; :mod:`metabayfl.evaluation.pictures` has the format of an entry. An algorithm without
entries gives empty pictures.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from metabayfl.report.clients import Clients, worst_tenth
from metabayfl.report.curves import Line
from metabayfl.report.panels import Bins, Spread
from metabayfl.report.series import Series

Entries = Sequence[Mapping[str, Any]]
STEPS = 48
"""Bins of a drawn distribution."""
LONGEST = 240
"""Points of a learning curve that are drawn."""


def bins(entries: Entries) -> Bins:
    """The seeds' reliability diagrams as one: counts add up, means are weighted by them."""
    found = [entry["reliability"] for entry in entries if "reliability" in entry]
    if not found:
        return Bins((), (), ())
    counts = [one["examples"] for one in found]
    total = tuple(sum(column) for column in zip(*counts, strict=True))
    means = [_weighted(counts, [one[name] for one in found], total) for name in ("confidence", "accuracy")]
    return Bins(total, means[0], means[1])


def _weighted(counts: list[list[float]], values: list[list[float]], total: tuple[float, ...]) -> tuple[float, ...]:
    summed = [sum(row[at] * value[at] for row, value in zip(counts, values, strict=True)) for at in range(len(total))]
    return tuple(part / max(count, 1.0) for part, count in zip(summed, total, strict=True))


def clients(look: Series, entries: Entries, name: str, worst: str) -> Clients:
    """Every client of every seed; the means are of the seeds' means, as in the table."""
    rows = [entry["clients"] for entry in entries if entry.get("clients", {}).get(name)]
    names = tuple(str(one) for row in rows for one in row["id"])
    if not rows:
        return Clients(look, (), (), 0.0, 0.0)
    mean = statistics.fmean(statistics.fmean(row[name]) for row in rows)
    tail = statistics.fmean(worst_tenth(row[name], worst) for row in rows)
    return Clients(look, names, tuple(float(one) for row in rows for one in row[name]), mean, tail)


def curve(look: Series, entries: Entries, part: str, across: str, up: str) -> Line:
    """A curve that every seed has at the same places, as its mean over seeds."""
    found = [entry[part] for entry in entries if part in entry]
    if not found:
        return Line(look, ())
    heights = [statistics.fmean(column) for column in zip(*(one[up] for one in found), strict=True)]
    return Line(look, tuple(zip(found[0][across], heights, strict=True)))


def has(entries: Entries, kind: str) -> bool:
    """Whether an uncertainty was kept."""
    return any(entry.get("uncertainty", {}).get(kind) for entry in entries)


def highest(entries: Entries, kind: str) -> float:
    """Where an axis for an uncertainty may end: nearly the largest value of any group."""
    tails = [group["quantiles"][-2] for entry in entries for group in (entry.get("uncertainty", {}).get(kind) or {}).values() if group["quantiles"]]
    return max(tails, default=0.0)


def spreads(entries: Entries, kind: str, high: float) -> list[Spread]:
    """Distributions of an uncertainty over right, wrong and unseen-class predictions."""
    held = [entry["uncertainty"][kind] for entry in entries if entry.get("uncertainty", {}).get(kind)]
    return [_spread(label, [one[name] for one in held], high) for name, label in (("right", "right"), ("wrong", "wrong"), ("unseen", "new class"))]


def _spread(label: str, groups: Sequence[Mapping[str, Any]], high: float) -> Spread:
    filled = [group for group in groups if group["n"]]
    if not filled:
        return Spread(label, 0, None, ())
    count = sum(int(group["n"]) for group in filled)
    weighted = sorted((value, group["n"]) for group in filled for value in group["quantiles"])
    return Spread(label, count, _median(weighted), _density(filled, high))


def _median(weighted: Sequence[tuple[float, float]]) -> float:
    half, running = sum(weight for _, weight in weighted) / 2, 0.0
    for value, weight in weighted:
        running += weight
        if running >= half:
            return value
    return weighted[-1][0]


def _density(groups: Sequence[Mapping[str, Any]], high: float) -> tuple[float, ...]:
    """Mass per bin: each step between two quantiles holds the same share, spread evenly over its length; then smoothed."""
    mass = [0.0] * STEPS
    for group in groups:
        values = group["quantiles"]
        for low, top in itertools.pairwise(values):
            _share(mass, low / (high or 1.0), top / (high or 1.0), float(group["n"]))
    for _ in range(_passes(sum(int(group["n"]) for group in groups))):
        mass = [(2 * mass[at] + mass[max(0, at - 1)] + mass[min(STEPS - 1, at + 1)]) / 4 for at in range(STEPS)]
    most = max(mass) or 1.0
    return tuple(value / most for value in mass)


def _passes(count: int) -> int:
    """Few examples need more smoothing: otherwise the picture shows each of them as a hill."""
    return 12 if count < 60 else 6 if count < 300 else 2


def _share(mass: list[float], low: float, top: float, weight: float) -> None:
    first, last = (min(STEPS - 1, max(0, int(edge * STEPS))) for edge in (low, top))
    for at in range(first, last + 1):
        inside = min(top * STEPS, at + 1) - max(low * STEPS, at) if first != last else 1.0
        length = (top - low) * STEPS if first != last else 1.0
        mass[at] += weight * max(0.0, inside) / length


def learning(look: Series, rows: Sequence[Mapping[str, Any]], name: str) -> Line:
    """One algorithm's mean over seeds of a figure per round; a seed that stopped early keeps its last value."""
    own = [row for row in rows if row.get("algorithm") == look.name and isinstance(row.get(name), (int, float))]
    seeds = [sorted((row["round"], row[name]) for row in own if row.get("seed") == seed) for seed in {row.get("seed") for row in own}]
    rounds = sorted({row["round"] for row in own})
    if len(rounds) > LONGEST:
        rounds = [rounds[round(at * (len(rounds) - 1) / (LONGEST - 1))] for at in range(LONGEST)]
    return Line(look, tuple((float(at), statistics.fmean(_last(seed, at) for seed in seeds)) for at in rounds))


def _last(seed: Sequence[tuple[int, float]], at: int) -> float:
    """The value in round ``at``, or the newest before it; the first one where there is none before."""
    known = bisect.bisect_right(seed, at, key=lambda pair: pair[0])
    return seed[max(0, known - 1)][1]
