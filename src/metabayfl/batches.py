"""Pure operations on padded batches of one client."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.types import Batch, Key, Task


def everything(task: Task) -> Batch:
    """Support and query as one batch, for methods that need no split."""
    return Batch(*(torch.cat(pair) for pair in zip(task.support, task.query, strict=True)))


def take(batch: Batch, index: Tensor) -> Batch:
    """The examples at ``index`` (any order, repeats allowed)."""
    return Batch(batch.x[index], batch.y[index], batch.mask[index])


def examples(batch: Batch) -> Tensor:
    """How many real examples, shape ``()``."""
    return batch.mask.sum()


def minibatches(batch: Batch, size: int, epochs: int, key: Key) -> list[Batch]:
    """Shuffled minibatches of ``epochs`` passes, real examples first, so that padding only adds empty batches at an epoch's end.

    Args:
        batch: one client's examples ``(N, ...)``.
        size: examples a minibatch; 0 means all in one.
        epochs: passes over the data.
        key: decides the order, anew in each pass.

    Returns:
        ``epochs * ceil(N / size)`` batches; an empty one has ``mask.sum() == 0`` and must leave every state as it is.
    """
    count = len(batch.mask)
    if size <= 0:
        return [take(batch, torch.argsort((batch.mask <= 0).to(torch.int8), stable=True))] * epochs
    orders = random.permutation(random.fold(key, "epoch", torch.arange(epochs, device=key.device)), batch.mask)
    shuffled = [take(batch, order) for order in orders]
    return [Batch(*(part[start : start + size] for part in once)) for once in shuffled for start in range(0, count, size)]
