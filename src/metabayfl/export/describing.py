"""What a file says of itself in its metadata, enough to name its inputs and outputs without this library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from metabayfl.data.schema import Schema
from metabayfl.export.inputs import Input
from metabayfl.export.outputs import COVERAGE, Output
from metabayfl.personal import PersonalStrategy

VERSION = 1


def described(source: PersonalStrategy, kind: str, inputs: Sequence[Input], outputs: Sequence[Output], **more: Any) -> dict[str, Any]:
    """JSON: what the file is for, where it comes from, its schema, inputs and outputs; ``more`` is what only this kind of file has."""
    schema = source.schema
    return {
        "version": VERSION,
        "metabayfl": version("metabayfl"),
        "kind": kind,
        "algorithm": source.algorithm.name,
        "strategy": source.strategy.digest(),
        "classes": list(schema.classes),
        "targets": list(schema.targets),
        "coverage": COVERAGE,
        "schema": schema.to_json(),
        "inputs": [_input(schema, item) for item in inputs],
        "outputs": [{"name": item.name, "kind": item.kind, "shape": list(item.shape)} for item in outputs],
        **more,
    }


def number(value: float) -> float | str:
    """As JSON can say it: infinity, where nothing is referred, is a text."""
    return value if math.isfinite(value) else str(value)


def _input(schema: Schema, item: Input) -> dict[str, Any]:
    said = {"name": item.name, "kind": item.kind, "shape": list(item.shape)}
    if item.kind == "posterior":
        return {**said, "type": item.type}
    if item.kind == "category":
        return {**said, "words": list(item.words), "missing": any(one.name == item.name and one.unseen for one in schema.features)}
    centre, spread = _usual(schema, item)
    return {**said, "centre": centre, "spread": spread, "missing": _may_lack(schema, item), "range": list(schema.pixel_range)}


def _usual(schema: Schema, item: Input) -> tuple[float, float]:
    """Mean and standard deviation in training, over all channels for an array."""
    if item.kind == "array":
        return sum(schema.channel_mean) / len(schema.channel_mean), max(schema.channel_scale)
    known = {one.name: (one.mean, one.scale) for one in schema.features}
    own = dict(zip(schema.targets, zip(schema.target_mean, schema.target_scale, strict=True), strict=False))
    return known.get(item.name) or own[item.name]


def _may_lack(schema: Schema, item: Input) -> bool:
    return any(one.name == item.name for one in schema.features)
