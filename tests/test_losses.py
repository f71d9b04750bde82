"""Likelihoods against torch and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from metabayfl import losses
from metabayfl.losses import CATEGORICAL, GAUSSIAN
from metabayfl.types import Batch, ClassPrediction, RegressionPrediction

GENERATOR = np.random.default_rng(0)
LOGITS = torch.from_numpy(3 * GENERATOR.standard_normal((5, 4, 3)))  # S, N, K
CLASSES = torch.tensor([0, 2, 1, 1])
OUTPUTS = torch.from_numpy(GENERATOR.standard_normal((5, 4, 6)))  # S, N, 2R
TARGETS = torch.from_numpy(GENERATOR.standard_normal((4, 3)))


def close(found: torch.Tensor, expected: object, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=tolerance, atol=tolerance)


def student(mean: float, scale: float, dof: float, dtype: torch.dtype = torch.float64) -> RegressionPrediction:
    fields = [torch.full((4, 3), value, dtype=dtype) for value in (mean, scale, dof)]
    return RegressionPrediction(*fields, *fields)


def test_likelihood_by_kind() -> None:
    assert losses.likelihood("classification") is CATEGORICAL
    assert losses.likelihood("regression") is GAUSSIAN


def test_categorical_loss_is_cross_entropy() -> None:
    close(CATEGORICAL.loss(LOGITS[0], CLASSES), functional.cross_entropy(LOGITS[0], CLASSES, reduction="none"))
    assert torch.isfinite(CATEGORICAL.loss(torch.tensor([[1e4, -1e4]]), torch.tensor([1]))).all()


def test_gaussian_loss_is_torchs_summed_over_targets() -> None:
    mean, log_scale = OUTPUTS[0].chunk(2, -1)
    expected = functional.gaussian_nll_loss(mean, TARGETS, torch.exp(2 * log_scale), full=True, reduction="none").sum(-1)
    close(GAUSSIAN.loss(OUTPUTS[0], TARGETS), expected)


def test_mean_loss_skips_padding_and_is_flat_where_all_is_padding() -> None:
    batch = Batch(LOGITS[0], CLASSES, torch.tensor([1.0, 0.0, 1.0, 0.0]).double())
    close(losses.mean_loss(CATEGORICAL, LOGITS[0], batch), functional.cross_entropy(LOGITS[0, [0, 2]], CLASSES[[0, 2]]))
    nothing = batch._replace(mask=torch.zeros(4).double())
    slope, value = torch.func.grad_and_value(lambda logits: losses.mean_loss(CATEGORICAL, logits, nothing))(LOGITS[0])
    assert (float(value), torch.count_nonzero(slope)) == (0.0, 0)


def test_entropy_is_scipys_and_0_at_certainty() -> None:
    probs = torch.softmax(LOGITS[0], -1)
    close(losses.entropy(probs), stats.entropy(probs.numpy(), axis=-1))
    assert losses.entropy(torch.tensor([1.0, 0.0])) == 0


def test_one_set_of_logits_has_no_epistemic_part() -> None:
    out = CATEGORICAL.predict(LOGITS[0])
    assert isinstance(out, ClassPrediction)
    close(out.probs, functional.softmax(LOGITS[0], -1))
    close(out.total, out.aleatoric)
    assert torch.count_nonzero(out.epistemic) == 0


def test_samples_split_into_mutual_information_and_mean_entropy() -> None:
    out, probs = CATEGORICAL.predict_samples(LOGITS), torch.softmax(LOGITS, -1).numpy()
    close(out.probs, probs.mean(0))
    close(out.total, stats.entropy(probs.mean(0), axis=-1))
    close(out.aleatoric, stats.entropy(probs, axis=-1).mean(0))
    close(out.epistemic, stats.entropy(probs, np.broadcast_to(probs.mean(0), probs.shape), axis=-1).mean(0), 1e-10)


def test_equal_samples_have_no_epistemic_part() -> None:
    out = losses.split_entropy(torch.softmax(LOGITS[:1], -1).expand(7, -1, -1))
    assert ((out.epistemic >= 0) & (out.epistemic < 1e-12)).all()


def test_gaussian_prediction_and_mixture_moments() -> None:
    alone = GAUSSIAN.predict(OUTPUTS[0])
    close(alone.total, torch.exp(2 * OUTPUTS[0, :, 3:]))
    assert torch.isinf(alone.dof).all()
    out, means, scales = GAUSSIAN.predict_samples(OUTPUTS), OUTPUTS[..., :3], torch.exp(OUTPUTS[..., 3:])
    close(out.mean, means.mean(0))
    close(out.total, (scales**2 + means**2).mean(0) - means.mean(0) ** 2)
    close(out.scale**2, out.total)
    close(out.total, out.aleatoric + out.epistemic)


@pytest.mark.parametrize("dof", [0.7, 3.0, 250.0, 1e6])
def test_student_density_is_scipys(dof: float) -> None:
    expected = stats.t.logpdf(TARGETS.numpy(), dof, 0.3, 1.7)
    close(losses.student_t_log_density(TARGETS, student(0.3, 1.7, dof)), expected, 1e-9)
    single = losses.student_t_log_density(TARGETS.float(), student(0.3, 1.7, dof, torch.float32))
    close(single, expected, 1e-5)


def test_infinite_freedom_is_the_gaussian_with_finite_slopes() -> None:
    prediction = student(0.3, 1.7, math.inf)
    close(losses.student_t_log_density(TARGETS, prediction), stats.norm.logpdf(TARGETS.numpy(), 0.3, 1.7))
    slope = torch.func.grad(lambda scale: losses.student_t_log_density(TARGETS, prediction._replace(scale=scale)).sum())(prediction.scale)
    close(slope, ((TARGETS - 0.3) ** 2 / 1.7**2 - 1) / 1.7)


def test_prediction_nll_of_either_kind() -> None:
    out = CATEGORICAL.predict(LOGITS[0])
    close(losses.prediction_nll(out, CLASSES), CATEGORICAL.loss(LOGITS[0], CLASSES))
    close(losses.prediction_nll(GAUSSIAN.predict(OUTPUTS[0]), TARGETS), GAUSSIAN.loss(OUTPUTS[0], TARGETS))


def test_a_class_of_probability_0_costs_much_but_not_infinity() -> None:
    certain = torch.tensor([[1.0, 0.0]])
    out = losses.prediction_nll(ClassPrediction(certain, *[torch.zeros(1)] * 3), torch.tensor([1]))
    assert 80 < float(out) < 100


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_interval_half_width_is_scipys(level: float) -> None:
    scale, dof = (torch.tensor(values, dtype=torch.float64) for values in ([0.5, 2.0, 1.7], [0.7, 30.0, math.inf]))
    expected = [stats.t.interval(level, 0.7, scale=0.5)[1], stats.t.interval(level, 30.0, scale=2.0)[1], stats.norm.interval(level, scale=1.7)[1]]
    close(losses.student_t_half_width(scale, dof, level), expected, 1e-9)
    assert losses.student_t_half_width(scale.float(), dof.float(), level).dtype == torch.float32
