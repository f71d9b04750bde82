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


def linear(params: Tree, x: Tensor) -> Tensor:
    """``x (N, I)`` through a linear layer, or ``(C, N, I)`` through a layer of each client's own, ``weight (C, O, I)``.

    Example:
        >>> layers = {"weight": torch.ones(7, 2, 3), "bias": torch.zeros(7, 2)}
        >>> tuple(linear(layers, torch.ones(7, 5, 3)).shape)
        (7, 5, 2)
    """
    weight, bias = params["weight"], params["bias"]
    if weight.ndim == 2:
        return torch.nn.functional.linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def dropout(x: Tensor, key: Key | None, rate: float) -> Tensor:
    """:func:`metabayfl.random.dropout`, or a mask for each client from keys ``(C,)``."""
    if key is None or key.ndim == 0 or rate == 0.0:
        return random.dropout(x, key, rate)
    masked: Tensor = torch.func.vmap(lambda part, one: random.dropout(part, one, rate))(x, key)
    return masked


def assemble(
    name: str,
    kind: Kind,
    outputs: int,
    width: int,
    init_body: Callable[[Key], Tree],
    features: Callable[[Tree, Tensor, Key | None], Tensor],
    dense: DenseLayer | None,
    activation: Callable[[Tensor], Tensor] = torch.relu,
    *,
    stacks: bool = False,
) -> Model:
    """A model from a body: ``outputs = head(activation(features))``.

    In regression the head holds a ``log_scale`` per target beside its weights, the noise that every input shares, and the outputs are the
    means followed by it. ``stacks`` says that ``features`` takes clients' bodies, inputs and keys stacked along a leading axis as well.
    """

    def init(key: Key) -> Tree:
        head = layer(random.fold(key, "head"), (outputs, width))
        if kind == "regression":
            head["log_scale"] = torch.zeros(outputs)
        return {"body": init_body(random.fold(key, "body")), "head": head}

    def head(params: Tree, values: Tensor) -> Tensor:
        out = linear(params, activation(values))
        return torch.cat([out, params["log_scale"].unsqueeze(-2).expand_as(out)], -1) if kind == "regression" else out

    def apply(params: Tree, x: Tensor, key: Key | None) -> Tensor:
        return head(params["head"], features(params["body"], x, key))

    return Model(name, kind, outputs, width, init, features, apply, dense, likelihood(kind), head, stacks)


def augmented(model: Model, augment: Callable[[Tensor, Key], Tensor]) -> Model:
    """``model`` with its inputs changed at random while it trains, that is when a key is given."""

    def features(body: Tree, x: Tensor, key: Key | None) -> Tensor:
        return model.features(body, x if key is None else augment(x, key), key)

    def apply(params: Tree, x: Tensor, key: Key | None) -> Tensor:
        return model.apply(params, x if key is None else augment(x, key), key)

    return model._replace(features=features, apply=apply, stacks=False)
