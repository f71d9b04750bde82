"""A chunk of clients side by side, each with weights of its own: one backward pass through all their losses.

A client's loss depends on its own weights alone, so the gradient of the sum is every client's gradient. The derivative then stands outside
``vmap`` and not inside, and only the network is mapped, which spares many small operations; a single client is not mapped at all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from metabayfl import tree
from metabayfl.types import Batch, Model, Tree


def copies(params: Tree, count: int) -> Tree:
    """``params`` for each of ``count`` clients, ``(C, ...)``, in the order of memory that a matrix has; of one client it is no copy."""
    return tree.map(lambda leaf: _copies(leaf, count), params)


def _copies(leaf: Tensor, count: int) -> Tensor:
    if count == 1:
        return leaf.unsqueeze(0)
    if leaf.ndim == 2 and not leaf.is_contiguous():
        return _copies(leaf.mT.contiguous(), count).mT
    return leaf.expand(count, *leaf.shape).clone(memory_format=torch.contiguous_format)


def losses(model: Model, params: Tree, batch: Batch, keys: Tensor) -> Tensor:
    """Negative log likelihoods ``(C, N)`` in nats of every client's examples, padding included, with dropout from the keys ``(C,)``.

    A single client is taken out of its axis, since mapped convolutions are slower than plain ones.
    """
    if len(keys) == 1:
        alone = model.apply(tree.map(lambda leaf: leaf.squeeze(0), params), batch.x.squeeze(0), keys[0])
        return model.likelihood.loss(alone, batch.y.squeeze(0)).unsqueeze(0)
    return model.likelihood.loss(vmap(model.apply)(params, batch.x, keys), batch.y)


def shares(mask: Tensor) -> Tensor:
    """Each example's share ``(C, N)`` in its client's mean, 0 for padding: ``sum(loss * share)`` is the mean loss, and 0 without examples."""
    return mask / torch.clamp(mask.sum(-1, keepdim=True), min=1.0)


def gradient(values: Tensor, weights: Tensor, leaves: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """The gradient of ``sum(weights * values)``; zero for a leaf that ``values`` do not depend on."""
    slopes = torch.autograd.grad(values, leaves, weights, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, slopes, strict=True)]
