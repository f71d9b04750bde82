"""A model of images that has one layer to learn, on features that nobody had to learn."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear

from metabayfl import random
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models.model import assemble, layer
from metabayfl.models.wavelets import contrasts, wavelets
from metabayfl.types import DenseLayer, Key, Kind, Model, Tree


def scattering(
    shape: tuple[int, ...],
    outputs: int,
    kind: Kind = "classification",
    scales: int = 2,
    angles: int = 8,
    width: int = 32,
    dropout: float = 0.0,
) -> Model:
    """Contrasts of wavelet moduli (:mod:`metabayfl.models.wavelets`), then one dense layer to the features.

    For training under differential privacy: clipping and noise spare what need not be learned, and leave few rounds, in which one layer learns more
    than several (Tramèr and Boneh 2021, "Differentially private learning needs better features (or much more data)", section 3).

    Args:
        shape: ``(channels, height, width)`` of one image.
        outputs: ``K`` classes or ``R`` targets.
        kind: which likelihood stands on top.
        scales: ``J``: wavelets of that many sizes, each twice the last; height and width are divided by ``2^J``, rounding down.
        angles: ``L``: directions of the wavelets, spread over half a turn; 2 or more.
        width: ``M`` features.
        dropout: rate on the input of the dense layer, when a key is given.

    Raises:
        ModelError: if the image has other than three axes or is too small for that many scales.
        ConfigError: if an option has a value that means nothing.

    Example:
        >>> scattering((1, 28, 28), 10).dense
        DenseLayer(name='dense', channels=17, space=49)
    """
    _check_options(scales, angles, width, dropout)
    if len(shape) != 3:
        raise ModelError(f"the model 'scattering' takes images of shape (channels, height, width), these have {tuple(shape)}: reshape them")
    space = (shape[1] // 2**scales) * (shape[2] // 2**scales)
    if not space:
        raise ModelError(f"inputs of shape {tuple(shape)} vanish after {scales} halvings in the model 'scattering': give fewer scales")
    channels = shape[0] * (1 + scales * angles)
    bank = wavelets(scales, angles)

    def init_body(key: Key) -> Tree:
        return {"dense": layer(random.fold(key, "dense"), (width, channels * space))}

    def features(body: Tree, x: Tensor, key: Key | None) -> Tensor:
        return linear(random.dropout(contrasts(bank, x).flatten(1), key, dropout), body["dense"]["weight"], body["dense"]["bias"])

    return assemble("scattering", kind, outputs, width, init_body, features, DenseLayer("dense", channels, space))


def _check_options(scales: int, angles: int, width: int, dropout: float) -> None:
    for name, value, least in (("scales", scales, 1), ("angles", angles, 2), ("width", width, 1)):  # one direction has no contrast to others
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"scattering: {name}={value!r}, expected a whole number, {least} or more")
    if not isinstance(dropout, (int, float)) or not 0.0 <= dropout < 1.0:
        raise ConfigError(f"scattering: dropout={dropout!r}, expected a number from 0 and below 1, such as 0.4")
