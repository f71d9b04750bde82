"""From a request's body to columns or arrays that the schema can encode; every refusal names the field.

Tables come as rows ``{column: value}``, arrays as nested lists; a missing value is ``null``. JSON lets through what a model cannot use (numbers
beyond floating point, lists inside cells), and that is refused here; everything else the schema judges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metabayfl import storage
from metabayfl.data.raw import Array
from metabayfl.data.schema import SCALE_LIMIT, Schema
from metabayfl.errors import SchemaError
from metabayfl.serve.problems import RequestError

_LARGEST = 1e300

_OTHERS, _LONGEST = 20, 1000
"""Columns of a row that are no features, such as a patient's number, and characters of a text: a referred case is kept with its row."""


class Inputs(NamedTuple):
    """Rows without labels."""

    rows: list[Any]  # as they were posted
    x: Any  # what Schema.encode takes


class Samples(NamedTuple):
    """Rows with labels."""

    rows: list[Any]
    x: Any
    y: Array


def document(body: bytes, allowed: set[str]) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        RequestError: 400 if it is no JSON object, 422 if it has a field that the endpoint does not know.
    """
    try:
        value = storage.parse_json(body)
    except ValueError as error:
        raise RequestError(400, f'the body is no JSON ({error}): send an object such as {{"rows": [...]}}, with null for what is missing') from error
    if not isinstance(value, dict):
        raise RequestError(400, f"the body is a JSON {_kind(value)}, expected an object with the fields {_listed(allowed)}")
    for name in value.keys() - allowed:
        raise RequestError(422, f"the field {name[:60]!r} is not known here: expected {_listed(allowed)}")
    return value


def inputs(schema: Schema, table: dict[str, Any], most: int) -> Inputs:
    """The field ``rows``.

    Raises:
        RequestError: 413 for too many rows.
        SchemaError: if they are no rows of this schema.
    """
    rows = _list(table, "rows", most)
    return Inputs(rows, _columns(schema, rows) if schema.form == "table" else _array(rows))


def samples(schema: Schema, table: dict[str, Any], most: int) -> Samples:
    """The fields ``rows`` and ``labels``.

    Raises:
        RequestError: 413 for too many rows.
        SchemaError: if they do not fit the schema or each other.
    """
    given, y = inputs(schema, table, most), labels(schema, _list(table, "labels", most))
    if len(given.rows) != len(y):
        raise SchemaError(f"field 'labels': {len(y)} labels for {len(given.rows)} rows, expected one for each.")
    return Samples(*given, y)


def labels(schema: Schema, given: list[Any]) -> Array:
    """Labels as :meth:`Schema.encode_targets` takes them: class names ``(n,)``, or numbers ``(n, R)``.

    Raises:
        SchemaError: for what is neither a class nor a number, or a number in another unit.
    """
    if schema.kind == "classification":
        return _cells("field 'labels'", given)
    rows = [item if isinstance(item, list) else [item] for item in given]
    for at, row in enumerate(rows):
        if len(row) != len(schema.targets) or not all(_is_number(value) for value in row):
            raise SchemaError(f"field 'labels': row {at} is no list of {len(schema.targets)} numbers ({', '.join(schema.targets)}).")
    values = np.array(rows, dtype=np.float64)
    away = np.abs((values - np.array(schema.target_mean)) / np.array(schema.target_scale))
    if (away > SCALE_LIMIT).any():
        at, which = np.argwhere(away > SCALE_LIMIT)[0]
        raise SchemaError(
            f"field 'labels': {schema.targets[which]} in row {at} is {values[at, which]:g}, {away[at, which]:.3g} training standard deviations from "
            f"the training mean ({schema.target_mean[which]:g}), expected at most {SCALE_LIMIT:g}. Is it in another unit?"
        )
    return values


def share(table: dict[str, Any], name: str) -> float:
    """A field that holds a share.

    Raises:
        SchemaError: if it is none.
    """
    value = table[name]
    if not _is_number(value) or not 0 <= value <= 1:
        raise SchemaError(f"field {name!r}: given a {_kind(value)}, expected a number from 0 to 1.")
    return float(value)


def flag(table: dict[str, Any], name: str, *, default: bool) -> bool:
    """A field that is true or false.

    Raises:
        SchemaError: if it is neither.
    """
    value = table.get(name, default)
    if not isinstance(value, bool):
        raise SchemaError(f"field {name!r}: given a {_kind(value)}, expected true or false.")
    return value


def _list(table: dict[str, Any], name: str, most: int) -> list[Any]:
    if name not in table:
        raise SchemaError(f"field {name!r} is missing: expected a list.")
    value = table[name]
    if not isinstance(value, list) or not value:
        raise SchemaError(f"field {name!r}: given {'an empty list' if value == [] else 'a ' + _kind(value)}, expected a list of at least one.")
    if len(value) > most:
        raise RequestError(413, f"field {name!r}: {len(value)} given, this server takes at most {most} in a request: send several")
    return value


def _columns(schema: Schema, rows: list[Any]) -> dict[str, Array]:
    names = [feature.name for feature in schema.features]
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            raise SchemaError(f"row {at} is a {_kind(row)}, expected an object {{column: value}}.")
        if len(row) > len(names) + _OTHERS:
            raise SchemaError(f"row {at} has {len(row)} columns, expected {', '.join(names)} and at most {_OTHERS} others.")
        for name in row.keys() - set(names):
            _cells(f"column {name[:60]!r}", [row[name]])
    for at, row in enumerate(rows):
        if not row.keys() >= set(names):
            lacking = next(name for name in names if name not in row)
            raise SchemaError(
                f"feature {lacking!r} is missing in row {at}: give its value, or null where it is not known; expected {', '.join(names)}."
            )
    return {name: _cells(f"feature {name!r}", [row[name] for row in rows]) for name in names}


def _cells(what: str, values: list[Any]) -> Array:
    """A column that keeps every cell's own type."""
    for at, value in enumerate(values):
        if isinstance(value, str) and len(value) > _LONGEST:
            raise SchemaError(f"{what}: given a text of {len(value)} characters in row {at}, expected at most {_LONGEST}.")
        if not (value is None or isinstance(value, (str, bool)) or _is_number(value)):
            raise SchemaError(f"{what}: given {_cell(value)} in row {at}, expected one value.")
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _array(rows: list[Any]) -> Array:
    try:
        array = np.asarray(rows)
    except (ValueError, OverflowError) as error:
        raise SchemaError("field 'rows': the lists in it differ in length or depth, expected nested lists of one shape.") from error
    return array


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _cell(value: Any) -> str:
    return "a number beyond all bounds" if type(value) in (int, float) else f"a {_kind(value)}"


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true or false", int: "number", float: "number", type(None): "null"}
    return names[type(value)]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
