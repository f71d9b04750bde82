"""Pure operations on padded batches of one client."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.types import Batch, Key, Task


def everything(task: Task) -> Batch:
    """Support and query as one batch, for methods that need no split."""
    axis = task.support.mask.ndim - 1
    return Batch(*(torch.cat(pair, axis) for pair in zip(task.support, task.query, strict=True)))


def take(batch: Batch, index: Tensor) -> Batch:
    """The examples at ``index`` (any order, repeats allowed), ``(N,)``, or ``(C, N)`` for batches of ``C`` clients."""
    places = (index,) if index.ndim == 1 else (torch.arange(len(index), device=index.device).unsqueeze(-1), index)
    return Batch(batch.x[places], batch.y[places], batch.mask[places])


def examples(batch: Batch) -> Tensor:
    """How many real examples, shape ``()``."""
    return batch.mask.sum()


def minibatches(batch: Batch, size: int, epochs: int, key: Key) -> list[Batch]:
    """Shuffled minibatches of ``epochs`` passes, real examples first, so that padding only adds empty batches at an epoch's end.

    Args:
        batch: one client's examples ``(N, ...)``, or those of clients side by side ``(C, N, ...)``.
        size: examples a minibatch; 0 means all in one.
        epochs: passes over the data.
        key: decides the order, anew in each pass; shape ``()`` or ``(C,)``.

    Returns:
        ``epochs * ceil(N / size)`` batches; an empty one has ``mask.sum() == 0`` and must leave every state as it is.
    """
    if size <= 0:
        return [take(batch, torch.argsort((batch.mask <= 0).to(torch.int8), dim=-1, stable=True))] * epochs
    count, axis = batch.mask.shape[-1], batch.mask.ndim - 1
    shuffled = [take(batch, random.permutation(random.fold(key, "epoch", epoch), batch.mask)) for epoch in range(epochs)]
    return [Batch(*(part.narrow(axis, start, min(size, count - start)) for part in once)) for once in shuffled for start in range(0, count, size)]
