"""Multi-layer perceptron: any input is flattened."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.errors import ConfigError
from metabayfl.models import model
from metabayfl.models.model import assemble, layer, linear
from metabayfl.types import DenseLayer, Key, Kind, Model, Tree


def mlp(
    shape: tuple[int, ...],
    outputs: int,
    kind: Kind = "classification",
    hidden: tuple[int, ...] = (32,),
    dropout: float = 0.0,
    skip: bool = False,
    clip: float = 0.0,
) -> Model:
    """``inputs - hidden[0] - ... - hidden[-1] - outputs`` with ReLU between; the features are the last hidden layer before its ReLU.

    Args:
        shape: shape of one input.
        outputs: ``K`` classes or ``R`` targets.
        kind: which likelihood stands on top.
        hidden: widths; the last one is ``M``, plus the inputs with ``skip``.
        dropout: rate on the input of the last hidden layer, when a key is given.
        skip: the inputs stand beside the features, past every ReLU, so that the head is a linear model of the inputs plus what the net adds: for
            tables, whose columns mean something as they are.
        clip: inputs beyond this, in training standard deviations, count as this: incomes and their like have a few rows that would rule a linear
            model; 0 leaves them.

    Raises:
        ConfigError: if an option has a value that means nothing.
    """
    _check_options(hidden, dropout, skip, clip)
    widths = (math.prod(shape), *hidden)
    last = len(hidden) - 1

    def init_body(key: Key) -> Tree:
        return {f"dense{i}": layer(random.fold(key, i), (widths[i + 1], widths[i])) for i in range(len(hidden))}

    def features(body: Tree, x: Tensor, key: Key | None) -> Tensor:
        flat = x.flatten(body["dense0"]["weight"].ndim - 1)
        flat = flat.clamp(-clip, clip) if clip else flat
        out = flat
        for i in range(last):
            out = torch.relu(linear(body[f"dense{i}"], out))
        out = linear(body[f"dense{last}"], model.dropout(out, key, dropout))
        return torch.cat([out, flat], -1) if skip else out

    def activation(values: Tensor) -> Tensor:
        return torch.cat([torch.relu(values[..., : hidden[-1]]), values[..., hidden[-1] :]], -1)

    dense = DenseLayer(f"dense{last}", channels=widths[last], space=1)
    width = hidden[-1] + (widths[0] if skip else 0)
    return assemble("mlp", kind, outputs, width, init_body, features, dense, activation if skip else torch.relu, stacks=True)


def _check_options(hidden: tuple[int, ...], dropout: float, skip: bool, clip: float) -> None:
    widths = list(hidden) if isinstance(hidden, (tuple, list)) and hidden else [0]
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ConfigError(f"mlp: hidden={hidden!r}, expected one or more positive whole numbers such as (64, 32)")
    if not isinstance(dropout, (int, float)) or not 0.0 <= dropout < 1.0:
        raise ConfigError(f"mlp: dropout={dropout!r}, expected a number from 0 and below 1, such as 0.4")
    if not isinstance(skip, bool):
        raise ConfigError(f"mlp: skip={skip!r}, expected true or false")
    if isinstance(clip, bool) or not isinstance(clip, (int, float)) or not clip >= 0.0:
        raise ConfigError(f"mlp: clip={clip!r}, expected a number of standard deviations such as 6.0, or 0 for none")
