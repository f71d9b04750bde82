"""Likelihoods: how raw model outputs become a loss in nats and a prediction."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from metabayfl.types import Batch, ClassPrediction, Kind, Likelihood, RegressionPrediction


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """``sum(values * mask) / sum(mask)``, shape ``()``; 0 where nothing is real, so that an empty batch has gradient 0.

    Example:
        >>> float(masked_mean(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([1.0, 1.0, 0.0])))
        2.0
    """
    return torch.sum(values * mask) / torch.clamp(torch.sum(mask), min=1.0)


def mean_loss(likelihood: Likelihood, outputs: Tensor, batch: Batch) -> Tensor:
    """Mean negative log likelihood of the real examples, nats, shape ``()``."""
    return masked_mean(likelihood.loss(outputs, batch.y), batch.mask)


def entropy(probs: Tensor) -> Tensor:
    """Entropy of the last axis in nats; ``0 log 0 = 0``."""
    return -torch.xlogy(probs, probs).sum(-1)


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return torch.logsumexp(outputs, -1) - torch.gather(outputs, -1, y.unsqueeze(-1)).squeeze(-1)


def _class_prediction(outputs: Tensor) -> ClassPrediction:
    probs = torch.softmax(outputs, -1)
    total = entropy(probs)
    return ClassPrediction(probs, total, total, torch.zeros_like(total))


def split_entropy(probs: Tensor) -> ClassPrediction:
    """Total, aleatoric and epistemic uncertainty of ``S`` posterior samples ``(S, N, K)``: entropy of the mean, mean entropy, mutual information."""
    mean = probs.mean(0)
    total, aleatoric = entropy(mean), entropy(probs).mean(0)
    return ClassPrediction(mean, total, aleatoric, torch.clamp(total - aleatoric, min=0.0))


def _class_samples(outputs: Tensor) -> ClassPrediction:
    return split_entropy(torch.softmax(outputs, -1))


def _gaussian_nll(outputs: Tensor, y: Tensor) -> Tensor:
    mean, log_scale = outputs.chunk(2, -1)
    return (0.5 * ((y - mean) * torch.exp(-log_scale)) ** 2 + log_scale + 0.5 * math.log(2 * math.pi)).sum(-1)


def _gaussian_prediction(outputs: Tensor) -> RegressionPrediction:
    mean, log_scale = outputs.chunk(2, -1)
    scale = torch.exp(log_scale)
    return RegressionPrediction(mean, scale, torch.full_like(mean, math.inf), scale**2, scale**2, torch.zeros_like(mean))


def _gaussian_samples(outputs: Tensor) -> RegressionPrediction:
    means, log_scales = outputs.chunk(2, -1)
    aleatoric = torch.exp(2 * log_scales).mean(0)
    epistemic = means.var(0, correction=0)
    total = aleatoric + epistemic
    return RegressionPrediction(means.mean(0), total.sqrt(), torch.full_like(total, math.inf), total, aleatoric, epistemic)


CATEGORICAL = Likelihood("classification", _cross_entropy, _class_prediction, _class_samples)
"""Outputs are ``K`` logits."""

GAUSSIAN = Likelihood("regression", _gaussian_nll, _gaussian_prediction, _gaussian_samples)
"""Outputs are ``R`` means followed by ``R`` log standard deviations; ``S`` samples are matched by one Gaussian's moments."""


def likelihood(kind: Kind) -> Likelihood:
    """The likelihood that goes with a kind of problem."""
    return CATEGORICAL if kind == "classification" else GAUSSIAN


def prediction_nll(prediction: ClassPrediction | RegressionPrediction, y: Tensor) -> Tensor:
    """Negative log predictive probability (or density) per example, nats, ``(N,)``; targets of one example add up."""
    if isinstance(prediction, ClassPrediction):
        picked = torch.gather(prediction.probs, -1, y.unsqueeze(-1)).squeeze(-1)
        return -torch.log(torch.clamp(picked, min=torch.finfo(picked.dtype).tiny))
    return -student_t_log_density(y, prediction).sum(-1)


def student_t_log_density(y: Tensor, prediction: RegressionPrediction) -> Tensor:
    """Log density per target ``(N, R)``; the Gaussian where ``dof`` is infinite."""
    z = (y - prediction.mean) / prediction.scale
    finite = torch.isfinite(prediction.dof)
    dof = torch.where(finite, prediction.dof, torch.ones_like(prediction.dof))
    half = dof.double() / 2  # a difference of log gammas: float32 is off by 0.004 nats at 1e5 degrees of freedom
    norm = (torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * torch.log(half * 2 * math.pi)).to(z.dtype)
    student = norm - (dof + 1) / 2 * torch.log1p(z**2 / dof)
    gauss = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    return torch.where(finite, student, gauss) - torch.log(prediction.scale)


def student_t_half_width(scale: Tensor, dof: Tensor, level: float | Tensor) -> Tensor:
    """Half the width of the central interval that holds ``level`` of the probability, one number or one per target ``(R,)``.

    The Gaussian's where ``dof`` is infinite.
    """
    below = (1.0 - np.asarray(level, dtype=np.float64)) / 2
    quantile = special.stdtrit(dof.double().numpy(), below)
    return scale * torch.from_numpy(-np.where(np.isfinite(dof.numpy()), quantile, special.ndtri(below))).to(scale.dtype)
