"""Columns of a table to numbers: standardised quantities, one-hot categories, marks for what was missing."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metabayfl.data.raw import Array, FeatureKind, is_missing, label
from metabayfl.errors import SchemaError


class Feature(NamedTuple):
    """One input column as the training clients had it.

    A number becomes ``(x - mean) / scale``, 0 where the column was constant in training (``scale`` 0). A category becomes one column per name.
    """

    name: str
    kind: FeatureKind
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    fill: float = 0.0  # stands in for a missing number, in the column's unit
    indicator: bool = False  # one more column: 1 where the number was missing
    unseen: bool = False  # one more column: 1 where the category is missing or was never seen; else such a row is refused


def columns(feature: Feature) -> tuple[str, ...]:
    """Names of the encoded columns.

    Example:
        >>> columns(Feature("sex", "categorical", ("f", "m"), unseen=True))
        ('sex = f', 'sex = m', 'sex unseen')
    """
    if feature.kind == "numeric":
        return (feature.name, f"{feature.name} missing") if feature.indicator else (feature.name,)
    known = tuple(f"{feature.name} = {category}" for category in feature.categories)
    return (*known, f"{feature.name} unseen") if feature.unseen else known


def encode_table(features: Sequence[Feature], table: Any, limit: float) -> Array:
    """Encoded rows ``(n, width)`` float32.

    Args:
        features: of the schema.
        table: a mapping from column name to ``n`` values, or a data frame; other columns are ignored.
        limit: standard deviations from the training mean beyond which a number is taken for another unit.

    Raises:
        SchemaError: names the feature, what was given and what is expected.
    """
    if not isinstance(table, Mapping) and not (hasattr(table, "columns") and hasattr(table, "__getitem__")):
        raise SchemaError(f"given {_describe(table)}, expected a table (data frame or mapping) with the columns {_names(features)}.")
    blocks: list[Array] = []
    for feature in features:
        values = _column(table, feature, features)
        if blocks and len(values) != len(blocks[0]):
            raise SchemaError(f"feature {feature.name!r} has {len(values)} rows, {features[0].name!r} has {len(blocks[0])}: expected equally many.")
        blocks.append(_numeric(feature, values, limit) if feature.kind == "numeric" else _categorical(feature, values))
    return np.concatenate(blocks, axis=1).astype(np.float32)


def _names(features: Sequence[Feature]) -> str:
    return ", ".join(feature.name for feature in features)


def _describe(value: Any) -> str:
    return f"an array of shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def _column(table: Any, feature: Feature, features: Sequence[Feature]) -> Array:
    given = [str(name) for name in (table if isinstance(table, Mapping) else table.columns)]
    if given.count(feature.name) > 1:
        raise SchemaError(f"feature {feature.name!r}: {given.count(feature.name)} columns of that name were given, expected one.")
    if feature.name not in given:
        near = difflib.get_close_matches(feature.name, given, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SchemaError(f"feature {feature.name!r} is missing: given {', '.join(given) or 'no column'}; expected {_names(features)}.{hint}")
    values = np.asarray(table[feature.name])
    if values.ndim != 1:
        raise SchemaError(f"feature {feature.name!r}: given values of shape {values.shape}, expected one value per row, (rows,).")
    return values


def numbers(name: str, values: Array) -> Array:
    """A column as float64 with NaN for what is missing.

    Raises:
        SchemaError: for text, infinities or anything else that is no number.
    """
    if values.dtype.kind in "biuf":
        out = values.astype(np.float64)
    else:
        out = np.array([_number(name, row, value) for row, value in enumerate(values.tolist())], dtype=np.float64)
    if np.isinf(out).any():
        raise SchemaError(f"feature {name!r}: {int(np.isinf(out).sum())} infinite values given, expected finite numbers (missing is NaN).")
    return out


def _number(name: str, row: int, value: object) -> float:
    if is_missing(value):
        return math.nan
    if isinstance(value, bool | int | float | np.number):
        return float(value)
    what = "text" if isinstance(value, str) else f"a {type(value).__name__}"
    raise SchemaError(f"feature {name!r}: given {what} {value!r} in row {row}, expected a number.")


def _numeric(feature: Feature, values: Array, limit: float) -> Array:
    given = numbers(feature.name, values)
    missing = np.isnan(given)
    filled = np.where(missing, feature.fill, given)
    scaled = (filled - feature.mean) / feature.scale if feature.scale else np.zeros_like(filled)
    far = np.abs(scaled) > limit
    if far.any():
        row = int(np.argmax(far))
        raise SchemaError(
            f"feature {feature.name!r}: given {filled[row]:g} in row {row}, {abs(scaled[row]):.0f} training standard deviations ({feature.scale:g}) "
            f"from the training mean ({feature.mean:g}), expected at most {limit:g}. Is it in another unit?"
        )
    blocks = [scaled, missing] if feature.indicator else [scaled]
    return np.stack(blocks, axis=1).astype(np.float64)


def _categorical(feature: Feature, values: Array) -> Array:
    position: dict[str | None, int] = {name: i for i, name in enumerate(feature.categories)}
    given = values.tolist()
    codes = np.array([position.get(value if type(value) is str else label(value), len(position)) for value in given], dtype=np.int64)
    for row in np.flatnonzero(codes == len(position)):
        _check_unknown(feature, given[row], int(row))
    out = np.zeros((len(given), len(columns(feature))))
    out[np.arange(len(given)), codes] = 1.0
    return out


def _check_unknown(feature: Feature, value: object, row: int) -> None:
    """A value that is no known category may be missing or unseen, if the schema has a column for that, but never of another type."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool) and not is_missing(value)
    if numeric and not any(_is_number(name) for name in feature.categories):
        raise SchemaError(f"feature {feature.name!r}: given the number {value!r} in row {row}, expected one of the texts {_some(feature)}.")
    if not feature.unseen:
        given = "a missing value" if is_missing(value) else f"the unknown category {label(value)!r}"
        raise SchemaError(f"feature {feature.name!r}: given {given} in row {row}, expected one of {_some(feature)}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _some(feature: Feature, most: int = 12) -> str:
    shown = ", ".join(repr(name) for name in feature.categories[:most])
    more = len(feature.categories) - most
    return f"{shown} and {more} more" if more > 0 else shown
