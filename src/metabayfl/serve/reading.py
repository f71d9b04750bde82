"""Query parameters: what an endpoint takes after the question mark."""

from __future__ import annotations

from typing import Any, NamedTuple

from starlette.requests import Request

from metabayfl.serve.problems import RequestError


class Number(NamedTuple):
    """A whole number between two bounds."""

    name: str
    default: int
    least: int
    most: int


class Flag(NamedTuple):
    """true or false."""

    name: str
    default: bool


Parameter = Number | Flag


def read(request: Request, parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    """The parameters of a request, with defaults for those that it leaves out.

    Raises:
        RequestError: 422 for one that is unknown or out of range.
    """
    given = request.query_params
    known = {item.name for item in parameters}
    for name in given:
        if name not in known:
            raise RequestError(422, f"the parameter {name[:60]!r} is not known here: expected {', '.join(sorted(known)) or 'none'}")
    return {item.name: _value(item, given[item.name]) if item.name in given else item.default for item in parameters}


def documented(parameters: tuple[Parameter, ...]) -> list[dict[str, Any]]:
    """For OpenAPI."""
    return [{"name": item.name, "in": "query", "required": False, "schema": _schema(item)} for item in parameters]


def _value(item: Parameter, text: str) -> int | bool:
    if isinstance(item, Flag):
        if text not in ("true", "false"):
            raise RequestError(422, f"the parameter {item.name} is {text[:60]!r}, expected true or false")
        return text == "true"
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and item.least <= int(text) <= item.most):
        raise RequestError(422, f"the parameter {item.name} is {text[:60]!r}, expected a whole number from {item.least} to {item.most}")
    return int(text)


def _schema(item: Parameter) -> dict[str, Any]:
    if isinstance(item, Flag):
        return {"type": "boolean", "default": item.default}
    return {"type": "integer", "minimum": item.least, "maximum": item.most, "default": item.default}
