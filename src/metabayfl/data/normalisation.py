"""Means and scales of training clients from sums alone, so that they can be had under secure aggregation.

Two rounds of sums: (number, sum) give the mean; (number, sum, sum of squares) about that mean give the variance, with the correction for the mean's
rounding (Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", equation 1.7). One round about zero would lose all digits
where the mean is large against the spread.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from metabayfl.data.raw import Array

_CONSTANT = 1e-10


class Statistics(NamedTuple):
    """Sums over rows, per column; those of several clients add up. NaN is left out."""

    number: Array  # (F,) int64
    total: Array  # (F,) sum of x - centre
    squares: Array  # (F,) sum of (x - centre)^2


def statistics(x: Array, centre: Array | float = 0.0) -> Statistics:
    """One client's sums of ``x`` ``(n, F)`` about ``centre``.

    Example:
        >>> one = statistics(np.array([[1.0], [3.0], [np.nan]]))
        >>> [value.tolist() for value in one]
        [[2], [4.0], [10.0]]
    """
    # Columns become contiguous, so that numpy sums in pairs, which is both more exact and faster than row by row.
    shifted = np.array(x.T, dtype=np.float64, order="C") - np.reshape(centre, (-1, 1))
    real = np.isfinite(shifted)
    shifted[~real] = 0.0
    with np.errstate(over="ignore"):  # values too large to square come out as infinity, for the caller to name
        return Statistics(real.sum(1), shifted.sum(1), np.square(shifted).sum(1))


def add(parts: Iterable[Statistics]) -> Statistics:
    """The sum over clients."""
    return functools.reduce(lambda a, b: Statistics(*(left + right for left, right in zip(a, b, strict=True))), parts)


def centre(first: Statistics) -> Array:
    """The mean ``(F,)`` that the second round is about, from the sum of the first; NaN where a column is empty."""
    with np.errstate(invalid="ignore"):
        mean: Array = first.total / first.number
    return mean


def mean_and_scale(about: Array, second: Statistics) -> tuple[Array, Array]:
    """Mean and standard deviation per column from the sums about ``about``.

    Returns:
        ``(mean, scale)``, each ``(F,)``; population standard deviation; scale 0 where the column is constant; NaN where it is empty.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        shift = second.total / second.number
        variance = second.squares / second.number - shift**2
        mean = about + shift
        scale = np.sqrt(np.maximum(variance, 0.0))
        return mean, np.where(scale <= _CONSTANT * np.abs(mean), 0.0, scale)
