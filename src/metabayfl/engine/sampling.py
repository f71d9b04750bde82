"""Which clients take part in a round.

A sampler is a pure function of a seeded generator, so that round ``r`` of seed ``s`` has the same cohort whether or not the run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metabayfl.data.federation import Clients

Positions = NDArray[np.int64]


class Sampler(Protocol):
    """Generator, cohort size, positions of the clients that are there (all if not given, never none) -> positions of distinct clients."""

    def __call__(self, generator: np.random.Generator, size: int, pool: Positions | None = None) -> Positions: ...


def uniform(clients: Clients) -> Sampler:
    """Every client with the same probability, without replacement."""
    everyone = np.arange(len(clients.ids))

    def sample(generator: np.random.Generator, size: int, pool: Positions | None = None) -> Positions:
        there = everyone if pool is None else pool
        return generator.choice(there, min(size, len(there)), replace=False)

    return sample


def poisson(clients: Clients) -> Sampler:
    """Every client by itself with probability ``size / count``: cohorts vary in size, and one may be empty. Privacy accounts are tightest for it.

    ``count`` is that of all clients, so that nobody's probability depends on who else is there.
    """
    count = len(clients.ids)

    def sample(generator: np.random.Generator, size: int, pool: Positions | None = None) -> Positions:
        drawn = np.flatnonzero(generator.random(count) < size / count)
        return drawn if pool is None else np.intersect1d(drawn, pool)

    return sample


def size_weighted(clients: Clients) -> Sampler:
    """With probability in proportion to the number of samples, without replacement."""
    everyone = np.arange(len(clients.ids))

    def sample(generator: np.random.Generator, size: int, pool: Positions | None = None) -> Positions:
        there = everyone if pool is None else pool
        weight = clients.sizes[there]
        return generator.choice(there, min(size, len(there)), replace=False, p=weight / weight.sum())

    return sample


def diverse(clients: Clients) -> Sampler:
    """Clients that differ: the first one uniformly, each next one with probability in proportion to the squared distance of its target
    summary to the nearest one chosen (the seeding of k-means++, Arthur and Vassilvitskii 2007).

    The summary is what a client would have to reveal once: its class shares, or the mean and standard deviation of its targets.
    """
    summaries = np.stack(_padded([_summary(clients.read(position)[1]) for position in range(len(clients.ids))]))

    def sample(generator: np.random.Generator, size: int, pool: Positions | None = None) -> Positions:
        there = np.arange(len(summaries)) if pool is None else pool
        own, nearest = summaries[there], np.full(len(there), np.inf)
        chosen = [int(generator.integers(len(there)))]
        while len(chosen) < min(size, len(there)):
            nearest = np.minimum(nearest, ((own - own[chosen[-1]]) ** 2).sum(1))
            weight = nearest + 1e-12  # clients that are alike stay eligible
            weight[chosen] = 0.0
            chosen.append(int(generator.choice(len(there), p=weight / weight.sum())))
        return there[chosen]

    return sample


def _summary(y: NDArray[np.generic]) -> NDArray[np.float64]:
    if y.ndim == 1:
        return np.bincount(y.astype(np.int64)) / len(y)
    return np.concatenate([y.mean(0), y.std(0)]).astype(np.float64)


def _padded(rows: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    width = max(len(row) for row in rows)
    return [np.pad(row, (0, width - len(row))) for row in rows]


SAMPLERS: dict[str, Callable[[Clients], Sampler]] = {"uniform": uniform, "poisson": poisson, "size": size_weighted, "diverse": diverse}
"""Task samplers by name."""
