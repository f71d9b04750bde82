"""What a graph takes: raw features in their own units, encoded inside by exactly the schema's rules.

The schema refuses some rows (a number of another unit, an unknown category without a column for it). A graph cannot raise: such a row is marked in
the output ``valid``, where :meth:`~metabayfl.data.schema.Schema.encode` on that row alone would raise, and it is referred.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metabayfl.data.features import columns
from metabayfl.data.schema import SCALE_LIMIT, Schema


class Input(NamedTuple):
    """One input of a graph as its user sees it."""

    name: str
    kind: Literal["number", "category", "array", "posterior"]
    shape: tuple[int, ...] = ()  # of one row; of the whole, for a part of a posterior
    words: tuple[str, ...] = ()  # of a category; a text that is none of them has the code after the last
    type: str = ""  # NumPy's name of a posterior's numbers


def features(schema: Schema) -> tuple[Input, ...]:
    """One input for each column of a table, by its name; arrays come as ``x``."""
    if schema.form == "table":
        return tuple(Input(item.name, "number" if item.kind == "numeric" else "category", (), item.categories) for item in schema.features)
    return (Input("x", "array", raw_shape(schema)),)


def targets(schema: Schema) -> tuple[Input, ...]:
    """What a support row says beside its features, by the target columns' names."""
    if schema.kind == "classification":
        return (Input(schema.targets[0], "category", (), schema.classes),)
    return tuple(Input(name, "number") for name in schema.targets)


def raw_shape(schema: Schema) -> tuple[int, ...]:
    """Of one row in the layout that the schema's clients have; images of one channel come without its axis."""
    if schema.layout == "channels_last":
        return (*schema.input_shape[1:], schema.input_shape[0])
    return schema.input_shape[1:] if schema.layout == "image" and schema.input_shape[0] == 1 else schema.input_shape


def blank(given: Input, rows: int) -> Tensor:
    """Zeros in the type that a traced graph takes: codes for categories, float64 for columns, float32 for arrays, a posterior's part as it is."""
    if given.kind == "posterior":
        return torch.zeros(given.shape, dtype=getattr(torch, given.type))
    kinds = {"number": torch.float64, "category": torch.int64, "array": torch.float32}
    return torch.zeros(rows, *given.shape, dtype=kinds[given.kind])


def encode(schema: Schema, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """``(encoded (N, *input_shape) float32, valid (N,) bool)`` of inputs in the order of :func:`features`, categories as codes."""
    if schema.form == "array":
        return _array(schema, raw[0])
    numbers = [values for item, values in zip(schema.features, raw, strict=True) if item.kind == "numeric"]
    codes = [values for item, values in zip(schema.features, raw, strict=True) if item.kind == "categorical"]
    blocks = [*([_numeric(schema, torch.stack(numbers, -1))] if numbers else []), *([_categorical(schema, torch.stack(codes, -1))] if codes else [])]
    together = torch.cat([block for block, _ in blocks], -1)
    return torch.index_select(together, -1, _order(schema)).float(), torch.stack([fits for _, fits in blocks]).all(0)


def encode_targets(schema: Schema, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """``(y, valid)``: class positions ``(N,)``, 0 where unknown, or standardised targets ``(N, R)`` float32."""
    if schema.kind == "classification":
        known = raw[0] < len(schema.classes)
        return torch.where(known, raw[0], 0), known
    values = torch.stack(raw, -1)
    finite = torch.isfinite(values).all(-1)
    scaled = (values - torch.tensor(schema.target_mean, dtype=torch.float64)) / torch.tensor(schema.target_scale, dtype=torch.float64)
    return torch.where(finite.unsqueeze(-1), scaled, 0.0).float(), finite


def _numeric(schema: Schema, given: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers ``(N, F)`` scaled, then the marks for missing ones."""
    own = [item for item in schema.features if item.kind == "numeric"]
    fill, mean, scale = (torch.tensor([getattr(item, name) for item in own], dtype=torch.float64) for name in ("fill", "mean", "scale"))
    missing = torch.isnan(given)
    scaled = torch.where(scale != 0, (torch.where(missing, fill, given) - mean) / torch.where(scale != 0, scale, 1.0), 0.0)
    valid = ((scaled.abs() <= SCALE_LIMIT) & ~torch.isinf(given)).all(-1)
    marked = torch.tensor([at for at, item in enumerate(own) if item.indicator], dtype=torch.int64)
    return torch.cat([scaled, torch.index_select(missing, -1, marked).double()], -1), valid


def _categorical(schema: Schema, code: Tensor) -> tuple[Tensor, Tensor]:
    """One column for each category of each of the columns ``(N, F)``; a row without any of a column's is not valid."""
    widths = [len(columns(item)) for item in schema.features if item.kind == "categorical"]
    source, position = torch.tensor([(at, place) for at, width in enumerate(widths) for place in range(width)]).unbind(-1)
    return (torch.index_select(code, -1, source) == position).double(), (code < torch.tensor(widths)).all(-1)


def _order(schema: Schema) -> Tensor:
    """Where the encoded columns, in the schema's order, stand in all numbers, then all marks, then all categories."""
    places = [(item.kind, at) for item in schema.features for at in range(len(columns(item)))]
    group = [2 if kind == "categorical" else at for kind, at in places]  # a number's second column is its mark
    stands = sorted(range(len(group)), key=lambda at: group[at])
    return torch.argsort(torch.tensor(stands))


def _array(schema: Schema, given: Tensor) -> tuple[Tensor, Tensor]:
    raw = _channels_second(schema, given)
    flat = raw.flatten(1)
    mean, scale = (
        torch.tensor(values, dtype=torch.float64).view(-1, *[1] * (raw.ndim - 2)) for values in (schema.channel_mean, schema.channel_scale)
    )
    scaled = torch.where(scale > 0, (raw.double() - mean) / torch.where(scale > 0, scale, 1.0), 0.0)
    fits = _pixels(flat, *schema.pixel_range) if schema.pixel_range else (scaled.flatten(1).abs() <= SCALE_LIMIT).all(-1)
    return scaled.float(), fits & torch.isfinite(flat).all(-1)


def _channels_second(schema: Schema, given: Tensor) -> Tensor:
    if schema.layout == "channels_last":
        return given.movedim(-1, 1)
    return given.unsqueeze(1) if len(raw_shape(schema)) < len(schema.input_shape) else given


def _pixels(flat: Tensor, low: float, high: float) -> Tensor:
    """Of each row what :func:`metabayfl.data.channels.check_pixels` asks of a batch."""
    smallest, largest, span = flat.amin(-1), flat.amax(-1), high - low
    inside = (largest <= high + 3 * span) & (smallest >= low - 3 * span)
    if high <= 10:
        return inside
    fraction = (flat != flat.round()).any(-1)
    size = torch.maximum(smallest.abs(), largest.abs())
    rescaled = fraction & (size <= max(1.0, span / 20))
    two_valued = (largest > 0) & (largest <= 1) & (flat.mean(-1) > 0.01)
    return inside & ~rescaled & ~two_valued
