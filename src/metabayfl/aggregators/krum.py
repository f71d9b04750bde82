"""Rules that trust the messages which lie close to most others: Krum and multi-Krum (Blanchard, El Mhamdi, Guerraoui, Stainer 2017).

A row's score is the sum of its squared distances to its ``C - hostile - 1`` nearest others, as in Allouah et al. 2023 and byzfl; the first paper
sums over one less.
"""

from __future__ import annotations

from torch import Tensor

from metabayfl.aggregators.rows import distances


def scores(matrix: Tensor, hostile: int) -> Tensor:
    """How far each row lies from its nearest others, ``(C,)``."""
    nearest = distances(matrix).square().sort(1).values[:, 1 : len(matrix) - hostile]
    return nearest.sum(1)


def krum(matrix: Tensor, hostile: int) -> Tensor:
    """The row with the least score: one client's message as it is.

    Args:
        matrix: ``(C, P)``.
        hostile: how many rows may be hostile.

    Returns:
        ``(P,)``.
    """
    return matrix[scores(matrix, hostile).argmin()]


def multi_krum(matrix: Tensor, hostile: int) -> Tensor:
    """The mean of the ``C - hostile`` rows with the least scores.

    Args:
        matrix: ``(C, P)``.
        hostile: how many rows may be hostile.

    Returns:
        ``(P,)``.
    """
    return matrix[scores(matrix, hostile).argsort(stable=True)[: len(matrix) - hostile]].mean(0)
