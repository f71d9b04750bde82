"""What every built-in model shares: the linear head and the assembly of a :class:`~metabayfl.types.Model` from a body."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.losses import likelihood
from metabayfl.types import DenseLayer, Key, Kind, Model, Tree


def uniform_weight(key: Key, shape: tuple[int, ...], fan_in: int) -> Tensor:
    """PyTorch's default start of linear and convolutional weights: uniform on ``±1/sqrt(fan_in)``."""
    return (2.0 * random.uniform(key, shape) - 1.0) / math.sqrt(fan_in)


def layer(key: Key, shape: tuple[int, ...]) -> Tree:
    """``weight`` of ``shape`` (outputs first) and ``bias``, both at PyTorch's default start."""
    fan_in = math.prod(shape[1:])
    return {
        "weight": uniform_weight(random.fold(key, "weight"), shape, fan_in),
        "bias": uniform_weight(random.fold(key, "bias"), shape[:1], fan_in),
    }


def assemble(
    name: str,
    kind: Kind,
    outputs: int,
    width: int,
    init_body: Callable[[Key], Tree],
    features: Callable[[Tree, Tensor, Key | None], Tensor],
    dense: DenseLayer | None,
    activation: Callable[[Tensor], Tensor] = torch.relu,
) -> Model:
    """A model from a body: ``outputs = head(activation(features))``.

    In regression the head holds a ``log_scale`` per target beside its weights, the noise that every input shares, and the outputs are the
    means followed by it.
    """

    def init(key: Key) -> Tree:
        head = layer(random.fold(key, "head"), (outputs, width))
        if kind == "regression":
            head["log_scale"] = torch.zeros(outputs)
        return {"body": init_body(random.fold(key, "body")), "head": head}

    def head(params: Tree, values: Tensor) -> Tensor:
        out = torch.nn.functional.linear(activation(values), params["weight"], params["bias"])
        return torch.cat([out, params["log_scale"].expand_as(out)], -1) if kind == "regression" else out

    def apply(params: Tree, x: Tensor, key: Key | None) -> Tensor:
        return head(params["head"], features(params["body"], x, key))

    return Model(name, kind, outputs, width, init, features, apply, dense, likelihood(kind), head)


def augmented(model: Model, augment: Callable[[Tensor, Key], Tensor]) -> Model:
    """``model`` with its inputs changed at random while it trains, that is when a key is given."""

    def features(body: Tree, x: Tensor, key: Key | None) -> Tensor:
        return model.features(body, x if key is None else augment(x, key), key)

    def apply(params: Tree, x: Tensor, key: Key | None) -> Tensor:
        return model.apply(params, x if key is None else augment(x, key), key)

    return model._replace(features=features, apply=apply)
