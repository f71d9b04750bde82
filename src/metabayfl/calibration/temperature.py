"""Temperature scaling from federated sums: the baseline of calibration.

``softmax(log p / T)`` for one ``T`` of the whole population. Each client sends its negative log likelihood at the temperatures of a public grid: a
few dozen numbers that add up, so that secure aggregation applies. With ``T`` alone nothing becomes personal: it is what to beat.

References:
    Guo, Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks", arXiv 1706.04599, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl.errors import DataError

GRID = tuple(2.0 ** (step / 8) for step in range(-24, 25))
"""Temperatures from 1/8 to 8."""

_LEAST = 1e-12


def scaled(probs: Tensor, temperature: float) -> Tensor:
    """``softmax(log p / T)``, ``(N, K)``; the order of the classes stays.

    Example:
        >>> scaled(torch.tensor([[0.8, 0.2]]), 2.0)
        tensor([[0.6667, 0.3333]])
    """
    return torch.softmax(torch.log(probs.clamp(min=_LEAST)) / temperature, -1)


def sums(probs: Tensor, y: Tensor) -> Tensor:
    """One client's share: the summed NLL of its cases at every temperature of :data:`GRID`, ``(G,)``, float64, in nats.

    Args:
        probs: ``(N, K)``.
        y: ``(N,)`` true classes.
    """
    logits = torch.log(probs.double().clamp(min=_LEAST))
    powers = 1.0 / torch.tensor(GRID, dtype=torch.float64)
    scores = logits.unsqueeze(0) * powers.view(-1, 1, 1)
    picked = torch.gather(scores, -1, y.view(1, -1, 1).expand(len(powers), -1, 1)).squeeze(-1)
    return (torch.logsumexp(scores, -1) - picked).sum(-1)


def fit(total: Tensor) -> float:
    """The temperature of the least NLL: the vertex of the parabola through the best grid point and its neighbours, in ``log T``.

    Args:
        total: the clients' :func:`sums`, added up.

    Raises:
        DataError: if it is not one finite number for each temperature.
    """
    if total.shape != (len(GRID),) or not bool(torch.isfinite(total).all()):
        raise DataError(f"sums of shape {tuple(total.shape)}: expected a finite number for each of {len(GRID)} temperatures.")
    at = int(total[1:-1].argmin()) + 1
    low, middle, high = (float(value) for value in total[at - 1 : at + 2])
    bend = low - 2.0 * middle + high
    shift = 0.5 * (low - high) / bend if bend > 0 else 0.0
    return float(GRID[at] * 2.0 ** (max(-1.0, min(1.0, shift)) / 8))
