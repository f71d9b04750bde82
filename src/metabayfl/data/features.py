"""Columns of a table to numbers: standardised quantities, one-hot categories, marks for what was missing."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
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
    given = [_column(table, feature, features) for feature in features]
    for feature, values in zip(features, given, strict=True):
        if len(values) != len(given[0]):
            raise SchemaError(f"feature {feature.name!r} has {len(values)} rows, {features[0].name!r} has {len(given[0])}: expected equally many.")
    places = _places(tuple(features))
    out = np.zeros((len(given[0]), places.width), dtype=np.float32)
    if len(places.numeric):
        _numeric(out, features, places, np.stack([numbers(features[at].name, given[at]) for at in places.numeric], axis=1), limit)
    for at, start in places.categorical:
        out[np.arange(len(out)), start + _codes(features[at], given[at])] = 1.0
    return out


class _Places(NamedTuple):
    """Where the features' columns begin, with the numbers' constants side by side: one row must not cost a loop of array calls."""

    width: int
    numeric: tuple[int, ...]  # which features
    columns: Array  # (F,) their columns
    indicated: Array  # (I,) which of them have a mark for missing values, in the column after
    mean: Array  # (F,)
    scale: Array  # (F,)
    fill: Array  # (F,)
    categorical: tuple[tuple[int, int], ...]  # which features, and their first columns


@lru_cache(maxsize=32)
def _places(features: tuple[Feature, ...]) -> _Places:
    starts = np.cumsum([0, *(len(columns(feature)) for feature in features)])
    numeric = tuple(at for at, feature in enumerate(features) if feature.kind == "numeric")
    mean, scale, fill = np.array([(features[at].mean, features[at].scale, features[at].fill) for at in numeric]).reshape(-1, 3).T
    return _Places(
        width=int(starts[-1]),
        numeric=numeric,
        columns=starts[list(numeric)],
        indicated=np.flatnonzero([features[at].indicator for at in numeric]),
        mean=mean,
        scale=scale,
        fill=fill,
        categorical=tuple((at, int(starts[at])) for at, feature in enumerate(features) if feature.kind == "categorical"),
    )


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


def _numeric(out: Array, features: Sequence[Feature], places: _Places, given: Array, limit: float) -> None:
    """Write the numbers ``(n, F)`` and their marks into ``out``."""
    missing = np.isnan(given)
    filled = np.where(missing, places.fill, given)
    scaled = np.divide(filled - places.mean, places.scale, out=np.zeros_like(filled), where=places.scale != 0)
    far = np.abs(scaled) > limit
    if far.any():
        at, row = (int(index) for index in np.argwhere(far.T)[0])
        feature = features[places.numeric[at]]
        raise SchemaError(
            f"feature {feature.name!r}: given {filled[row, at]:g} in row {row}, {abs(scaled[row, at]):.0f} training standard deviations "
            f"({feature.scale:g}) from the training mean ({feature.mean:g}), expected at most {limit:g}. Is it in another unit?"
        )
    out[:, places.columns] = scaled
    out[:, places.columns[places.indicated] + 1] = missing[:, places.indicated]


def _codes(feature: Feature, values: Array) -> Array:
    """Positions of the categories; that of the column for unseen ones is behind them."""
    position: dict[str | None, int] = {name: i for i, name in enumerate(feature.categories)}
    given = values.tolist()
    codes = np.array([position.get(value if type(value) is str else label(value), len(position)) for value in given], dtype=np.int64)
    for row in np.flatnonzero(codes == len(position)):
        _check_unknown(feature, given[row], int(row))
    return codes


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
