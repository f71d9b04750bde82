"""Rules that look at one coordinate at a time: the median and the trimmed mean (Yin, Chen, Ramchandran, Bartlett 2018, definitions 1 and 2).

They see every number on its own scale, so that a hostile client gains nothing by putting its whole strength into one of them.
"""

from __future__ import annotations

from torch import Tensor

from metabayfl.aggregators.rows import middle


def median(matrix: Tensor, hostile: int) -> Tensor:
    """The median of every coordinate.

    Args:
        matrix: ``(C, P)``, a row a client.
        hostile: how many rows may be hostile; the median needs no such number.

    Returns:
        ``(P,)``.
    """
    return middle(matrix)


def trimmed_mean(matrix: Tensor, hostile: int) -> Tensor:
    """The mean of every coordinate without its ``hostile`` smallest and its ``hostile`` largest values.

    Args:
        matrix: ``(C, P)`` with ``C > 2 hostile``.
        hostile: how many rows may be hostile.

    Returns:
        ``(P,)``.

    Example:
        >>> import torch
        >>> trimmed_mean(torch.tensor([[1.0], [2.0], [3.0], [6.0], [1e12]]), 1)
        tensor([3.6667])
    """
    return matrix.sort(0).values[hostile : len(matrix) - hostile].mean(0)
