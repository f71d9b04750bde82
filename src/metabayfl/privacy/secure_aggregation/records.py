"""States on the disk: a ``NamedTuple`` as JSON text with its type's name and a digest, read back strictly by the types of its fields.

Bytes become base64, tuples lists. Nothing is executed, nothing is guessed: another type, field or digest is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import typing
from typing import Any, TypeVar

from metabayfl.errors import ArtifactError
from metabayfl.storage import parse_json

FORMAT = 1

Record = TypeVar("Record", bound=tuple[Any, ...])


def to_bytes(record: tuple[Any, ...]) -> bytes:
    """A ``NamedTuple`` of str, int, literals, bytes, and tuples, str-keyed dicts and ``NamedTuple`` of these."""
    document = {"format": FORMAT, "kind": type(record).__name__, "value": _plain(record)}
    return _text(document | {"sha256": _digest(document)}).encode()


def from_bytes(kind: type[Record], data: bytes) -> Record:
    """The inverse of :func:`to_bytes`.

    Raises:
        ArtifactError: if the bytes are damaged, altered, of another version or another kind of record.
    """
    try:
        document = parse_json(data)
        digest = document.pop("sha256")
        if (document["format"], document["kind"], digest) != (FORMAT, kind.__name__, _digest(document)):
            raise ValueError(f"it is a {document['kind']!r} of format {document['format']!r}, or it was altered")
        record: Record = _grow(kind, document["value"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"the bytes are no whole {kind.__name__} of format {FORMAT}: {error}; this round is lost, wait for the next") from error
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _grow(kind: Any, value: Any) -> Any:
    """``value`` as the type that a field declares."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return tuple(_grow(arguments[0], item) for item in _typed(value, list))
    if typing.get_origin(kind) is dict:
        return {name: _grow(arguments[1], item) for name, item in _typed(value, dict).items()}
    if typing.get_origin(kind) is typing.Literal:
        return _one_of(value, arguments)
    if kind is bytes:
        return _bytes(value)
    if isinstance(kind, type) and issubclass(kind, tuple):
        fields = typing.get_type_hints(kind)
        return kind(*(_grow(field, item) for field, item in zip(fields.values(), _typed(value, list), strict=True)))
    return _typed(value, kind)


def _one_of(value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} stands where one of {known} should")
    return value


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_typed(value, str), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{value[:20]!r} is no base64") from error


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:  # True is an int to isinstance
        raise ValueError(f"a {type(value).__name__} stands where a {kind.__name__} should")
    return value


def _text(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _digest(document: Any) -> str:
    return hashlib.sha256(_text(document).encode()).hexdigest()
