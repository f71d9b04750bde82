"""Small convolutional networks for windows of sensor signals."""

from __future__ import annotations

from torch.nn.functional import conv1d, max_pool1d

from metabayfl.models.cnn import Frame, convolutional
from metabayfl.types import Kind, Model

SIGNALS = Frame("cnn1d", ("channels", "steps"), conv1d, max_pool1d)


def cnn1d(
    shape: tuple[int, ...],
    outputs: int,
    kind: Kind = "classification",
    channels: tuple[int, ...] = (16, 24),
    width: int = 32,
    kernel: int = 5,
    dropout: float = 0.4,
) -> Model:
    """:func:`~metabayfl.models.cnn.cnn` along time alone.

    Args:
        shape: ``(channels, steps)`` of one window.
        outputs: ``K`` classes or ``R`` targets.
        kind: which likelihood stands on top.
        channels: of each block; the steps are halved, rounding down, after each.
        width: ``M`` features.
        kernel: length of the convolutions, odd, so that the window keeps its size.
        dropout: rate on the flattened output of the convolutions, when a key is given.

    Raises:
        ModelError: if the window has other than two axes or is too short for that many blocks.
        ConfigError: if an option has a value that means nothing.

    Example:
        >>> cnn1d((9, 128), 6).dense
        DenseLayer(name='dense', channels=24, space=32)
    """
    return convolutional(SIGNALS, shape, outputs, kind, channels, width, kernel, dropout)
