"""Example-level privacy of one client's sufficient statistics: class counts and sums of features, released once with Gaussian noise.

The conjugate classification head's posterior is a function of these sums alone (:mod:`metabayfl.heads.conjugate_classification`), so that one
noisy release makes everything after it private: posterior, predictions, and any number of them. One example of class ``c`` with features ``phi``,
clipped to norm ``R``, adds 1 to a count and ``phi`` to a row of the sum. With counts weighted by ``R`` the pair moves by ``sqrt(R^2 + R^2)`` at most
when the example joins or leaves, whatever its class: its joint sensitivity is ``R sqrt(2)``, and noise ``N(0, (z R sqrt(2))^2)`` on
``(R count, sum)`` costs one Gaussian release of multiplier ``z``.

The evidence mixture and leave-one-out look at single examples. They are not covered: use the plain head, with a grid of one point.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabayfl.privacy.accounting import Plan, epsilon
from metabayfl.privacy.noise import gaussian
from metabayfl.privacy.words import Words
from metabayfl.types import Tree


def clipped_features(features: Tensor, bound: float) -> Tensor:
    """``phi min(1, R / |phi|)`` for every row ``(N, M)``; rows with NaN or infinity become zero."""
    length = torch.linalg.vector_norm(features.double(), dim=-1, keepdim=True)
    known = torch.isfinite(length)
    factor = torch.where(known & (length > bound), bound / length, torch.ones_like(length))
    return torch.where(known, features * factor.to(features.dtype), torch.zeros_like(features))


def private_statistics(statistics: Tree, bound: float, noise_multiplier: float, words: Words) -> Tree:
    """Noisy statistics from which the posterior is still proper.

    What comes after the noise is post-processing and costs nothing: a count below 0 becomes 0, so that the posterior's ``kappa'`` and ``a'`` are
    never below the prior's, and a row of the sum is shortened to ``count R``, the longest that clipped features can add up to.

    Args:
        statistics: ``{"count": (K,), "sum": (K, M)}`` of features that went through :func:`clipped_features` with the same bound.
        bound: ``R``.
        noise_multiplier: ``z``; :func:`release_cost` says what it costs.
        words: the client's stream, :func:`metabayfl.privacy.words.secure` unless it is a simulation.

    Returns:
        Statistics of the same shapes.
    """
    draw = gaussian(words, noise_multiplier * bound * math.sqrt(2.0))
    count, total = statistics["count"], statistics["sum"]
    noisy = torch.clamp(count + draw(tuple(count.shape)).to(count) / bound, min=0.0)
    rows = total + draw(tuple(total.shape)).to(total)
    length = torch.linalg.vector_norm(rows, dim=-1)
    shorter = torch.clamp(noisy * bound / torch.clamp(length, min=torch.finfo(rows.dtype).tiny), max=1.0)
    return {"count": noisy, "sum": rows * shorter.unsqueeze(-1)}


def release_cost(noise_multiplier: float, delta: float, releases: int = 1) -> float:
    """``epsilon`` of that many releases from the same examples; neighbours differ by one example more or less.

    Example:
        >>> round(release_cost(4.0, 1e-5), 2)
        0.93
    """
    return epsilon(Plan(clients=1, cohort=1, noise_multiplier=noise_multiplier, sampling="all"), releases, delta)
