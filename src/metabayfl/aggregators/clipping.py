"""Centred clipping: messages are heard only so far from where they should lie (Karimireddy, He, Jaggi 2021, equation for CCLIP).

``v <- v + 1/C sum_c (x_c - v) min(1, tau / |x_c - v|)``. The paper starts from the last round's momentum, which assumes the same clients every
round. Here nothing is kept: the start is given, or it is the median of every coordinate, and then ``tau`` is the median distance to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl.aggregators.rows import middle

STEPS = 3


def clip_around(matrix: Tensor, start: Tensor, radius: Tensor | float, steps: int = STEPS) -> Tensor:
    """Centred clipping from a given start.

    Args:
        matrix: ``(C, P)``.
        start: ``(P,)``.
        radius: ``tau``, in the messages' unit.
        steps: repetitions.

    Returns:
        ``(P,)``, at most ``steps * radius`` away from ``start``, whatever the rows are.
    """
    centre = start
    for _ in range(steps):
        away = matrix - centre
        factor = torch.clamp(radius / away.norm(dim=1).clamp(min=torch.finfo(away.dtype).tiny), max=1.0)
        centre = centre + (factor.unsqueeze(1) * away).mean(0)
    return centre


def centred_clipping(matrix: Tensor, hostile: int) -> Tensor:
    """Centred clipping around the median of every coordinate, with the median distance to it as radius.

    Args:
        matrix: ``(C, P)``.
        hostile: how many rows may be hostile; below half of them the start and the radius are bounded by honest rows.

    Returns:
        ``(P,)``.
    """
    start = middle(matrix)
    return clip_around(matrix, start, middle((matrix - start).norm(dim=1)))
