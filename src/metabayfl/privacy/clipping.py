"""Bounds on what one client can change: its whole message is one vector, and that vector is clipped.

Whatever a client computed, in how many local steps and from which data, the sum over clients then moves by at most the bound when the client joins
or leaves. That is all that the noise has to hide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.errors import ConfigError
from metabayfl.types import Tree

MARGIN = 1.0 - 2.0**-20
"""What clipping aims below the bound, so that float32's rounding of each number cannot lift the norm above it."""


def norm(update: Tree) -> Tensor:
    """The Euclidean norm over all leaves, in float64: in float32 a long sum of squares can fall below its true value."""
    squares = [leaf.double().square().sum() for leaf in tree.leaves(update)]
    return torch.stack(squares).sum().sqrt()


def clip(update: Tree, bound: Tensor | float) -> Tree:
    """``update * min(1, S / |update|)``: all leaves as one vector (McMahan et al. 2018, "Learning differentially private recurrent language
    models", flat clipping).

    A message with a NaN or an infinity becomes zero: it has no norm to clip, and a round that failed on it would itself tell of that client.

    Args:
        update: one client's update, of float32 or float64.
        bound: ``S``, in the units of the update, above 0.

    Example:
        >>> clip({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, 1.0)["b"].round(decimals=4)
        tensor([0.8000])
    """
    length = norm(update)
    limit = torch.as_tensor(bound, dtype=torch.float64, device=length.device)
    factor = torch.where(length > limit * MARGIN, limit * MARGIN / length, torch.ones_like(length))
    known = torch.isfinite(length)
    return tree.map(lambda leaf: torch.where(known, leaf * factor.to(leaf.dtype), torch.zeros_like(leaf)), update)


def clip_blocks(update: Tree, bounds: Mapping[str, float]) -> Tree:
    """Each top-level block clipped to a bound of its own; :func:`sensitivity` says what they come to together.

    Raises:
        ConfigError: if the bounds do not name exactly the blocks of the update.
    """
    if bounds.keys() != update.keys():
        raise ConfigError(f"clip has bounds for {sorted(bounds)}, but the update's blocks are {sorted(update)}: name each of them once")
    return {name: clip({"": block}, bounds[name])[""] for name, block in update.items()}


def sensitivity(bound: float | Mapping[str, float]) -> float:
    """How far one client can move the sum, in Euclidean norm: the bound, or ``sqrt(sum_b S_b^2)`` of bounds by block.

    Example:
        >>> sensitivity({"z": 3.0, "head": 4.0})
        5.0
    """
    return math.hypot(*bound.values()) if isinstance(bound, Mapping) else bound


def below(update: Tree, bound: Tensor | float) -> Tensor:
    """1 where the whole update's norm is at most the bound and 0 elsewhere, shape ``()``: what adaptive clipping asks every client."""
    length = norm(update)
    return (length <= torch.as_tensor(bound, dtype=torch.float64, device=length.device)).double()


def next_bound(bound: Tensor, share: Tensor, *, quantile: float, rate: float) -> Tensor:
    """``S exp(-rate (share - quantile))``: the bound moves geometrically to the norm below which ``quantile`` of the clients are.

    Andrew et al. 2021, "Differentially private learning with adaptive clipping", section 2.1 (the geometric update of Algorithm 1).

    Args:
        bound: ``S``, shape ``()``.
        share: of the clients at or below ``S``, with its noise.
        quantile: ``gamma``, from 0 to 1.
        rate: ``eta_C``; the paper's 0.2 moves the bound by up to a fifth a round.
    """
    return bound * torch.exp(-rate * (share - quantile))


def update_multiplier(noise_multiplier: float, indicator_noise: float) -> float:
    """The update's noise multiplier such that update and indicator together cost as much as one Gaussian of ``noise_multiplier``.

    ``z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2)``: Andrew et al. 2021, Theorem 1. The indicators are shifted by 1/2, so that a client moves their sum
    by at most 1/2.

    Args:
        noise_multiplier: ``z``, what the two are accounted as.
        indicator_noise: ``sigma_b``, standard deviation of the noise on the sum of the indicators.

    Raises:
        ConfigError: if ``2 sigma_b <= z``: the indicator alone would cost more than both may.

    Example:
        >>> round(update_multiplier(1.0, 5.0), 6)
        1.005038
    """
    rest = noise_multiplier**-2 - (2.0 * indicator_noise) ** -2 if noise_multiplier > 0 else math.inf
    if rest <= 0:
        raise ConfigError(f"indicator_noise is {indicator_noise}, expected more than half the noise multiplier {noise_multiplier}: raise it")
    return math.sqrt(1.0 / rest)
