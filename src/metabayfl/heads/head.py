"""What a conjugate head is to an algorithm: a prior that is learned, and a posterior that needs no gradient step.

A *memory* is what a client keeps of its support: ``{"features": (N, M), "y": (N,) or (N, R), "mask": (N,)}``. Padded rows hold zeros, whatever
stood there. A mask between 0 and 1 is a weight: the sample's likelihood is raised to that power (a power prior, Ibrahim and Chen 2000), and its
leave-one-out takes the whole of that weight out. *Statistics* are weighted sums over the rows, so that those of two sets of samples add up exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl.types import Key, Prediction, Tree


class Head(NamedTuple):
    """Pure functions of one client; a prior and statistics are trees."""

    init: Callable[[Key], Tree]  # the prior before training
    scaled: Callable[[Tree, Tensor, Tensor], Tree]  # the prior with its two strengths multiplied by u () and v ()
    statistics: Callable[[Tree], Tree]  # memory -> sums over its rows
    leave_one_out: Callable[[Tree, Tree, Tree], Tensor]  # prior, statistics, memory -> log p(y_i | x_i, all others) (N,), 0 for padding
    zero_shot: Callable[[Tree, Tree], Tensor]  # prior, memory -> log p(y_i | x_i) without any support (N,), 0 for padding
    log_predictive: Callable[[Tree, Tree, Tree], Tensor]  # prior, statistics of other samples, memory -> log p(y_i | x_i) (N,), 0 for padding
    prepare: Callable[[Tree, Tree, Tree, Key], Tree]  # prior, statistics, evidence, key -> all that answering needs, computed and drawn once
    answer: Callable[[Tree, Tensor], Prediction]  # what prepare gave, features (N, M)
    tails: Callable[[Tree, Tree, Tree, Tree], Tree] | None = (
        None  # prior, statistics, memory, evidence -> the noise's shape, kept beside the evidence
    )


def predict(head: Head, prior: Tree, statistics: Tree, evidence: Tree, features: Tensor, key: Key) -> Prediction:
    """The posterior predictive at ``features (N, M)``."""
    return head.answer(head.prepare(prior, statistics, evidence, key), features)


def remember(features: Tensor, y: Tensor, mask: Tensor) -> Tree:
    """A memory; a padded row becomes zeros, even where it was infinite.

    Args:
        features: ``(N, M)``.
        y: ``(N,)`` int64 classes or ``(N, R)`` targets.
        mask: ``(N,)``.
    """
    real = mask > 0
    return {"features": _only(real.unsqueeze(-1), features), "y": _only(real if y.ndim == 1 else real.unsqueeze(-1), y), "mask": mask}


def _only(real: Tensor, values: Tensor) -> Tensor:
    return torch.where(real, values, torch.zeros_like(values))
