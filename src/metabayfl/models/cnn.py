"""Small convolutional networks for images of 28 x 28 and 32 x 32, and the frame that they share with those for signals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear, max_pool2d

from metabayfl import random
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models.model import assemble, augmented, layer
from metabayfl.types import DenseLayer, Key, Kind, Model, Tree


class Frame(NamedTuple):
    """What networks over other axes differ in."""

    name: str
    axes: tuple[str, ...]  # of one input, channels first
    convolve: Callable[..., Tensor]
    pool: Callable[[Tensor, int], Tensor]


IMAGES = Frame("cnn", ("channels", "height", "width"), conv2d, max_pool2d)


def cnn(
    shape: tuple[int, ...],
    outputs: int,
    kind: Kind = "classification",
    channels: tuple[int, ...] = (16, 24),
    width: int = 32,
    kernel: int = 3,
    dropout: float = 0.4,
    flip: float = 0.0,
) -> Model:
    """Blocks of convolution, ReLU and 2 x 2 max pooling, then dropout and a dense layer to the features, which have no final ReLU.

    The net of McMahan et al. 2017 and LEAF for 28 x 28 characters is ``channels=(32, 64), kernel=5, width=2048, dropout=0.0``.

    Args:
        shape: ``(channels, height, width)`` of one image.
        outputs: ``K`` classes or ``R`` targets.
        kind: which likelihood stands on top.
        channels: of each block; height and width are halved, rounding down, after each.
        width: ``M`` features.
        kernel: side of the convolutions, odd, so that the image keeps its size.
        dropout: rate on the flattened output of the convolutions, when a key is given: what keeps a strategy from overfitting its clients.
        flip: share of the images that are mirrored left to right, when a key is given; for pictures whose meaning has no side.

    Raises:
        ModelError: if the image has other than three axes or is too small for that many blocks.
        ConfigError: if an option has a value that means nothing.

    Example:
        >>> model = cnn((1, 28, 28), 10)
        >>> model.dense
        DenseLayer(name='dense', channels=24, space=49)
    """
    if not isinstance(flip, (int, float)) or not 0.0 <= flip <= 1.0:
        raise ConfigError(f"cnn: flip={flip!r}, expected a share from 0 to 1")
    plain = convolutional(IMAGES, shape, outputs, kind, channels, width, kernel, dropout)
    return augmented(plain, lambda x, key: mirrored(x, random.fold(key, "flip"), flip)) if flip else plain


def mirrored(x: Tensor, key: Key, share: float) -> Tensor:
    """A ``share`` of the images ``(N, channels, height, width)`` mirrored left to right."""
    chosen = random.uniform(key, (len(x),)) < share
    return torch.where(chosen.view(-1, 1, 1, 1), x.flip(-1), x)


def convolutional(
    frame: Frame,
    shape: tuple[int, ...],
    outputs: int,
    kind: Kind,
    channels: tuple[int, ...],
    width: int,
    kernel: int,
    dropout: float,
) -> Model:
    """A convolutional model over the axes of ``frame``; the other arguments are those of :func:`cnn`."""
    _check_options(frame.name, channels, width, kernel, dropout)
    space = _space(frame, shape, len(channels))
    depths, kernels = (shape[0], *channels), (kernel,) * (len(shape) - 1)

    def init_body(key: Key) -> Tree:
        body = {f"conv{i}": layer(random.fold(key, f"conv{i}"), (depths[i + 1], depths[i], *kernels)) for i in range(len(channels))}
        return {**body, "dense": layer(random.fold(key, "dense"), (width, channels[-1] * space))}

    def features(body: Tree, x: Tensor, key: Key | None) -> Tensor:
        out = x
        for i in range(len(channels)):
            out = frame.convolve(out, body[f"conv{i}"]["weight"], body[f"conv{i}"]["bias"], padding=kernel // 2)
            out = torch.relu(frame.pool(out, 2))  # the same as the other way round, on a quarter of the numbers
        out = random.dropout(out.flatten(1), key, dropout)
        return linear(out, body["dense"]["weight"], body["dense"]["bias"])

    return assemble(frame.name, kind, outputs, width, init_body, features, DenseLayer("dense", channels[-1], space))


def _space(frame: Frame, shape: tuple[int, ...], blocks: int) -> int:
    """Positions per channel after the last pooling."""
    name, axes = frame.name, ", ".join(frame.axes)
    if len(shape) != len(frame.axes):
        raise ModelError(f"the model {name!r} takes inputs of shape ({axes}), these have {tuple(shape)}: reshape them, or use the model 'mlp'")
    sides = [side // 2**blocks for side in shape[1:]]
    if min(sides) < 1:
        raise ModelError(f"inputs of shape {tuple(shape)} vanish after {blocks} halvings in the model {name!r}: give fewer channels, or use 'mlp'")
    return math.prod(sides)


def _check_options(name: str, channels: tuple[int, ...], width: int, kernel: int, dropout: float) -> None:
    counts = [*channels, width] if isinstance(channels, (tuple, list)) and channels else [0]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise ConfigError(f"{name}: channels={channels!r} and width={width!r}, expected positive whole numbers such as (16, 24) and 32")
    if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ConfigError(f"{name}: kernel={kernel!r}, expected an odd number such as 3 or 5, so that convolutions keep the size")
    if not isinstance(dropout, (int, float)) or not 0.0 <= dropout < 1.0:
        raise ConfigError(f"{name}: dropout={dropout!r}, expected a number from 0 and below 1, such as 0.4")
