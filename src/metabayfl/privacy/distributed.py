"""Bounds on what distributed noise costs: every client adds a share of integer noise, and only the sum is ever seen (secure aggregation).

All numbers here are in units of the granularity ``gamma``: a client divides its clipped update by ``gamma`` and rounds each number up or down at
random, again and again until the norm is within :func:`rounded_norm` (conditional rounding: Kairouz, Liu and Steinke 2021, "The distributed discrete
Gaussian mechanism for federated learning with secure aggregation", Theorem 1 and Algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metabayfl.errors import ConfigError

Curve = Callable[[int], float]
"""Order ``alpha`` of 2 and more -> a bound on the Renyi divergence of that order between the sums of neighbours, in nats."""

ORDERS = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512)
"""Whole numbers: amplification by sampling is proved for these."""

BETA = math.exp(-0.5)
"""The paper's choice: a rounding is kept with probability of at least ``1 - beta``."""


@dataclass(frozen=True)
class Grid:
    """Where integer noise is added.

    Attributes:
        bound: clipping norm over granularity, ``S / gamma``.
        numbers: ``D``, how many numbers a message has.
        shares: how many clients' noise is in every sum that is released, at least: fewer, and the sum must not be released.
        beta: of conditional rounding; 0 takes the norm that no rounding can exceed.
    """

    bound: float
    numbers: int
    shares: int
    beta: float = BETA

    def __post_init__(self) -> None:
        if not (self.bound > 0 and self.numbers >= 1 and self.shares >= 1 and 0 <= self.beta < 1):
            raise ConfigError(f"{self} is no grid for distributed noise: bound above 0, numbers and shares from 1, beta from 0 and below 1")


def rounded_norm(grid: Grid) -> float:
    """The largest norm of a rounded message: the lesser of ``c + sqrt(D)`` and ``sqrt(c^2 + D/4 + sqrt(2 log(1/beta)) (c + sqrt(D)/2))``.

    Example:
        >>> round(rounded_norm(Grid(bound=1000.0, numbers=7000, shares=100)), 2)
        1001.39
    """
    root = math.sqrt(grid.numbers)
    certain = grid.bound + root
    if grid.beta == 0:
        return certain
    square = grid.bound**2 + grid.numbers / 4 + math.sqrt(2.0 * math.log(1.0 / grid.beta)) * (grid.bound + root / 2)
    return min(certain, math.sqrt(square))


def share_variance(grid: Grid, noise_multiplier: float) -> float:
    """The variance of one client's noise such that ``shares`` of them make the noise multiplier."""
    return (noise_multiplier * grid.bound) ** 2 / grid.shares


def curve(mechanism: str, grid: Grid, noise_multiplier: float, *, replaced: bool) -> Curve:
    """The bound for ``discrete_gaussian`` or ``skellam`` noise; ``replaced`` clients move the sum twice as far as those that join or leave."""
    l2 = rounded_norm(grid)
    l1 = l2 * min(math.sqrt(grid.numbers), l2)  # for integers |x| <= x^2
    times = 2.0 if replaced else 1.0
    if mechanism == "skellam":
        return skellam_curve(times * l1, times * l2, grid.shares * share_variance(grid, noise_multiplier))
    return discrete_gaussian_curve(times * l1, times * l2, math.sqrt(share_variance(grid, noise_multiplier)), grid.shares, grid.numbers)


