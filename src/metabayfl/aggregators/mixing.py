"""Steps before a rule that make honest messages alike, so that the rule is not led astray by clients that merely differ."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.aggregators.rows import distances
from metabayfl.types import Key


def nearest_neighbour_mixing(matrix: Tensor, hostile: int) -> Tensor:
    """Every row becomes the mean of its ``C - hostile`` nearest rows, itself among them (Allouah et al. 2023, algorithm 2).

    Args:
        matrix: ``(C, P)``.
        hostile: how many rows may be hostile.

    Returns:
        ``(C, P)``.
    """
    count = len(matrix)
    order = distances(matrix).argsort(dim=1, stable=True)[:, : count - hostile]
    return torch.stack([matrix[near].mean(0) for near in order])


def bucketing(matrix: Tensor, size: int, key: Key) -> Tensor:
    """Means of random groups of ``size`` rows, the last group the smaller rest (Karimireddy, He, Jaggi 2022, algorithm 1).

    As many rows as before may be hostile, among fewer. The groups are drawn by the row's place in the matrix.

    Args:
        matrix: ``(C, P)``.
        size: rows a group.
        key: draws the groups, anew every round.

    Returns:
        ``(ceil(C / size), P)``.
    """
    order = random.permutation(key, torch.ones(len(matrix), device=matrix.device))
    return torch.stack([matrix[group].mean(0) for group in torch.split(order, size)])
