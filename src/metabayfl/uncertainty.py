"""How sure a prediction is, why not surer, and which cases a person should see.

Total uncertainty is aleatoric (no amount of the client's data would remove it) plus epistemic (more data would). A case is referred to a person
when its score, any of the three, exceeds a threshold that was set on cases with known answers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabayfl.errors import ConfigError, DataError
from metabayfl.losses import split_entropy
from metabayfl.types import ClassPrediction


def sampled_split(probs: Tensor, samples: Tensor) -> ClassPrediction:
    """Probabilities in closed form with the uncertainty of posterior samples.

    ``total = H(mean_s p^s)``, ``aleatoric = mean_s H(p^s)``, ``epistemic`` their difference, the mutual information (Depeweg et al. 2018,
    arXiv 1710.07283, section 3). ``probs`` is reported as it is and need not be the samples' mean.

    Args:
        probs: ``(N, K)``.
        samples: ``(S, N, K)``.
    """
    return split_entropy(samples)._replace(probs=probs)


def refer(scores: Tensor, threshold: Tensor | float) -> Tensor:
    """True for a case to refer: its score exceeds the threshold, or is no number."""
    return ~(scores <= threshold)


def threshold_for_share(scores: Tensor, share: float) -> float:
    """The lowest threshold that refers at most ``share`` of these cases.

    Args:
        scores: ``(N,)``, higher is less sure.
        share: of the cases, from 0 to 1.

    Raises:
        ConfigError: if ``share`` is no share.
        DataError: if there is no case, or a score is no number.

    Example:
        >>> scores = torch.tensor([0.1, 0.9, 0.2, 0.7, 0.3])
        >>> refer(scores, threshold_for_share(scores, 0.4)).tolist()
        [False, True, False, True, False]
    """
    _check(scores, "share", share)
    kept = len(scores) - math.floor(share * len(scores) + 1e-9)
    return float(torch.sort(scores).values[kept - 1]) if kept else -math.inf


def threshold_for_error(scores: Tensor, wrong: Tensor, error: float) -> float:
    """The highest threshold under which the accepted cases are wrong at most at the rate ``error``; minus infinity (refer all) where none is.

    The guarantee holds for these cases; new ones from the same source err at about this rate.

    Args:
        scores: ``(N,)``, higher is less sure.
        wrong: ``(N,)``, 1 or True where the answer was wrong.
        error: wanted rate among accepted cases, from 0 to 1.

    Raises:
        ConfigError: if ``error`` is no rate.
        DataError: if there is no case, a score is no number, or the shapes differ.

    Example:
        >>> threshold_for_error(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 0, 1, 1]), 0.4)
        3.0
    """
    _check(scores, "error", error)
    if wrong.shape != scores.shape:
        raise DataError(f"{tuple(wrong.shape)} answers for {tuple(scores.shape)} scores: expected one for each.")
    ordered, order = torch.sort(scores)
    rate = torch.cumsum(wrong[order].double(), 0) / torch.arange(1, len(scores) + 1, device=scores.device)
    closed = torch.cat([ordered[1:] > ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])  # equal scores are accepted together
    fits = ordered[closed & (rate <= error)]
    return float(fits[-1]) if len(fits) else -math.inf


def _check(scores: Tensor, name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} {value}: expected a number from 0 to 1.")
    if scores.ndim != 1 or len(scores) == 0 or bool(torch.isnan(scores).any()):
        raise DataError(f"scores of shape {tuple(scores.shape)}: expected one number for each of at least one case.")