def discrete_gaussian_curve(l1: float, l2: float, deviation: float, shares: int, numbers: int) -> Curve:
    """A sum of ``n`` discrete Gaussians of deviation ``sigma`` each, in ``D`` dimensions (Kairouz et al. 2021, Proposition 14).

    The least of ``alpha/2 s^2 + tau D``, ``alpha/2 (s^2 + 2 r tau + tau^2 D)`` and ``alpha/2 (s + tau sqrt(D))^2``, where ``s`` and ``r`` are the
    l2- and l1-sensitivity over ``sqrt(n) sigma``, and ``tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k + 1))`` is the price of a sum of
    discrete Gaussians being none itself.

    Raises:
        ConfigError: if ``deviation`` is below 1/2, where the proposition does not hold.
    """
    if deviation < 0.5:
        raise ConfigError(
            f"each client's discrete Gaussian noise has deviation {deviation:.3g} grid steps, expected 0.5 or more: choose a finer grid"
        )
    k = np.arange(1, shares)
    tau = 10.0 * float(np.exp(-2.0 * (math.pi * deviation) ** 2 * k / (k + 1)).sum())
    s, r = l2 / (math.sqrt(shares) * deviation), l1 / (math.sqrt(shares) * deviation)

    def bound(order: int) -> float:
        joint = min(s**2 + 2.0 * r * tau + tau**2 * numbers, (s + tau * math.sqrt(numbers)) ** 2)
        return min(order / 2.0 * s**2 + tau * numbers, order / 2.0 * joint)

    return bound


def skellam_curve(l1: float, l2: float, variance: float) -> Curve:
    """Skellam noise of variance ``mu`` (Agarwal, Kairouz and Liu 2021, Theorem 3.5 and its multi-dimensional Corollary 3.6).

    ``alpha l2^2 / (2 mu) + min(((2 alpha - 1) l2^2 + 6 l1) / (4 mu^2), 3 l1 / (2 mu))`` for whole ``alpha`` above 1.
    """

    def bound(order: int) -> float:
        extra = min(((2 * order - 1) * l2**2 + 6.0 * l1) / (4.0 * variance**2), 3.0 * l1 / (2.0 * variance))
        return order * l2**2 / (2.0 * variance) + extra

    return bound


def sampled(of: Curve, sampling: str, share: float) -> tuple[list[int], list[float]]:
    """Orders and divergences of one round with a sampled cohort; never more than without sampling.

    ``poisson``: Zhu and Wang 2019, "Poisson subsampled Renyi differential privacy", Theorem 5. ``fixed``: Wang, Balle and Kasiviswanathan 2019,
    "Subsampled Renyi differential privacy and analytical moments accountant", Theorem 9. Both hold for any mechanism.
    """
    if sampling == "all" or share == 1.0:
        return list(ORDERS), [of(order) for order in ORDERS]
    amplified = {"poisson": _poisson, "fixed": _fixed}[sampling]
    table = np.array([0.0, 0.0, *(of(order) for order in range(2, ORDERS[-1] + 1))])
    return list(ORDERS), [min(amplified(table, order, share), of(order)) for order in ORDERS]


def _poisson(table: NDArray[np.float64], order: int, share: float) -> float:
    """``log[(1-q)^(a-1) (aq - q + 1) + C(a,2) q^2 (1-q)^(a-2) e^{D_2} + 3 sum_{l>=3} C(a,l) q^l (1-q)^(a-l) e^{(l-1) D_l}] / (a - 1)``."""
    terms, keep = np.arange(2, order + 1), math.log1p(-share)
    logs = _log_choose(order, terms) + terms * math.log(share) + (order - terms) * keep + (terms - 1) * table[terms]
    logs[1:] += math.log(3.0)
    first = (order - 1) * keep + math.log1p((order - 1) * share)
    return float(np.logaddexp.reduce(np.append(logs, first))) / (order - 1)


def _fixed(table: NDArray[np.float64], order: int, share: float) -> float:
    """``log[1 + C(a,2) q^2 min(4 (e^{D_2} - 1), 2 e^{D_2}) + sum_{j>=3} 2 C(a,j) q^j e^{(j-1) D_j}] / (a - 1)``: no pure bound is assumed."""
    terms = np.arange(2, order + 1)
    logs = _log_choose(order, terms) + terms * math.log(share) + (terms - 1) * table[terms] + math.log(2.0)
    logs[0] += min(0.0, math.log(2.0) + float(np.log(-np.expm1(-table[2]))))
    return float(np.logaddexp.reduce(np.append(logs, 0.0))) / (order - 1)


def _log_choose(order: int, terms: NDArray[np.int64]) -> NDArray[np.float64]:
    table = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, order + 1)))])
    out: NDArray[np.float64] = table[order] - table[terms] - table[order - terms]
    return out
