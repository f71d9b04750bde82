"""Networks as pure functions, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from metabayfl.errors import unknown
from metabayfl.models.cnn import cnn
from metabayfl.models.cnn1d import cnn1d
from metabayfl.models.mlp import mlp
from metabayfl.models.module import from_module
from metabayfl.models.scattering import scattering
from metabayfl.types import Kind, Model

MODELS: dict[str, Callable[..., Model]] = {"mlp": mlp, "cnn": cnn, "cnn1d": cnn1d, "scattering": scattering}
"""Builders by name."""

__all__ = ["MODELS", "build_model", "cnn", "cnn1d", "from_module", "mlp", "scattering"]


def build_model(name: str, shape: tuple[int, ...], outputs: int, kind: Kind, **options: Any) -> Model:
    """The model of that name in the shape of the data.

    Args:
        name: one of :data:`MODELS`.
        shape: shape of one input.
        outputs: ``K`` classes or ``R`` targets.
        kind: which likelihood stands on top.
        **options: of the builder.

    Raises:
        ConfigError: for an unknown name or option, or a value that means nothing.
        ModelError: if the model cannot take inputs of that shape.

    Example:
        >>> build_model("mlp", (8,), 3, "classification", hidden=(16,)).width
        16
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    known = list(inspect.signature(MODELS[name]).parameters)[3:]
    for option in options:
        if option not in known:
            raise unknown(f"option of the model {name!r}", option, known)
    return MODELS[name](shape, outputs, kind, **options)
