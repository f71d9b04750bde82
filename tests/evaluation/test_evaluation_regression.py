"""Scores of Student-t and Gaussian predictives against integration, simulation and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from metabayfl.evaluation import regression
from metabayfl.losses import prediction_nll
from metabayfl.types import RegressionPrediction


def predictive(mean: float, scale: float, dof: float) -> stats.distributions.rv_frozen:
    return stats.norm(mean, scale) if math.isinf(dof) else stats.t(dof, mean, scale)


@pytest.mark.parametrize("dof", [1.5, 2.0, 3.0, 10.0, 200.0, math.inf])
@pytest.mark.parametrize("mean, scale, y", [(0.0, 1.0, 0.0), (0.0, 1.0, -2.5), (3.0, 0.4, 3.3), (-1.0, 5.0, 9.0)])
def test_crps_equals_its_defining_integral(dof: float, mean: float, scale: float, y: float) -> None:
    found = predictive(mean, scale, dof)
    below, _ = integrate.quad(lambda t: found.cdf(t) ** 2, -np.inf, y, limit=400)
    above, _ = integrate.quad(lambda t: found.sf(t) ** 2, y, np.inf, limit=400)
    assert float(regression.crps([[mean]], [[scale]], [[dof]], [[y]])[0, 0]) == pytest.approx(below + above, rel=2e-5)


def test_crps_without_a_mean_is_infinite() -> None:
    assert np.isinf(regression.crps([[0.0]], [[1.0]], [[1.0]], [[0.0]])).all()


def test_crps_of_many_degrees_of_freedom_is_the_gaussian_one() -> None:
    student = regression.crps([[0.0]], [[2.0]], [[1e6]], [[1.0]])
    gauss = regression.crps([[0.0]], [[2.0]], [[math.inf]], [[1.0]])
    assert student == pytest.approx(gauss, rel=1e-5)


def test_nll_equals_scipy_and_the_library_loss() -> None:
    rng = np.random.default_rng(0)
    mean, y = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    scale, dof = rng.uniform(0.5, 2, (40, 2)), np.where(rng.uniform(size=(40, 2)) < 0.5, math.inf, 4.0)
    by_hand = [sum(-predictive(mean[i, j], scale[i, j], dof[i, j]).logpdf(y[i, j]) for j in range(2)) for i in range(40)]
    assert regression.nll(mean, scale, dof, y) == pytest.approx(np.mean(by_hand), abs=1e-12)
    tensors = [torch.from_numpy(part) for part in (mean, scale, dof)]
    library = prediction_nll(RegressionPrediction(*tensors, *tensors), torch.from_numpy(y)).mean()
    assert regression.nll(mean, scale, dof, y) == pytest.approx(float(library), abs=1e-12)


@pytest.mark.parametrize("dof", [2.5, 8.0, math.inf])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_intervals_cover_what_they_promise(dof: float, level: float) -> None:
    count = 40_000
    y = predictive(1.0, 2.0, dof).rvs(size=(count, 1), random_state=1)
    shape = np.ones((count, 1))
    assert regression.coverage(shape, 2 * shape, dof * shape, y, level) == pytest.approx(level, abs=0.006)


def test_rmse_over_several_targets() -> None:
    assert regression.rmse([[0.0, 0.0]], [[3.0, 4.0]]) == pytest.approx(math.sqrt(12.5))
