"""From thresholds to what a person reads: the classes that may be true, the interval that may hold the target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabayfl.losses import student_t_half_width
from metabayfl.types import ClassPrediction, RegressionPrediction


def class_sets(prediction: ClassPrediction, limits: Tensor, coverage: float) -> Tensor:
    """Which classes each set holds, ``(N, K)``: those as probable as the limit.

    A set may be empty: then even the likeliest class is strangely unlikely. Where a limit is minus infinity there is no guarantee, and the set is the
    model's own: the likeliest classes whose probabilities reach ``coverage``.

    Args:
        prediction: of ``N`` cases.
        limits: ``(K,)``, from :func:`metabayfl.calibration.set_limits`.
        coverage: what the limits are for.
    """
    kept = prediction.probs >= limits
    if all(map(math.isfinite, limits.tolist())):
        return kept
    probs, order = torch.sort(prediction.probs, -1, descending=True)
    before = torch.cumsum(probs, -1) - probs
    own = torch.zeros_like(prediction.probs, dtype=torch.bool).scatter(-1, order, before < coverage)
    return torch.where(torch.isfinite(limits), kept, own)


def interval_half_width(prediction: RegressionPrediction, limits: Tensor, coverage: float) -> Tensor:
    """Half the width of each interval around the mean, ``(N, R)``: central in the predictive, with the mass that the limits leave inside.

    Where a limit is minus infinity there is no guarantee, and the mass is ``coverage``, as the model has it.
    """
    mass = torch.where(torch.isfinite(limits), 1.0 - limits.double(), torch.full_like(limits, coverage, dtype=torch.float64))
    return student_t_half_width(prediction.scale, prediction.dof, mass)
