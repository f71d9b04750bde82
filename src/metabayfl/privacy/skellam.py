"""Skellam noise, sampled exactly: the difference of two Poisson numbers (Agarwal, Kairouz and Liu 2021, "The Skellam mechanism for differentially
private federated learning").

The sum of Skellam numbers is Skellam, so that the noise of many clients adds up to one known distribution.

A Poisson number is a discrete Laplace draw around the mean that is kept with probability ``p(k) / (e^c q(k))``. That probability is computed in
floating point by Loader's formula, to 1e-12, and where a uniform number falls closer than that to it, again with as many decimals as it takes.
"""

from __future__ import annotations

import decimal
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl.errors import ConfigError
from metabayfl.privacy.discrete_gaussian import discrete_laplace, rejected
from metabayfl.privacy.words import Words, bernoulli

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

LARGEST = 2.0**50
"""Means beyond it would lose the last bits of their deviations in float64."""

_STIRLING = tuple(
    Fraction(above, under)
    for above, under in (
        (1, 12),
        (-1, 360),
        (1, 1260),
        (-1, 1680),
        (1, 1188),
        (-691, 360360),
        (1, 156),
        (-3617, 122400),
        (43867, 244188),
        (-174611, 125400),
        (77683, 5796),
        (-236364091, 1506960),
    )
)
"""``log k! = (k + 1/2) log k - k + log(2 pi)/2 + sum_j s_j / k^(2j+1)``."""

_DECIMALS = decimal.Context(prec=110)


def skellam(words: Words, shape: tuple[int, ...], variance: float) -> Tensor:
    """Independent draws, int64: two Poisson numbers of mean ``variance / 2``, one less the other.

    Args:
        words: where the random bits come from (:mod:`metabayfl.privacy.words`).
        shape: of the result.
        variance: above 0.

    Example:
        >>> from metabayfl import random
        >>> from metabayfl.privacy.words import seeded
        >>> skellam(seeded(random.key(0)), (2, 3), 100.0).shape
        torch.Size([2, 3])
    """
    return poisson(words, shape, variance / 2.0) - poisson(words, shape, variance / 2.0)


def poisson(words: Words, shape: tuple[int, ...], mean: float) -> Tensor:
    """Independent draws, int64.

    Raises:
        ConfigError: if ``mean`` is not above 0, or beyond :data:`LARGEST`.
    """
    if not 0 < mean <= LARGEST:
        raise ConfigError(f"the mean of Poisson noise is {mean}, expected a number above 0 and at most {LARGEST:g}: choose a coarser granularity")
    middle, scale = math.floor(mean), math.isqrt(math.floor(mean)) + 1
    excess = _envelope(mean, scale)

    def accept(y: Integers) -> NDArray[np.bool_]:
        k = middle + y
        log_ratio = np.where(k >= 0, _log_density(np.maximum(k, 0), mean) + np.abs(y) / scale - excess, -np.inf)

        def exact(i: int, bits: int) -> int:
            return 0 if k[i] < 0 else _exact_ratio(int(k[i]), mean, Fraction(abs(int(y[i])), scale), excess, bits)

        return (k >= 0) & bernoulli(words, np.exp(log_ratio), exact)

    drawn = rejected(math.prod(shape), lambda count: discrete_laplace(words, count, scale), accept)
    return torch.from_numpy(middle + drawn).view(shape)


def _envelope(mean: float, scale: int) -> float:
    """``c``, no less than ``log p(k) + |y| / scale + log(2 pi)/2`` anywhere: largest where ``p``'s ratio of neighbours is ``e^(-+1/scale)``."""
    turns = [mean * math.exp(sign / scale) + step for sign in (-1, 0, 1) for step in (-1, 0, 1)]
    k = np.maximum(np.floor(turns), 0).astype(np.int64)
    return float(np.max(_log_density(k, mean) + np.abs(k - math.floor(mean)) / scale)) + 1e-9


def _log_density(k: Integers, mean: float) -> Floats:
    """``log p(k) + log(2 pi)/2`` by the saddle point, without cancellation (Loader 2000, "Fast and accurate computation of binomial
    probabilities", equation 4 for the Poisson distribution)."""
    real = np.maximum(k, 1).astype(np.float64)
    saddle = -mean * _deviance((real - mean) / mean) - 0.5 * np.log(real) - _stirling_error(real)
    return np.where(k > 0, saddle, -mean + 0.5 * math.log(2.0 * math.pi))


def _deviance(x: Floats) -> Floats:
    """``(1 + x) log(1 + x) - x``; near 0 by its series, which has no difference of near numbers."""
    small = np.where(np.abs(x) < 0.05, x, 0.0)
    series = np.zeros_like(x)
    for power in range(14, 1, -1):
        series = series * -small + 1.0 / (power * (power - 1))
    return np.where(np.abs(x) < 0.05, small * small * series, (1.0 + x) * np.log1p(x) - x)


def _stirling_error(k: Floats) -> Floats:
    """``log k!`` less Stirling's formula, for ``k`` from 1."""
    table = np.array([math.lgamma(n + 1.0) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2.0 * math.pi) for n in range(1, 16)])
    large = np.maximum(k, 16.0)
    series = sum(float(term) / large ** (2 * power + 1) for power, term in enumerate(_STIRLING[:6]))
    return np.where(k < 16, table[np.minimum(k, 15.0).astype(np.int64) - 1], series)


def _exact_ratio(k: int, mean: float, bonus: Fraction, excess: float, bits: int) -> int:
    """``floor(2^bits p)`` of the same acceptance probability, with 110 decimals."""
    with decimal.localcontext(_DECIMALS):
        log_p = k * Decimal(mean).ln() - Decimal(mean) - _exact_log_factorial(k) + (2 * _exact_pi()).ln() / 2
        log_ratio = log_p + Decimal(bonus.numerator) / Decimal(bonus.denominator) - Decimal(excess)
        return int(log_ratio.exp() * 2**bits)


def _exact_log_factorial(k: int) -> Decimal:
    if k < 2000:
        return Decimal(math.factorial(k)).ln()
    terms = (Decimal(term.numerator) / Decimal(term.denominator) / Decimal(k) ** (2 * power + 1) for power, term in enumerate(_STIRLING))
    return (k + Decimal("0.5")) * Decimal(k).ln() - k + (2 * _exact_pi()).ln() / 2 + sum(terms)


def _exact_pi() -> Decimal:
    """Machin's formula: ``pi = 16 arctan(1/5) - 4 arctan(1/239)``."""
    return 16 * _arctan_of_inverse(5) - 4 * _arctan_of_inverse(239)


def _arctan_of_inverse(n: int) -> Decimal:
    """``sum_j (-1)^j / ((2j + 1) n^(2j+1))``, as far as 110 decimals ask for."""
    return sum(((-1) ** j * Decimal(1) / ((2 * j + 1) * Decimal(n) ** (2 * j + 1)) for j in range(80)), Decimal(0))
