"""Frozen dataclasses from TOML or JSON tables, strictly: every key must exist and every value must have the field's type."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from metabayfl.errors import ConfigError, unknown

T = TypeVar("T")


def parse(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass ``cls`` from ``table``; nested dataclasses are nested tables, lists become tuples.

    Args:
        cls: a dataclass.
        table: keys are field names.
        where: how messages name the table, such as ``[data.split]``.

    Raises:
        ConfigError: for an unknown key, a missing one, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    for key in table:
        if key not in known:
            raise unknown(f"key in {where}", key, known)
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where} lacks the key {name!r} ({_describe(hints[name])})")
    return cls(**{key: convert(value, hints[key], f"{key} in {where}") for key, value in table.items()})


def convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type ``hint`` wants it, or a :class:`ConfigError` that says what was given and expected."""
    for option in _options(hint):
        matched, result = _match(value, option, where)
        if matched:
            return result
    raise ConfigError(f"{where} is {value!r}, expected {_describe(hint)}")


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _match(value: Any, hint: Any, where: str) -> tuple[bool, Any]:
    origin = typing.get_origin(hint)
    if is_dataclass(hint):
        return isinstance(value, Mapping), parse(hint, value, f"[{where}]") if isinstance(value, Mapping) else None  # type: ignore[arg-type]
    if origin is typing.Literal:
        return value in typing.get_args(hint), value
    if origin is tuple:
        return _match_tuple(value, typing.get_args(hint), where)
    if origin is Sequence:
        return _match_tuple(value, (*typing.get_args(hint), Ellipsis), where)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        inner = typing.get_args(hint)[1]
        return isinstance(value, Mapping), {k: convert(v, inner, f"{k} in {where}") for k, v in value.items()} if isinstance(value, Mapping) else None
    if hint is Any or hint is type(None):
        return hint is Any or value is None, value
    if hint is float and type(value) is int:
        return True, float(value)
    return type(value) is hint, value  # exact, so that true is no number


def _match_tuple(value: Any, inner: tuple[Any, ...], where: str) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return False, None
    kinds = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
    if len(kinds) != len(value):
        return False, None
    return True, tuple(convert(item, kind, where) for item, kind in zip(value, kinds, strict=True))


def _describe(hint: Any) -> str:
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing"}
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) in (tuple, Sequence):
        return "a list of " + " and ".join(_describe(item) for item in typing.get_args(hint) if item is not Ellipsis)
    if len(_options(hint)) > 1:
        return " or ".join(_describe(option) for option in _options(hint))
    return words.get(hint, "a table")
