"""Tails by evidence: how heavy a client's noise is, and whether its intervals are too wide, is read off its own leave-one-out residuals.

The conjugate head assumes Gaussian noise. Where a client's noise is not, as with a few large errors among many small ones, the Student-t predictive
has the right variance and the wrong intervals. So a client weighs a small grid of (factor on the scale, degrees of freedom) by the likelihood of its
standardised leave-one-out residuals, as :mod:`metabayfl.heads.evidence` weighs the prior's strengths, and predicts with the geometric mean of
the factors and the harmonic mean of the degrees of freedom. No bytes, no training, and without a sample the predictive stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl.losses import student_t_log_density
from metabayfl.types import RegressionPrediction, Tree

FACTORS = tuple(2.0 ** (step / 4) for step in range(-4, 5))
DOFS = (3.0, 4.0, 6.0, 10.0, 30.0)
"""From the heaviest tails with a finite variance to nearly Gaussian ones."""


def weigh(left_out: RegressionPrediction, y: Tensor, mask: Tensor) -> Tree:
    """The tails of each target.

    Args:
        left_out: what the other samples predict at each sample, fields ``(N, R)``.
        y: what was seen there, ``(N, R)``.
        mask: ``(N,)``, or weights.

    Returns:
        ``{"factor": (R,), "dof": (R,)}``. The prior weight of a factor ``c`` is ``min(c, 1/c)``: it takes evidence to move the intervals.
    """
    kept = mask.unsqueeze(-1) > 0
    residual = torch.where(kept, (y - left_out.mean) / left_out.scale, torch.zeros_like(y))
    pairs = torch.tensor([(factor, dof) for factor in FACTORS for dof in DOFS], dtype=y.dtype, device=y.device)
    log_factor, dof = torch.log(pairs[:, :1]), pairs[:, 1:]  # (G, 1)

    def evidence(factor: Tensor, freedom: Tensor) -> Tensor:
        zero = torch.zeros_like(residual)
        density = student_t_log_density(residual, RegressionPrediction(zero, zero + factor, zero + freedom, zero, zero, zero))
        return (mask.unsqueeze(-1) * density).sum(0)

    weight = torch.softmax(torch.func.vmap(evidence)(pairs[:, 0], pairs[:, 1]) - log_factor.abs(), 0)  # (G, R)
    return {"factor": torch.exp((weight * log_factor).sum(0)), "dof": 1.0 / (weight / dof).sum(0)}


def reshape(prediction: RegressionPrediction, tails: Tree, count: Tensor) -> RegressionPrediction:
    """The predictive with a client's tails, its variances in the proportion that they had; unchanged where ``count`` is 0."""
    known = count > 0
    scale = torch.where(known, prediction.scale * tails["factor"], prediction.scale)
    dof = torch.where(known, tails["dof"].expand_as(scale), prediction.dof)
    total = scale**2 * dof / (dof - 2.0)
    ratio = total / prediction.total
    return RegressionPrediction(prediction.mean, scale, dof, total, prediction.aleatoric * ratio, prediction.epistemic * ratio)
