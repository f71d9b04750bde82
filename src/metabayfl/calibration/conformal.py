"""Conformal thresholds: guarantees that need no model to be right, only that the calibration cases and the new one could have come in any order.

A *conformity* is a number that is low where a case is strange: the probability that was given to the truth, or the probability in both tails beyond
it. Calibration cases carry weights, so that a client's own cases and those of other clients can stand in one list; the new case weighs 1. With all
weights 1 the guarantees are the exact ones of the papers.

References:
    Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world", sections 2.2 and 4.5 (Mondrian). Tibshirani, Barber, Candes, Ramdas
    2019, "Conformal prediction under covariate shift", arXiv 1904.06019, lemma 3 (weights). Angelopoulos, Bates, Fisch, Lei, Schuster 2022,
    "Conformal risk control", arXiv 2208.02814, theorem 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabayfl.errors import ConfigError, DataError


def set_threshold(conformity: Tensor, coverage: float, weight: Tensor | None = None) -> float:
    """The least conformity that a prediction set of this coverage keeps; minus infinity (keep everything) where there are too few cases.

    A candidate ``a`` is kept if its p-value ``(sum of the weights of cases <= a, plus 1) / (sum of all weights, plus 1)`` exceeds ``1 - coverage``.
    The truth of a new case is then kept with probability at least ``coverage``, and at most ``1 / (N + 1)`` more where no two cases tie.

    Args:
        conformity: of the calibration cases ``(N,)``.
        coverage: wanted probability, between 0 and 1.
        weight: ``(N,)``, not negative; None means 1 each.

    Raises:
        ConfigError: if ``coverage`` is no probability.
        DataError: if a conformity or weight is no number, or there is not one weight for each.

    Example:
        >>> set_threshold(torch.tensor([0.9, 0.2, 0.7, 0.5, 0.8, 0.6, 0.4, 0.95, 0.85], dtype=torch.float64), 0.8)
        0.4
    """
    require_share("coverage", coverage)
    values, weights = _sorted(conformity, weight)
    below = torch.cumsum(weights, 0) + 1.0
    allowed = (1.0 - coverage) * (weights.sum() + 1.0) * (1 + 1e-12)
    kept = torch.nonzero(below > allowed)
    return float(values[kept[0]]) if len(kept) and float(allowed) >= 1.0 else -math.inf


def novelty_threshold(score: Tensor, rate: float, weight: Tensor | None = None) -> float:
    """The score above which a case is called novel: at most a share ``rate`` of ordinary cases is. Infinity where there are too few to tell.

    Args:
        score: higher is stranger, ``(N,)``.
        rate: of false alarms, between 0 and 1.
        weight: as in :func:`set_threshold`.

    Raises:
        ConfigError: if ``rate`` is no share.
        DataError: as :func:`set_threshold`.
    """
    require_share("novelty rate", rate)
    return -set_threshold(-score, 1.0 - rate, weight)


def risk_threshold(uncertainty: Tensor, wrong: Tensor, error: float, weight: Tensor | None = None) -> float:
    """The highest uncertainty to accept so that a new case is accepted and wrong with probability at most ``error``; minus infinity: refer all.

    Conformal risk control of the loss "accepted and wrong", which can only grow with the threshold.

    Args:
        uncertainty: of the calibration cases ``(N,)``.
        wrong: 1 where the answer was wrong, ``(N,)``; or any loss in [0, 1].
        error: wanted share of all cases, between 0 and 1.
        weight: as in :func:`set_threshold`.

    Raises:
        ConfigError: if ``error`` is no share.
        DataError: if a number is missing, or there is not one answer for each case.

    Example:
        >>> risk_threshold(torch.arange(20.0), (torch.arange(20) > 14).double(), 0.1)
        15.0
    """
    require_share("error", error)
    if wrong.shape != uncertainty.shape:
        raise DataError(f"{tuple(wrong.shape)} answers for {tuple(uncertainty.shape)} cases: expected one for each.")
    values, weights = _sorted(uncertainty, weight)
    answers = wrong[torch.argsort(uncertainty, stable=True)].double()
    risk = (torch.cumsum(weights * answers, 0) + 1.0) / (weights.sum() + 1.0)
    allowed = error * (1 + 1e-12)
    if allowed * (float(weights.sum()) + 1.0) < 1.0:
        return -math.inf
    over = values[risk > allowed]
    accepted = values[values < over[0]] if len(over) else values.new_tensor([math.inf])
    return float(accepted[-1]) if len(accepted) else -math.inf


def require_share(name: str, value: float) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} {value}: expected a number between 0 and 1.")


def _sorted(values: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values in rising order with their weights, float64."""
    weights = torch.ones_like(values, dtype=torch.float64) if weight is None else weight.double()
    if values.ndim != 1 or weights.shape != values.shape or bool(torch.isnan(values).any() | ~(weights >= 0).all()):
        raise DataError(f"conformity {tuple(values.shape)} with weights {tuple(weights.shape)}: expected a number and a weight for each case.")
    order = torch.argsort(values, stable=True)
    return values[order].double(), weights[order]
