"""Exact meta-gradients of clients side by side: one backward pass through all their inner loops.

The same recursion as :func:`metabayfl.meta_gradient.through`, with the derivatives outside ``vmap`` (:mod:`metabayfl.algorithms.side_by_side`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.algorithms.side_by_side import copies, gradient, losses, shares
from metabayfl.types import Batch, Model, Task, Tree


class Found(NamedTuple):
    """Every client's meta-gradient."""

    loss: Tensor  # (C,) mean NLL of the query after the inner loop, nats
    model: Tree  # (C, ...) by where the loop began
    rates: Tree | None  # (C, ...) by the rates, where each weight has its own


def meta_gradients(model: Model, start: Tree, rate: float | Tree, tasks: Task, keys: Tensor, steps: int, decay: float) -> Found:
    """Through ``steps`` full-batch steps on the supports, from the same ``start``, for tasks ``(C, N, ...)`` and keys ``(C,)``.

    Args:
        model: the network; its dropout is on in the inner steps and in the query loss.
        start: parameters.
        rate: ``alpha``, one number or a tree like ``start``.
        tasks: supports to adapt to, queries to predict.
        keys: the clients' keys of this round.
        steps: nu.
        decay: lambda of the inner loss ``NLL + lambda / 2 |w|^2``.
    """
    begun = [leaf.detach().requires_grad_() for leaf in tree.leaves(copies(start, len(keys)))]
    own = [leaf.detach().requires_grad_() for leaf in tree.leaves(copies(rate, len(keys)))] if isinstance(rate, dict) else []
    near, far = (shares(part.mask, begun[0].dtype) for part in tasks)
    with torch.enable_grad():
        now = begun
        for step in range(steps):
            values = losses(model, tree.like(start, now), tasks.support, random.fold(keys, "inner", step))
            slopes = _decayed(gradient(values, near, now, create_graph=True), now, tasks.support, decay)
            now = _stepped(now, slopes, own if isinstance(rate, dict) else rate)
        values = losses(model, tree.like(start, now), tasks.query, random.fold(keys, "query"))
        found = gradient(values, far, begun + own)
    by_rates = tree.like(start, found[len(begun) :]) if own else None
    return Found(torch.linalg.vecdot(values.detach(), far), tree.like(start, found[: len(begun)]), by_rates)


def _decayed(slopes: list[Tensor], params: list[Tensor], support: Batch, decay: float) -> list[Tensor]:
    """Without data there is no step, so no decay either."""
    if not decay:
        return slopes
    pull = decay * (support.mask.sum(-1) > 0).to(slopes[0].dtype)
    return [slope + pull.view(-1, *[1] * (leaf.ndim - 1)) * leaf for slope, leaf in zip(slopes, params, strict=True)]


def _stepped(params: list[Tensor], slopes: list[Tensor], rate: float | list[Tensor]) -> list[Tensor]:
    if isinstance(rate, list):
        return [torch.addcmul(leaf, slope, own, value=-1.0) for leaf, slope, own in zip(params, slopes, rate, strict=True)]
    return [torch.sub(leaf, slope, alpha=rate) for leaf, slope in zip(params, slopes, strict=True)]
