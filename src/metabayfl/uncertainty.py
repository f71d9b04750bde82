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


def threshold_for_share(scores: Tensor, share: float, weight: Tensor | None = None) -> float:
    """The lowest threshold that refers at most ``share`` of these cases.

    Args:
        scores: ``(N,)``, higher is less sure.
        share: of the cases, from 0 to 1.
        weight: of the cases ``(N,)``; None means that all count alike.

    Raises:
        ConfigError: if ``share`` is no share.
        DataError: if there is no case, a score is no number, or there is not one weight for each.

    Example:
        >>> scores = torch.tensor([0.1, 0.9, 0.2, 0.7, 0.3])
        >>> refer(scores, threshold_for_share(scores, 0.4)).tolist()
        [False, True, False, True, False]
    """
    weight = torch.ones_like(scores) if weight is None else weight
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"share {share}: expected a number from 0 to 1.")
    if scores.ndim != 1 or len(scores) == 0 or weight.shape != scores.shape or bool(torch.isnan(scores).any()):
        raise DataError(f"scores {tuple(scores.shape)} with weights {tuple(weight.shape)}: expected one number and weight for each of some cases.")
    ordered, order = torch.sort(scores)
    summed = torch.cumsum(weight[order].double(), 0)
    budget = share * summed[-1] * (1 + 1e-9)  # of the same sum, so that nothing lies above the last score, whatever is rounded
    return -math.inf if budget >= summed[-1] else float(ordered[summed[-1] - summed <= budget][0])
