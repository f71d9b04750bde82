"""A chunk of clients side by side, each with weights of its own: one backward pass through all their losses.

A client's loss depends on its own weights alone, so the gradient of the sum is every client's gradient. The derivative then stands outside
``vmap`` and not inside, and only the network is mapped, which spares many small operations; a single client is not mapped at all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from metabayfl import tree
from metabayfl.models.order import channels_last
from metabayfl.types import Batch, Message, Model, Task, Tree

WIDE = 2**18
"""Weights of a client, 1 MB of them, that no longer stay in a core's cache."""


def pays(weights: int, device: torch.device) -> bool:
    """Whether clients are faster side by side than one after the other: on a CPU not where each has more weights of its own than the cache holds.

    Example:
        >>> [pays(weights, torch.device("cpu")) for weights in (2_410, 1_663_370)]
        [True, False]
    """
    return device.type != "cpu" or weights < WIDE


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
    """Negative log likelihoods ``(C, N)`` in nats of every client's examples, padding included, with dropout from the keys ``(C,)``."""
    if len(keys) > 1 and pays(tree.size(params) // len(keys), keys.device):
        apply = model.apply if model.stacks else vmap(model.apply)
        return model.likelihood.loss(apply(params, batch.x, keys), batch.y)
    rows = zip(*(_rows(leaf) for leaf in tree.leaves(params)), strict=True)
    alone = [model.apply(channels_last(tree.like(params, row)), x, key) for row, x, key in zip(rows, batch.x, keys, strict=True)]
    return model.likelihood.loss(torch.stack(alone), batch.y)


def _rows(leaf: Tensor) -> tuple[Tensor, ...]:
    """Every client's part. The derivative of ``squeeze`` is a view and that of ``unbind`` one copy; an index would give zeros for each client."""
    return (leaf.squeeze(0),) if len(leaf) == 1 else leaf.unbind(0)


def shares(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Each example's share ``(C, N)`` in its client's mean, 0 for padding: ``sum(loss * share)`` is the mean loss, and 0 without examples."""
    mask = mask.to(dtype)
    return mask / torch.clamp(mask.sum(-1, keepdim=True), min=1.0)


def gradient(values: Tensor | list[Tensor], weights: Tensor | list[Tensor], leaves: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """The gradient of ``sum(weights * values)``; zero for a leaf that ``values`` do not depend on."""
    slopes = torch.autograd.grad(values, leaves, weights, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, slopes, strict=True)]


def query_message(update: Tree, loss: Tensor, tasks: Task) -> Message:
    """What clients send that were judged on their queries, from the mean losses ``(C,)``: the metrics are sums over the queries."""
    near, far = (part.mask.sum(-1) for part in tasks)
    return Message(update, near + far, {"loss": loss * far, "examples": far})
