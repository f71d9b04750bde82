"""The OpenAPI document's parts that come from the strategy served: what a row is, what a label is, and an example of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from metabayfl.data.features import Feature
from metabayfl.data.schema import Schema

Json = dict[str, Any]


def example_row(schema: Schema) -> Any:
    """A row as a typical training client had it: means, and first categories."""
    if schema.form == "table":
        return {feature.name: _typical(feature) for feature in schema.features}
    return np.broadcast_to(np.array(schema.channel_mean).reshape(-1, *(1,) * (len(schema.input_shape) - 1)), schema.input_shape)


def example_label(schema: Schema) -> Any:
    """The first class, or the targets' means."""
    if schema.kind == "classification":
        return schema.classes[0]
    means = [_short(value) for value in schema.target_mean]
    return means[0] if len(means) == 1 else means


def posted_row(schema: Schema) -> Any:
    """:func:`example_row` in JSON's own types and in the layout in which requests carry it."""
    row = example_row(schema)
    if schema.form == "table":
        return row
    if schema.layout == "channels_last":
        row = np.moveaxis(row, 0, -1)
    elif schema.layout == "image" and row.shape[0] == 1:
        row = row[0]
    return [_short(value) for value in row.tolist()] if row.ndim == 1 else np.vectorize(_short)(row).tolist()


def row_schema(schema: Schema) -> Json:
    """The JSON Schema of one row."""
    if schema.form == "table":
        names = [feature.name for feature in schema.features]
        return {"type": "object", "required": names, "properties": {feature.name: _cell(feature) for feature in schema.features}}
    depth = np.ndim(posted_row(schema))
    out: Json = {"type": "number"}
    for _ in range(depth):
        out = {"type": "array", "items": out}
    return {**out, "description": f"numbers of shape {' x '.join(map(str, schema.input_shape))} (layout {schema.layout})"}


def label_schema(schema: Schema) -> Json:
    """The JSON Schema of one label."""
    if schema.kind == "classification":
        return {"type": "string", "enum": list(schema.classes)}
    number: Json = {"type": "number"}
    count = len(schema.targets)
    return number if count == 1 else {"type": "array", "items": number, "minItems": count, "maxItems": count}


def rows_body(schema: Schema, most: int, *, labels: bool, fields: Json) -> Json:
    """The ``requestBody`` of an endpoint that takes rows, with or without labels, and these fields besides."""
    rows: Json = {"type": "array", "items": row_schema(schema), "minItems": 1, "maxItems": most}
    properties: Json = {"rows": rows, **fields}
    example: Json = {"rows": [posted_row(schema)]}
    if labels:
        properties["labels"] = {"type": "array", "items": label_schema(schema), "minItems": 1, "maxItems": most}
        example["labels"] = [example_label(schema)]
    return json_body(properties, list(example), example)


def label_body(schema: Schema) -> Json:
    """The ``requestBody`` of a case's label."""
    return json_body({"label": label_schema(schema)}, ["label"], {"label": example_label(schema)})


def json_body(properties: Json, required: list[str], example: Json) -> Json:
    """A ``requestBody`` that is a JSON object."""
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


def _cell(feature: Feature) -> Json:
    if feature.kind == "numeric":
        return {"type": ["number", "null"]}
    if feature.unseen:
        return {"type": ["string", "number", "null"], "description": f"one of {', '.join(feature.categories)}; anything else counts as unseen"}
    return {"type": "string", "enum": list(feature.categories)}


def _typical(feature: Feature) -> Any:
    return _short(feature.mean) if feature.kind == "numeric" else feature.categories[0]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
