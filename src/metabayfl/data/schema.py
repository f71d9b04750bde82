"""What a strategy was trained on: enough to encode a new client's rows the same way, and to refuse rows that are something else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from metabayfl.data.channels import check_distance, check_pixels, checked
from metabayfl.data.features import Feature, columns, encode_table
from metabayfl.data.raw import Array, label
from metabayfl.errors import SchemaError
from metabayfl.types import Kind

__all__ = ["SCALE_LIMIT", "Feature", "Schema"]

SCALE_LIMIT = 50.0
"""Training standard deviations from the training mean beyond which an input is taken for another unit."""

_VERSION = 1


@dataclass(frozen=True)
class Schema:
    """Names, types and scales of inputs and targets, all from the training clients.

    Attributes:
        kind: classification or regression.
        input_shape: of one encoded row: ``(d,)``, ``(channels, steps)`` or ``(channels, height, width)``.
        form: ``table`` (``features`` hold) or ``array`` (``layout`` and the channels hold).
        features: the columns of a table, in order.
        layout: how array inputs arrive, see :class:`~metabayfl.data.options.DataOptions`.
        channel_mean: per channel, or per value of a vector.
        channel_scale: standard deviations; 0 where the channel was constant, which encodes to 0.
        pixel_range: smallest and largest value of training images, else empty.
        classes: names; a class is coded by its position.
        targets: names of the target columns.
        target_mean: per regression target.
        target_scale: standard deviations.

    Example:
        >>> schema = Schema("regression", (1,), "table", (Feature("age", "numeric", mean=50.0, scale=10.0),), targets=("y",),
        ...                 target_mean=(1.0,), target_scale=(2.0,))
        >>> schema.encode({"age": [40, 60]}).tolist()
        [[-1.0], [1.0]]
        >>> Schema.from_json(schema.to_json()) == schema
        True
    """

    kind: Kind
    input_shape: tuple[int, ...]
    form: Literal["table", "array"]
    features: tuple[Feature, ...] = ()
    layout: str = ""
    channel_mean: tuple[float, ...] = ()
    channel_scale: tuple[float, ...] = ()
    pixel_range: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_scale: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a table's encoded columns; empty for arrays."""
        return tuple(name for feature in self.features for name in columns(feature))

    @property
    def outputs(self) -> int:
        """``K`` classes or ``R`` targets."""
        return len(self.classes if self.kind == "classification" else self.targets)

    def encode(self, x: Any, *, scale_limit: float = SCALE_LIMIT) -> Array:
        """Raw inputs to float32, ``(n, *input_shape)``.

        Args:
            x: a mapping from column name to values or a data frame; for arrays ``(n, ...)`` in the raw layout and unit.
            scale_limit: refuse values further from the training mean than this many standard deviations (images: of another range);
                ``math.inf`` takes any.

        Raises:
            SchemaError: names the feature, what was given and what is expected.
        """
        if self.form == "table":
            return encode_table(self.features, x, scale_limit)
        raw = checked(x, self.layout, self.input_shape)
        if self.pixel_range and math.isfinite(scale_limit):
            check_pixels(raw, *self.pixel_range)
        scaled = self._scaled(raw)
        if not self.pixel_range:
            check_distance(scaled, scale_limit)
        return scaled.astype(np.float32)

    def _scaled(self, raw: Array) -> Array:
        along = (-1, *(1,) * (raw.ndim - 2))
        mean, scale = (np.asarray(values, dtype=np.float64).reshape(along) for values in (self.channel_mean, self.channel_scale))
        out: Array = np.subtract(raw, mean, dtype=np.float64)
        scaled: Array = np.divide(out, scale, out=np.zeros_like(out), where=scale > 0)
        return scaled

    def encode_targets(self, y: Any) -> Array:
        """Raw targets to int64 class positions ``(n,)``, or standardised float32 ``(n, R)``.

        Raises:
            SchemaError: for an unknown class, or something that is no number.
        """
        array = np.asarray(y)
        if self.kind == "classification":
            return self._classes(array)
        try:
            values = array.reshape(len(array), -1).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"target {', '.join(self.targets)}: given {array.dtype} values, expected numbers.") from error
        if values.shape[1] != len(self.targets) or not np.isfinite(values).all():
            raise SchemaError(f"targets: given shape {array.shape}, expected {len(self.targets)} finite numbers a row: {', '.join(self.targets)}.")
        out: Array = ((values - np.array(self.target_mean)) / np.array(self.target_scale)).astype(np.float32)
        return out

    def _classes(self, array: Array) -> Array:
        position = {name: i for i, name in enumerate(self.classes)}
        names = [label(value) for value in array.tolist()]
        for row, name in enumerate(names):
            if name not in position:
                raise SchemaError(f"target {', '.join(self.targets)}: given class {name!r} in row {row}, expected one of {', '.join(self.classes)}.")
        return np.array([position[name] for name in names if name is not None], dtype=np.int64)

    def decode_targets(self, y: Any) -> Array:
        """The inverse of :meth:`encode_targets`: class names ``(n,)``, or numbers in their own unit ``(n, R)``."""
        if self.kind == "classification":
            names = np.array(self.classes, dtype=object)
            return np.asarray(names[np.asarray(y)])
        out: Array = np.asarray(y, dtype=np.float64) * np.array(self.target_scale) + np.array(self.target_mean)
        return out

    def to_json(self) -> dict[str, Any]:
        """A table of JSON's own types (lists, texts, finite numbers)."""
        table = {"version": _VERSION, **asdict(self), "features": [item._asdict() for item in self.features]}
        plain: dict[str, Any] = json.loads(json.dumps(table, allow_nan=False))
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | str) -> Schema:
        """The schema that :meth:`to_json` wrote, as a table or as text.

        Raises:
            SchemaError: if it is not a schema of this version, or contradicts itself.
        """
        try:
            table = dict(json.loads(value) if isinstance(value, str) else value)
            version = table.pop("version")
            if version != _VERSION or table.keys() != {item.name for item in fields(cls)}:
                raise ValueError(f"version {version}, keys {', '.join(table)}")
            features = tuple(Feature(**{name: _tuples(part) for name, part in item.items()}) for item in table.pop("features"))
            schema = cls(features=features, **{name: _tuples(part) for name, part in table.items()})
            _check(schema)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"not a schema of version {_VERSION}: {error}. Was the file written by another version of metabayfl?") from error
        return schema


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _check(schema: Schema) -> None:
    """A schema that was edited by hand must still fit together."""
    if schema.kind not in get_args(Kind) or schema.form not in ("table", "array"):
        raise ValueError(f"kind {schema.kind!r}, form {schema.form!r}")
    table, outputs = schema.form == "table", len(schema.targets)
    width = len(schema.columns) if table else len(schema.channel_mean)
    if not schema.input_shape or width != schema.input_shape[0] or len(schema.channel_mean) != len(schema.channel_scale):
        raise ValueError(f"input shape {schema.input_shape}, but {width} columns or channels")
    if schema.kind == "regression" and not outputs == len(schema.target_mean) == len(schema.target_scale):
        raise ValueError(f"{outputs} targets, but {len(schema.target_mean)} means and {len(schema.target_scale)} scales")
    if schema.kind == "classification" and len(schema.classes) < 2:
        raise ValueError(f"classes {schema.classes}")
