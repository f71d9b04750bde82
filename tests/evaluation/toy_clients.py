"""Clients and algorithms small enough to compute by hand, shared by the tests of evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabayfl import compression
from metabayfl.data import Clients, Schema, in_memory
from metabayfl.losses import entropy
from metabayfl.models import mlp
from metabayfl.types import Aggregate, Algorithm, Batch, ClassPrediction, Key, Message, Model, RegressionPrediction, ServerState, Task, Tree

CLASSES = 4


def class_schema(classes: int = CLASSES) -> Schema:
    return Schema("classification", (1,), "array", layout="vector", classes=tuple(f"class {at}" for at in range(classes)))


def regression_schema(mean: float, scale: float) -> Schema:
    return Schema("regression", (1,), "array", layout="vector", targets=("y",), target_mean=(mean,), target_scale=(scale,))


def class_clients(rng: np.random.Generator, held: list[list[int]], *, support: int = 12, test: int = 10) -> Clients:
    """One client per list of classes; the input is the class plus noise. The test rows hold the client's classes alone."""
    data = []
    for classes in held:
        y = np.array([classes[at % len(classes)] for at in range(support + test)], dtype=np.int64)
        data.append(((y[:, None] + rng.normal(0, 0.1, (len(y), 1))).astype(np.float32), y))
    return in_memory([f"client {at}" for at in range(len(held))], data, [support] * len(held))


def regression_clients(rng: np.random.Generator, levels: list[float], *, support: int = 8, test: int = 400) -> Clients:
    """Clients whose target is their level plus unit noise."""
    data = []
    for level in levels:
        y = (level + rng.normal(0, 1, (support + test, 1))).astype(np.float32)
        data.append((np.zeros((support + test, 1), np.float32), y))
    return in_memory([f"client {at}" for at in range(len(levels))], data, [support] * len(levels))


def _begin(meta: Tree) -> ServerState:
    return ServerState(meta, {})


def _server(state: ServerState, aggregate: Aggregate) -> ServerState:
    return state


def _client(meta: Tree, task: Task, key: Key) -> Message:
    return Message({}, task.support.mask.sum(), {})


def algorithm(model: Model, name: str, meta: Tree, adapt: Any, predict: Any, codec: Any = None) -> Algorithm:
    down = compression.exact() if codec is None else codec
    return Algorithm(name, model, lambda key: meta, _begin, _client, _server, adapt, predict, None, down, compression.exact())


def nearest(*, epistemic: bool = False, codec: Any = None) -> Algorithm:
    """Probabilities fall with the distance to the classes' numbers, which the strategy shifts; classes outside the support get little.

    The epistemic part, where asked for, is the distance to the nearest class of the support, so that new classes stand out.
    """

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        counts = torch.stack([((support.y == at) * support.mask).sum() for at in range(CLASSES)])
        return {"log_prior": torch.log(counts + 0.01), "shift": meta["shift"], "seen": counts > 0}

    def predict(posterior: Tree, x: Tensor, key: Key) -> ClassPrediction:
        distance = (x - posterior["shift"] - torch.arange(CLASSES, dtype=x.dtype)).abs()
        probs = torch.softmax(-4 * distance + posterior["log_prior"], -1)
        total = entropy(probs)
        far = torch.where(posterior["seen"], distance, torch.full_like(distance, 9.0)).min(-1).values
        part = torch.minimum(far, total) if epistemic else torch.zeros_like(total)
        return ClassPrediction(probs, total, total - part, part)

    return algorithm(mlp((1,), CLASSES), "nearest", {"shift": torch.zeros(())}, adapt, predict, codec)


def level() -> Algorithm:
    """The support's mean with unit noise: a Gaussian predictive in standardised units."""

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return {"mean": (support.y * support.mask[:, None]).sum(0) / support.mask.sum().clamp(min=1.0), "scale": meta["scale"]}

    def predict(posterior: Tree, x: Tensor, key: Key) -> RegressionPrediction:
        mean = posterior["mean"].expand(len(x), 1)
        scale = posterior["scale"].expand(len(x), 1)
        return RegressionPrediction(mean, scale, torch.full_like(mean, math.inf), scale**2, scale**2, torch.zeros_like(mean))

    return algorithm(mlp((1,), 1, "regression"), "level", {"scale": torch.ones(1)}, adapt, predict)
