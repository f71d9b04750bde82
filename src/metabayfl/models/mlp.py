"""Multi-layer perceptron: any input is flattened."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

from metabayfl import random
from metabayfl.errors import ConfigError
from metabayfl.models.model import assemble, layer
from metabayfl.types import DenseLayer, Key, Kind, Model, Tree


def mlp(shape: tuple[int, ...], outputs: int, kind: Kind = "classification", hidden: tuple[int, ...] = (32,), dropout: float = 0.0) -> Model:
    """``inputs - hidden[0] - ... - hidden[-1] - outputs`` with ReLU between; the features are the last hidden layer before its ReLU.

    Args:
        shape: shape of one input.
        outputs: ``K`` classes or ``R`` targets.
        kind: which likelihood stands on top.
        hidden: widths; the last one is ``M``.
        dropout: rate on the input of the last hidden layer, when a key is given.

    Raises:
        ConfigError: if an option has a value that means nothing.
    """
    _check_options(hidden, dropout)
    widths = (math.prod(shape), *hidden)
    last = len(hidden) - 1

    def init_body(key: Key) -> Tree:
        return {f"dense{i}": layer(random.fold(key, i), (widths[i + 1], widths[i])) for i in range(len(hidden))}

    def features(body: Tree, x: Tensor, key: Key | None) -> Tensor:
        out = x.flatten(1)
        for i in range(last):
            out = torch.relu(linear(out, body[f"dense{i}"]["weight"], body[f"dense{i}"]["bias"]))
        out = random.dropout(out, key, dropout)
        return linear(out, body[f"dense{last}"]["weight"], body[f"dense{last}"]["bias"])

    dense = DenseLayer(f"dense{last}", channels=widths[last], space=1)
    return assemble("mlp", kind, outputs, hidden[-1], init_body, features, dense)


def _check_options(hidden: tuple[int, ...], dropout: float) -> None:
    widths = list(hidden) if isinstance(hidden, (tuple, list)) and hidden else [0]
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ConfigError(f"mlp: hidden={hidden!r}, expected one or more positive whole numbers such as (64, 32)")
    if not isinstance(dropout, (int, float)) or not 0.0 <= dropout < 1.0:
        raise ConfigError(f"mlp: dropout={dropout!r}, expected a number from 0 and below 1, such as 0.4")
