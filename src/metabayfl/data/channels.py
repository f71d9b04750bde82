"""Arrays to numbers: which axis holds the channels, and checks that new arrays are what training saw."""

from __future__ import annotations

from typing import Any

import numpy as np

from metabayfl.data.raw import Array
from metabayfl.errors import DataError, SchemaError

_COLOURS = (1, 3, 4)
_AXES = {"vector": (2,), "series": (3,), "image": (3, 4), "channels_last": (4,)}
_FORM = {
    "vector": "(rows, values)",
    "series": "(rows, channels, steps)",
    "image": "(rows, height, width) or (rows, channels, height, width)",
    "channels_last": "(rows, height, width, channels)",
}


def resolve(shape: tuple[int, ...], layout: str) -> str:
    """What the axes of ``(N, ...)`` mean; ``auto`` goes by their number.

    Raises:
        DataError: if the shape does not fit the layout.

    Example:
        >>> resolve((100, 28, 28), "auto"), resolve((100, 32, 32, 3), "auto"), resolve((100, 9, 128), "series")
        ('image', 'channels_last', 'series')
    """
    axes = len(shape)
    if layout == "auto":
        colour_last = axes == 4 and shape[-1] in _COLOURS and shape[1] not in _COLOURS
        layout = "channels_last" if colour_last else {2: "vector", 3: "image", 4: "image"}.get(axes, "image")
    if axes not in _AXES[layout]:
        raise DataError(f"inputs of shape {shape} do not fit the layout {layout!r}: expected {_FORM[layout]}. Set layout, or reshape the array.")
    return layout


def view(x: Array, layout: str) -> Array:
    """``x`` with the channel axis second: ``(n, C)``, ``(n, C, T)`` or ``(n, C, h, w)``."""
    if layout == "channels_last":
        return np.moveaxis(x, -1, 1)
    return x[:, None] if layout == "image" and x.ndim == 3 else x


def flat(x: Array, layout: str) -> Array:
    """One row per position, one column per channel, ``(m, C)``: what the statistics sum over."""
    seen = view(x, layout)
    return np.moveaxis(seen, 1, -1).reshape(-1, seen.shape[1])


def checked(x: Any, layout: str, shape: tuple[int, ...]) -> Array:
    """``x`` with channels second, if its type and shape are those of training.

    Raises:
        SchemaError: names what was given and expected.
    """
    array = np.asarray(x)
    expected = f"numbers of shape {_FORM[layout]}, one row (here {' x '.join(map(str, shape))} with the channels first)"
    if array.dtype.kind not in "biuf":
        raise SchemaError(f"inputs: given values of type {array.dtype}, expected {expected}.")
    if array.ndim not in _AXES[layout]:
        raise SchemaError(f"inputs: given shape {array.shape}, expected {expected}. A single example needs a leading axis: x[None].")
    seen = view(array, layout)
    if seen.shape[1:] != shape:
        raise SchemaError(f"inputs: given shape {array.shape}, expected {expected}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SchemaError(f"inputs: {int(np.sum(~np.isfinite(array)))} values are NaN or infinite, expected finite numbers.")
    return seen


def check_pixels(x: Array, low: float, high: float) -> None:
    """Refuse images of another range than ``low``..``high`` of training: 0..1 for 0..255, 0..255 for 0..1, already standardised ones.

    Raises:
        SchemaError: names both ranges.
    """
    if x.size == 0:
        return
    smallest, largest, span = float(x.min()), float(x.max()), high - low
    outside = largest > high + 3 * span or smallest < low - 3 * span
    fraction = x.dtype.kind == "f" and bool(np.any(x != np.round(x)))
    size = max(abs(smallest), abs(largest))
    # An almost black whole-number image is a fair input; fractions, or many ones, are a rescaled or a two-valued image.
    small = high > 10 and ((fraction and size <= max(1.0, span / 20)) or (0 < largest <= 1 and float(x.mean()) > 0.01))
    if outside or small:
        raise SchemaError(f"inputs: given pixel values {smallest:g}..{largest:g}, expected the training range {low:g}..{high:g}. Rescale the images.")


def check_distance(scaled: Array, limit: float) -> None:
    """Refuse values further than ``limit`` training standard deviations from the training mean; ``scaled`` is ``(n, C, ...)``.

    Raises:
        SchemaError: names the channel.
    """
    far = np.abs(scaled) > limit
    if far.any():
        row, channel, *_ = np.argwhere(far)[0]
        raise SchemaError(
            f"inputs: channel {channel} of row {row} is {np.abs(scaled[far][0]):.0f} training standard deviations from the training mean, "
            f"expected at most {limit:g}. Is it in another unit?"
        )
