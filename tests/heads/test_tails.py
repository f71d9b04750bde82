"""Tails by evidence: against SciPy's Student-t, and on noise whose shape is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from metabayfl import random
from metabayfl.evaluation import regression
from metabayfl.heads import conjugate_regression, evidence, remember, tails
from metabayfl.heads.head import predict
from metabayfl.types import RegressionPrediction, Tree


def standard(y: Tensor, scale: float = 1.0, dof: float = 12.0) -> RegressionPrediction:
    """A predictive around 0 that is the same for every row."""
    one = torch.ones_like(y)
    total = scale**2 * dof / (dof - 2) * one
    return RegressionPrediction(0 * one, scale * one, dof * one, total, 0.75 * total, 0.25 * total)


def noise(count: int, dof: float, seed: int = 0) -> Tensor:
    drawn = np.random.default_rng(seed).standard_t(dof, (count, 1)) if np.isfinite(dof) else np.random.default_rng(seed).normal(size=(count, 1))
    return torch.from_numpy(drawn)


def test_weights_are_the_likelihood_of_the_residuals() -> None:
    y, scale = noise(7, 4.0), 1.7
    pairs = [(factor, dof) for factor in tails.FACTORS for dof in tails.DOFS]
    log_weight = np.array([stats.t.logpdf(y.numpy() / scale, dof, scale=c).sum() - abs(np.log(c)) for c, dof in pairs])
    weight = np.exp(log_weight - log_weight.max()) / np.exp(log_weight - log_weight.max()).sum()
    found = tails.weigh(standard(y, scale), y, torch.ones(7))
    np.testing.assert_allclose(found["factor"].numpy(), [np.exp(sum(w * np.log(c) for w, (c, _) in zip(weight, pairs, strict=True)))], rtol=1e-12)
    np.testing.assert_allclose(found["dof"].numpy(), [1 / sum(w / dof for w, (_, dof) in zip(weight, pairs, strict=True))], rtol=1e-12)


def test_padding_changes_nothing() -> None:
    y = noise(5, 3.0)
    padded = torch.cat([y, torch.full((2, 1), torch.nan, dtype=y.dtype)])
    alone, beside = tails.weigh(standard(y), y, torch.ones(5)), tails.weigh(standard(padded), padded, torch.tensor([1.0] * 5 + [0.0] * 2))
    torch.testing.assert_close(alone, beside)


@pytest.mark.parametrize("true, width", [(np.inf, 1.0), (3.0, 1.0), (np.inf, 0.6), (np.inf, 1.9)])
def test_intervals_learn_the_shape_of_the_noise(true: float, width: float) -> None:
    seen, fresh = width * noise(4_000, true, 1), width * noise(4_000, true, 2)
    found = tails.weigh(standard(seen), seen, torch.ones(len(seen)))
    shaped = tails.reshape(standard(fresh), found, torch.tensor(4_000.0))
    covered = regression.coverage(shaped.mean, shaped.scale, shaped.dof, fresh)
    assert abs(covered - 0.9) < 0.02
    assert abs(covered - 0.9) <= abs(regression.coverage(0 * fresh, standard(fresh).scale, standard(fresh).dof, fresh) - 0.9)


def test_variances_keep_their_proportion_and_add_up() -> None:
    y = noise(20, 3.0)
    shaped = tails.reshape(standard(y), tails.weigh(standard(y), y, torch.ones(20)), torch.tensor(20.0))
    torch.testing.assert_close(shaped.aleatoric, 3 * shaped.epistemic)
    torch.testing.assert_close(shaped.total, shaped.aleatoric + shaped.epistemic)
    torch.testing.assert_close(shaped.total, shaped.scale**2 * shaped.dof / (shaped.dof - 2))


def fitted(shaped: bool, count: int) -> tuple[RegressionPrediction, Tree]:
    """A client of ``count`` samples, and what its head predicts."""
    head = conjugate_regression(2, 3, shaped=shaped)
    start, x = head.init(random.key(0)), random.normal(random.key(1), (count + 4, 3))
    kept = remember(x[:count], random.normal(random.key(2), (count, 2)), torch.ones(count))
    points = evidence.weigh(head, start, head.statistics(kept), kept, evidence.grid((1.0,), (0.5, 1.0), x))
    if head.tails:
        points["tails"] = head.tails(start, head.statistics(kept), kept, points)
    prediction = predict(head, start, head.statistics(kept), points, x[count:], random.key(0))
    assert isinstance(prediction, RegressionPrediction)
    return prediction, points


def test_without_a_sample_the_predictive_stays() -> None:
    shaped, plain = fitted(True, 0)[0], fitted(False, 0)[0]
    for one, other in zip(shaped, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_each_target_has_its_own_tails_and_the_mean_stays() -> None:
    (shaped, points), (plain, _) = fitted(True, 9), fitted(False, 9)
    assert points["tails"]["dof"].shape == (2,)
    torch.testing.assert_close(shaped.mean, plain.mean)
    torch.testing.assert_close(shaped.scale, plain.scale * points["tails"]["factor"].float())
