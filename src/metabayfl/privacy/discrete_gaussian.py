"""The discrete Gaussian, sampled exactly: no floating-point number decides anything (Canonne, Kamath and Steinke 2020, "The discrete Gaussian for
differential privacy", Algorithms 1 to 3).

``P(y)`` is in proportion to ``exp(-y^2 / (2 sigma^2))`` on the integers. Continuous noise in floating point leaves gaps between its values that can
betray what it was added to (Mironov 2012); integers in a finite ring leave none, and are what secure aggregation adds up.

The algorithms run on whole arrays: each step goes on with the draws that are still open.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl.errors import ConfigError
from metabayfl.privacy.words import Words, bernoulli, integers

Integers = NDArray[np.int64]

REACH = 64
"""A discrete Laplace draw lies beyond ``REACH`` scales once in 10^27: intermediate products must fit 63 bits up to there."""


def discrete_gaussian(words: Words, shape: tuple[int, ...], variance: Fraction | int) -> Tensor:
    """Independent draws, int64 (Algorithm 3: rejection from the discrete Laplace distribution of scale ``t = floor(sigma) + 1``).

    The variance of the draws is ``variance`` to a relative ``exp(-2 pi^2 sigma^2)`` and never more.

    Args:
        words: where the random bits come from (:mod:`metabayfl.privacy.words`).
        shape: of the result.
        variance: ``sigma^2``, rational, above 0.

    Raises:
        ConfigError: if ``variance`` is not above 0, or too large or too finely divided for 63-bit integers.

    Example:
        >>> from metabayfl import random
        >>> from metabayfl.privacy.words import seeded
        >>> discrete_gaussian(seeded(random.key(0)), (4,), 100).shape
        torch.Size([4])
    """
    sigma2 = Fraction(variance)
    if sigma2 <= 0:
        raise ConfigError(f"the variance of discrete Gaussian noise is {variance}, expected a number above 0")
    above, under = sigma2.numerator, sigma2.denominator
    scale = math.isqrt(above // under) + 1
    if max(REACH * scale * scale * under, above) >= 2**62:
        raise ConfigError(f"the variance of discrete Gaussian noise is {variance}, too large or too finely divided for 63-bit integers: round it")

    def propose(count: int) -> Integers:
        return discrete_laplace(words, count, scale)

    out = rejected(math.prod(shape), propose, lambda y: _accepted(words, y, scale, above, under))
    return torch.from_numpy(out).view(shape)


def discrete_laplace(words: Words, count: int, scale: int) -> Integers:
    """Draws with ``P(y)`` in proportion to ``exp(-|y| / scale)``, ``(count,)`` (Algorithm 2 with ``s = 1``)."""

    def propose(open_: int) -> Integers:
        rest = rejected(open_, lambda some: integers(words, np.full(some, scale)), lambda u: _below_one(words, u, scale))
        return np.stack([rest + scale * _geometric(words, open_), integers(words, np.full(open_, 2))])

    drawn = rejected(count, propose, lambda pair: (pair[0] != 0) | (pair[1] == 0))  # zero has one sign
    signed: Integers = np.where(drawn[1] == 1, -drawn[0], drawn[0])
    return signed


def rejected(count: int, propose: Callable[[int], Integers], accept: Callable[[Integers], NDArray[np.bool_]]) -> Integers:
    """Proposals ``(..., count)`` that were accepted; those that were not are made anew."""
    out = propose(count)
    open_ = np.flatnonzero(~accept(out))
    while len(open_):
        again = propose(len(open_))
        out[..., open_] = again
        open_ = open_[~accept(again)]
    return out


def _geometric(words: Words, count: int) -> Integers:
    """How often in a row an event of probability ``1/e`` happened."""
    out = np.zeros(count, dtype=np.int64)
    open_ = np.arange(count)
    while len(open_):
        open_ = open_[_below_one(words, np.ones(len(open_), dtype=np.int64), 1)]
        out[open_] += 1
    return out


def _below_one(words: Words, above: Integers, under: int) -> NDArray[np.bool_]:
    """Events of probability ``exp(-above/under)`` for ratios up to 1."""
    return exponential_events(words, above / under, lambda i: Fraction(int(above[i]), under))


def _accepted(words: Words, y: Integers, scale: int, above: int, under: int) -> NDArray[np.bool_]:
    """Events of probability ``exp(-(|y| - sigma^2/t)^2 / (2 sigma^2))`` with ``sigma^2 = above/under``."""
    distance = np.abs(y) * (scale * under) - above  # exact in 63 bits
    divisor = 2 * above * under * scale * scale
    parts = distance.astype(np.float64) ** 2 / float(divisor)
    times = np.floor(parts * (1.0 + 2.0**-40)).astype(np.int64) + 1  # equal factors, so many that each exponent is within 1
    out, left = np.ones(len(y), dtype=bool), times.copy()
    while len(open_ := np.flatnonzero(out & (left > 0))):

        def exact(i: int, now: Integers = open_) -> Fraction:
            return Fraction(int(distance[now[i]]) ** 2, divisor * int(times[now[i]]))

        out[open_] = exponential_events(words, parts[open_] / times[open_], exact)
        left[open_] -= 1
    return out


def exponential_events(words: Words, exponent: NDArray[np.float64], exact: Callable[[int], Fraction]) -> NDArray[np.bool_]:
    """Events of probability ``exp(-g)`` for ``g`` from 0 to 1 (Algorithm 1: the parity of how long events of probability ``g/k`` go on).

    Args:
        words: the stream.
        exponent: ``g`` in floating point, ``(N,)``.
        exact: position -> ``g`` as it is.
    """
    length = np.ones(len(exponent), dtype=np.int64)
    open_ = np.arange(len(exponent))
    while len(open_):
        k, now = int(length[open_[0]]), open_

        def floor(i: int, bits: int, k: int = k, now: Integers = now) -> int:
            ratio = exact(int(now[i])) / k
            return (ratio.numerator << bits) // ratio.denominator

        open_ = now[bernoulli(words, exponent[now] / k, floor)]
        length[open_] += 1
    odd: NDArray[np.bool_] = length % 2 == 1
    return odd
