"""What every source returns: rows as they were given, before anything is fitted, split or encoded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from metabayfl.errors import DataError
from metabayfl.types import Kind

Array: TypeAlias = NDArray[Any]
FeatureKind: TypeAlias = Literal["numeric", "categorical"]

MOST_CLASSES = 20
"""More different whole numbers than this are not taken for classes unless the options say so."""


class Labels(NamedTuple):
    """Names and, per row, the position of its name; -1 where it is missing."""

    codes: Array  # (N,) int64
    names: tuple[str, ...]


class Target(NamedTuple):
    """What is to be predicted."""

    kind: Kind
    values: Array  # (N,) int64 positions in ``labels``, or (N, R) float64
    labels: tuple[str, ...]  # names of the classes in the pool; empty for regression
    names: tuple[str, ...]  # names of the target columns


class FeatureInfo(NamedTuple):
    """An input column of a table before anything is fitted."""

    name: str
    kind: FeatureKind


class RawArrays(NamedTuple):
    """Rows of one shape: images, series, vectors. ``x`` may be a memory map."""

    name: str
    x: Array  # (N, ...)
    y: Target
    client: Labels | None
    flag: Array | None = None  # (N,) bool
    layout: str = "auto"
    notes: tuple[str, ...] = ()


class RawTable(NamedTuple):
    """Columns: float64 with NaN for a missing number, or objects, text or ``None`` for a missing category."""

    name: str
    columns: dict[str, Array]  # each (N,)
    features: tuple[FeatureInfo, ...]
    y: Target
    client: Labels | None
    flag: Array | None = None
    notes: tuple[str, ...] = ()


Raw: TypeAlias = RawArrays | RawTable


def count(raw: Raw) -> int:
    """How many rows."""
    return len(raw.y.values)


def take(raw: Raw, rows: Array) -> Array | dict[str, Array]:
    """The inputs of some rows, still raw: what :meth:`Schema.encode` expects."""
    if isinstance(raw, RawArrays):
        return np.asarray(raw.x[rows])
    return {info.name: raw.columns[info.name][rows] for info in raw.features}


def is_missing(value: object) -> bool:
    """``None``, NaN, or the missing marks of pandas (known by name, so that pandas need not be there)."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)


def label(value: object) -> str | None:
    """One spelling for a class, category or client, whatever type the file gave it; ``None`` where it is missing.

    Example:
        >>> label(1.0), label(1), label("a"), label(True), label(float("nan"))
        ('1', '1', 'a', 'True', None)
    """
    if is_missing(value):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names, by value if all are numbers, else by letter.

    Example:
        >>> ordered(["10", "9"]), ordered(["b", "a", "10"])
        (('9', '10'), ('10', 'a', 'b'))
    """
    distinct = sorted(set(names))
    values = [_number(name) for name in distinct]
    if any(value is None for value in values):
        return tuple(distinct)
    return tuple(name for _, name in sorted(zip(values, distinct, strict=True)))


def labels(values: Any) -> Labels:
    """Names and codes of a column of any type, ``(N,)``."""
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        found, codes = np.unique(array, return_inverse=True)
        return Labels(codes.astype(np.int64), tuple(str(value) for value in found))
    given = [label(value) for value in array.tolist()]
    names = ordered(name for name in given if name is not None)
    position = {name: i for i, name in enumerate(names)}
    return Labels(np.array([-1 if name is None else position[name] for name in given], dtype=np.int64), names)


def target(values: Any, kind: str, names: tuple[str, ...]) -> Target:
    """Classes or numbers from the target column(s).

    Args:
        values: ``(N,)``, or ``(N, R)`` for several regression targets.
        kind: ``classification``, ``regression`` or ``auto``.
        names: of the target columns, for messages and the schema.

    Raises:
        DataError: for missing or infinite values, or where ``auto`` would be a guess.
    """
    array = np.asarray(values)
    title = ", ".join(names)
    if array.ndim not in (1, 2):
        raise DataError(f"target {title}: given an array of shape {array.shape}, expected (rows,) or (rows, targets).")
    if (kind if kind != "auto" else _guess(array, title)) == "regression":
        return Target("regression", _real(array, names), (), names)
    if array.ndim == 2:
        raise DataError(f"target {title}: classification takes one column, given {array.shape[1]}.")
    found = labels(array)
    missing = int(np.sum(found.codes < 0))
    if missing:
        raise DataError(f"target {title}: {missing} of {len(array)} rows have no class. Leave them out (drop_missing = true for tables).")
    return Target("classification", found.codes, found.names, names)


def _guess(array: Array, title: str) -> Kind:
    """Text and yes/no are classes, a few whole numbers are classes, fractions are a quantity; anything else is asked for."""
    if array.ndim == 2:
        return "regression"
    if array.dtype.kind not in "iuf":
        return "classification"
    real = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    whole = array.dtype.kind in "iu" or bool(np.all(real == np.round(real)))
    if not whole:
        return "regression"
    distinct = len(np.unique(real))
    if array.dtype.kind in "iu" and distinct <= MOST_CLASSES:
        return "classification"
    raise DataError(f"target {title} holds {distinct} different whole numbers: set kind to 'classification' or 'regression'.")


def _real(array: Array, names: tuple[str, ...]) -> Array:
    try:
        values = array.reshape(len(array), -1).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"target {', '.join(names)}: a regression target must be numbers ({error}).") from error
    bad = ~np.isfinite(values)
    if bad.any():
        worst = ", ".join(f"{name}: {n}" for name, n in zip(names, bad.sum(0), strict=True) if n)
        raise DataError(f"target with NaN or infinite values (column: rows) {worst}, of {len(values)} rows. Leave these rows out or repair them.")
    return values
