"""Strategies that nobody trained, over schemas of every kind: what an export has to carry over does not depend on training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabayfl import random, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.artifact import Strategy
from metabayfl.data.features import Feature
from metabayfl.data.schema import Schema
from metabayfl.export.describing import described
from metabayfl.export.inputs import features, targets
from metabayfl.export.on_device import examples
from metabayfl.models import build_model
from metabayfl.personal import PersonalModel, PersonalStrategy, rebuild

COLUMNS = (
    Feature("age", "numeric", mean=50.0, scale=10.0, fill=48.0, indicator=True),
    Feature("view", "categorical", ("front", "side"), unseen=True),
    Feature("constant", "numeric", mean=3.0, scale=0.0, fill=3.0),
    Feature("label", "categorical", ("a", "b", "c")),
    Feature("dose mg/l", "numeric", mean=1e6, scale=2e3, fill=1e6),
)
"""Names that the graph or its outputs might use too, a column that never varied, categories with and without a place for others."""

CLASSES: dict[str, Any] = {"kind": "classification", "classes": ("ill", "unsure", "well"), "targets": ("state",)}
NUMBERS: dict[str, Any] = {"kind": "regression", "targets": ("low", "high"), "target_mean": (80.0, 120.0), "target_scale": (7.0, 0.5)}


class Edge(NamedTuple):
    """A client's model and its file."""

    model: PersonalModel
    file: Path


class EdgePair(NamedTuple):
    """A strategy and its two files."""

    source: PersonalStrategy
    adapt: Path
    predict: Path


def table(target: dict[str, Any]) -> Schema:
    return Schema(input_shape=(10,), form="table", features=COLUMNS, **target)


def images(target: dict[str, Any], channels: int = 1) -> Schema:
    return Schema(
        input_shape=(channels, 12, 12),
        form="array",
        layout="image" if channels == 1 else "channels_last",
        channel_mean=(80.0,) * channels,
        channel_scale=(60.0,) * channels,
        pixel_range=(0.0, 255.0),
        **target,
    )


def signals(target: dict[str, Any]) -> Schema:
    return Schema(input_shape=(3, 16), form="array", layout="series", channel_mean=(0.5, 0.0, 9.0), channel_scale=(1.0, 0.0, 2.0), **target)


def untrained(schema: Schema, model: dict[str, Any], algorithm: str = "meta_bayfl", **arguments: Any) -> PersonalStrategy:
    """A strategy whose numbers are noise around their start."""
    options = {name: value for name, value in model.items() if name != "name"}
    network = build_model(model["name"], schema.input_shape, schema.outputs, schema.kind, **options)
    start = ALGORITHMS[algorithm](network, **arguments).init(random.key(0))
    leaves = enumerate(tree.leaves(start))
    meta = tree.like(start, [leaf + 0.2 * random.normal(random.fold(random.key(1), at), tuple(leaf.shape)) for at, leaf in leaves])
    spec = {"algorithm": algorithm, "arguments": arguments, "model": model}
    return rebuild(Strategy(spec, meta, schema.to_json(), codec="int8" if algorithm == "meta_bayfl" else "exact"))


def raw_rows(source: PersonalStrategy, rows: int, seed: int = 0) -> dict[str, Any]:
    """As an exported file takes them, with targets."""
    about = described(source, "test", (*features(source.schema), *targets(source.schema)), ())
    return examples(about["inputs"], rows, seed)


def split(source: PersonalStrategy, raw: dict[str, Any]) -> tuple[Any, Any]:
    """``(x, y)`` as the library takes them."""
    names = source.schema.targets
    own = {name: raw[name] for name in raw if name not in names}
    y = raw[names[0]] if source.schema.kind == "classification" else np.stack([raw[name] for name in names], -1)
    return (own["x"] if source.schema.form == "array" else own), y


def personal(source: PersonalStrategy, samples: int = 12) -> PersonalModel:
    return source.personalize(*split(source, raw_rows(source, samples, seed=7)))
