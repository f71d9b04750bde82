"""Strict tables: every kind of value, and what is said about one that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from metabayfl.errors import ConfigError
from metabayfl.table import convert, parse


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    colour: Literal["red", "blue"] = "red"
    limit: float | None = None
    extra: dict[str, int] = field(default_factory=dict)
    anything: Any = None


def test_every_kind_of_value_is_taken() -> None:
    table = {"name": "n", "inner": {"rate": 2}, "sizes": [1, 2], "pair": [3, "b"], "colour": "blue", "limit": 4, "extra": {"k": 1}, "anything": [1]}
    found = parse(Outer, table, "[outer]")
    assert found == Outer("n", Inner(2.0), (1, 2), (3, "b"), "blue", 4.0, {"k": 1}, [1])
    assert isinstance(found.inner.rate, float)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "lacks the key 'name' \\(a text\\)"),
        ({"name": "n", "nmae": 1}, "did you mean 'name'"),
        ({"name": 3}, "name in \\[outer\\] is 3, expected a text"),
        ({"name": "n", "inner": 3}, "expected a table"),
        ({"name": "n", "inner": {"rat": 3}}, "did you mean 'rate'"),
        ({"name": "n", "sizes": 3}, "expected a list of a whole number"),
        ({"name": "n", "sizes": [1.5]}, "is 1.5, expected a whole number"),
        ({"name": "n", "pair": [1]}, "expected a list of a whole number and a text"),
        ({"name": "n", "colour": "green"}, "expected one of 'red', 'blue'"),
        ({"name": "n", "limit": "x"}, "expected a number or nothing"),
        ({"name": "n", "extra": {"k": "v"}}, "k in extra"),
        ({"name": "n", "extra": 1}, "extra in"),
        ({"name": "n", "inner": {"rate": True}}, "is True, expected a number"),
    ],
)
def test_what_does_not_fit_is_named(table: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Outer, table, "[outer]")


def test_true_is_no_whole_number() -> None:
    with pytest.raises(ConfigError, match="expected a whole number"):
        convert(True, int, "count")
