"""Small problems whose answer is known, and clients to run any algorithm on: shared by all tests, float64 throughout."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.losses import GAUSSIAN
from metabayfl.models.mlp import mlp
from metabayfl.types import Batch, Key, Likelihood, Model, Task, Tree

SIZES = ((5, 3), (2, 4), (6, 6), (1, 1))
"""Support and query examples of the ragged clients below."""

FEATURES, CLASSES, TARGETS = 4, 3, 2


def squared_error_model(inputs: int, outputs: int = 1) -> Model:
    """Linear regression with the loss ``0.5 |y - W x|^2``, so that gradients, Hessians and minima have closed forms."""

    def init(key: Key) -> Tree:
        return {"body": {}, "head": {"weight": random.normal(key, (outputs, inputs), torch.float64)}}

    def head(params: Tree, x: Tensor) -> Tensor:
        return x @ params["weight"].mT

    def apply(params: Tree, x: Tensor, key: Key | None) -> Tensor:
        return head(params["head"], x)

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return 0.5 * ((outputs - y) ** 2).sum(-1)

    def predict(outputs: Tensor) -> object:
        return GAUSSIAN.predict(torch.cat([outputs, torch.zeros_like(outputs)], -1))

    likelihood = Likelihood("regression", loss, predict, lambda samples: predict(samples.mean(0)))
    return Model("squared_error", "regression", outputs, inputs, init, lambda body, x, key: x, apply, None, likelihood, head)


def small_model(kind: str, dropout: float = 0.0) -> Model:
    """An MLP for the clients below."""
    return mlp((FEATURES,), CLASSES if kind == "classification" else TARGETS, kind, hidden=(6,), dropout=dropout)


def double(params: Tree) -> Tree:
    """``params`` in float64."""
    return tree.to(params, torch.float64)


def batch(x: np.ndarray, y: np.ndarray, length: int | None = None, fill: float = 0.0) -> Batch:
    """Examples as a batch, padded to ``length`` rows of value ``fill`` (padded classes are 0: they must be a class)."""
    extra = (len(x) if length is None else length) - len(x)
    mask = torch.cat([torch.ones(len(x)), torch.zeros(extra)]).double()
    return Batch(_extend(torch.from_numpy(x), extra, fill), _extend(torch.from_numpy(y), extra, fill), mask)


def _extend(values: Tensor, extra: int, fill: float) -> Tensor:
    value = fill if values.is_floating_point() else 0
    return torch.cat([values, torch.full((extra, *values.shape[1:]), value, dtype=values.dtype)])


def padded(part: Batch, extra: int = 0, fill: float = 1e6) -> Batch:
    """One client's ``part`` with every padded row at ``fill``, and ``extra`` more of them."""
    real = part.mask > 0
    return batch(part.x[real].numpy(), part.y[real].numpy(), len(part.mask) + extra, fill)


def padded_task(task: Task, extra: int = 0, fill: float = 1e6) -> Task:
    """:func:`padded` for both parts."""
    return Task(padded(task.support, extra, fill), padded(task.query, extra, fill))


def unpadded_task(task: Task) -> Task:
    """Only the real examples of one client."""
    return Task(*(Batch(*(part[part_of.mask > 0] for part in part_of)) for part_of in task))


def stack(tasks: list[Task]) -> Task:
    """Clients of one shape as one task with a leading axis ``C``."""
    return Task(*(Batch(*(torch.stack(parts) for parts in zip(*batches, strict=True))) for batches in zip(*tasks, strict=True)))


def client(tasks: Task, row: int) -> Task:
    """Client ``row`` of a stack."""
    return Task(*(Batch(*(leaf[row] for leaf in part)) for part in tasks))


def separable(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes far apart along the axes: every client's problem is solved by one linear map."""
    y = generator.integers(CLASSES, size=count)
    centres = 2.0 * np.eye(CLASSES, FEATURES)
    return centres[y] + 0.3 * generator.standard_normal((count, FEATURES)), y


def linear(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets that are linear in the inputs, up to noise of standard deviation 0.1."""
    x = generator.standard_normal((count, FEATURES))
    weight = np.linspace(-0.6, 0.6, FEATURES * TARGETS).reshape(FEATURES, TARGETS)
    return x, x @ weight + 0.1 * generator.standard_normal((count, TARGETS))


def clients(kind: str, sizes: tuple[tuple[int, int], ...] = SIZES, seed: int = 0) -> Task:
    """Ragged clients of an easy problem, stacked and padded with zeros: leading axis ``C = len(sizes)``."""
    generator, draw = np.random.default_rng(seed), separable if kind == "classification" else linear
    near, far = (max(size[part] for size in sizes) for part in (0, 1))
    return stack([Task(batch(*draw(generator, s), near), batch(*draw(generator, q), far)) for s, q in sizes])


def client_keys(count: int, seed: int = 1) -> Tensor:
    """A key per client, ``(count,)``."""
    return random.keys(random.key(seed), count)
