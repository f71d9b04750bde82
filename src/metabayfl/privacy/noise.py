"""Noise for a release: functions from a shape to independent draws.

Continuous Gaussian noise is what central differential privacy adds on a server that is trusted with the sum. Its draws are floating-point numbers,
so that the guarantee holds for an idealised mechanism: which numbers can come out depends, in their last bits, on what they were added to (Mironov
2012, "On significance of the least significant bits for differential privacy"). Drawing in float64 and releasing float32 hides most of those bits;
the discrete kinds have no such gap, and are the ones to choose where the attacker sees the sum itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.privacy.discrete_gaussian import discrete_gaussian
from metabayfl.privacy.skellam import skellam
from metabayfl.privacy.words import Words, uniform
from metabayfl.types import Tree

Noise: TypeAlias = Callable[[tuple[int, ...]], Tensor]
"""``shape -> draws``."""

Integral: TypeAlias = Literal["discrete_gaussian", "skellam"]

DENOMINATOR = 2**10
"""Variances of the discrete Gaussian are rounded up to this fraction of one, so that whole numbers carry them."""


def gaussian(words: Words, deviation: float) -> Noise:
    """Continuous normal draws of standard deviation ``deviation``, float64 (Box and Muller)."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        pairs = -(-math.prod(shape) // 2)
        radius = np.sqrt(-2.0 * np.log(uniform(words, pairs)))
        angle = 2.0 * np.pi * uniform(words, pairs)
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: math.prod(shape)]
        return torch.from_numpy(deviation * both).view(shape)

    return draw


def integral(kind: Integral, words: Words, variance: float) -> Noise:
    """Whole-numbered draws, int64, of at least this variance."""
    if kind == "skellam":
        return lambda shape: skellam(words, shape, variance)
    rounded_up = Fraction(math.ceil(Fraction(variance) * DENOMINATOR), DENOMINATOR)
    return lambda shape: discrete_gaussian(words, shape, rounded_up)


def like(noise: Noise, value: Tree) -> Tree:
    """A draw for every number of a tree, in its types and on its device."""
    return tree.map(lambda leaf: noise(tuple(leaf.shape)).to(leaf), value)
