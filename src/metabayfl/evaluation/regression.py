"""Metrics of Student-t predictives of real targets; ``dof = inf`` is a Gaussian.

Arrays are ``(N, R)`` (``N`` examples, ``R`` targets) in the targets' own units. Several targets are averaged, but for the NLL, where the log
densities of one example add up.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special

from metabayfl.losses import student_t_half_width

Array = NDArray[np.float64]


def _floats(*values: ArrayLike) -> list[Array]:
    return [np.asarray(value, dtype=np.float64) for value in values]


def rmse(mean: ArrayLike, y: ArrayLike) -> float:
    """Root of the mean squared error over examples and targets."""
    centre, truth = _floats(mean, y)
    return float(np.sqrt(((centre - truth) ** 2).mean()))


def nll(mean: ArrayLike, scale: ArrayLike, dof: ArrayLike, y: ArrayLike) -> float:
    """Mean negative log predictive density, nats; it depends on the targets' unit."""
    centre, spread, freedom, truth = _floats(mean, scale, dof, y)
    z2 = ((truth - centre) / spread) ** 2
    finite = np.where(np.isfinite(freedom), freedom, 1.0)
    constant = special.gammaln((finite + 1) / 2) - special.gammaln(finite / 2) - 0.5 * np.log(finite * math.pi)
    student = constant - (finite + 1) / 2 * np.log1p(z2 / finite)
    gauss = -0.5 * z2 - 0.5 * math.log(2 * math.pi)
    density = np.where(np.isfinite(freedom), student, gauss) - np.log(spread)
    return float(-density.sum(-1).mean())


def _crps_gaussian(z: Array) -> Array:
    out: Array = z * (2 * special.ndtr(z) - 1) + 2 * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi)
    return out


def _crps_student(z: Array, dof: Array) -> Array:
    log_density = special.gammaln((dof + 1) / 2) - special.gammaln(dof / 2) - 0.5 * np.log(dof * math.pi) - (dof + 1) / 2 * np.log1p(z**2 / dof)
    centre = z * (2 * special.stdtr(dof, z) - 1) + 2 * np.exp(log_density) * (dof + z**2) / (dof - 1)
    ratio = np.exp(special.betaln(0.5, dof - 0.5) - 2 * special.betaln(0.5, dof / 2))
    out: Array = centre - 2 * np.sqrt(dof) / (dof - 1) * ratio
    return out


def crps(mean: ArrayLike, scale: ArrayLike, dof: ArrayLike, y: ArrayLike) -> Array:
    """Continuous ranked probability score per example and target, in the targets' unit, ``(N, R)``; lower is better.

    Closed forms of Gneiting and Raftery 2007 (equation 21, Gaussian) and Jordan, Krüger and Lerch 2019 (appendix A, Student-t). It is
    infinite where ``dof <= 1``, because the predictive then has no mean.

    Example:
        >>> round(float(crps([[0.0]], [[1.0]], [[float("inf")]], [[0.0]])[0, 0]), 6)
        0.233695
    """
    centre, spread, freedom, truth = _floats(mean, scale, dof, y)
    z = (truth - centre) / spread
    usable = np.isfinite(freedom) & (freedom > 1)
    student = _crps_student(z, np.where(usable, freedom, 2.0))
    out: Array = spread * np.where(usable, student, np.where(freedom > 1, _crps_gaussian(z), np.inf))
    return out


def half_width(scale: ArrayLike, dof: ArrayLike, level: float) -> Array:
    """Half the width of the central interval that holds ``level`` of the predictive probability, ``(N, R)``."""
    spread, freedom = (torch.from_numpy(values) for values in _floats(scale, dof))
    out: Array = student_t_half_width(spread, freedom, level).numpy()
    return out


def coverage(mean: ArrayLike, scale: ArrayLike, dof: ArrayLike, y: ArrayLike, level: float = 0.9) -> float:
    """Share of true values inside the central interval; it should be ``level``.

    Example:
        >>> coverage([[0.0]] * 3, [[1.0]] * 3, [[float("inf")]] * 3, [[0.0], [1.6], [1.7]])
        0.6666666666666666
    """
    centre, truth = _floats(mean, y)
    return float((np.abs(truth - centre) <= half_width(scale, dof, level)).mean())
