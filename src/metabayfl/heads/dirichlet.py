"""Dirichlet draws from keys: no global generator, no loop that waits for acceptance, no underflow at small concentrations."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.types import Key

PROPOSALS = 8
"""At least 95 % of the proposals are accepted at any concentration, so that all eight fail once in 10^10 draws."""


def log_gamma(key: Key, concentration: Tensor) -> Tensor:
    """Logarithms of draws from ``Gamma(concentration, 1)``, in its shape.

    Marsaglia and Tsang 2000, "A simple method for generating gamma variables", section 2, at ``concentration + 1``, brought back down by
    ``Gamma(a) = Gamma(a + 1) U^(1/a)`` (section 6), in logarithms; the first accepted of a fixed number of proposals is taken.
    """
    shape = (PROPOSALS, *concentration.shape)
    d = concentration + (2.0 / 3.0)
    normal = random.normal(random.fold(key, "normal"), shape, concentration.dtype)
    tiny = torch.finfo(concentration.dtype).tiny
    raw = (1.0 + normal / torch.sqrt(9.0 * d)) ** 3
    cube = torch.clamp(raw, min=tiny)
    uniform = random.uniform(random.fold(key, "accept"), shape, concentration.dtype)
    accepted = (raw > 0) & (torch.log(uniform) < 0.5 * normal**2 + d * (1.0 - cube + torch.log(cube)))
    order = torch.arange(PROPOSALS, 0, -1, device=normal.device).view(-1, *[1] * concentration.ndim)
    chosen = torch.gather(cube, 0, (accepted * order).argmax(0, keepdim=True)).squeeze(0)
    boost = torch.log(random.uniform(random.fold(key, "boost"), tuple(concentration.shape), concentration.dtype)) / concentration
    return torch.log(d) + torch.log(chosen) + boost


def log_dirichlet(key: Key, concentration: Tensor) -> Tensor:
    """Logarithms of draws from a Dirichlet over the last axis.

    Example:
        >>> draw = log_dirichlet(random.key(0), torch.full((1000, 2), 1e-3))
        >>> bool(torch.isfinite(draw).all()), round(float(draw.exp().sum(-1).max()), 4)
        (True, 1.0)
    """
    return torch.log_softmax(log_gamma(key, concentration), -1)
