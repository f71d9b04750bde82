"""Records as Flower carries them: one ``ArrayRecord``, one ``MetricRecord`` and one ``ConfigRecord``, and back to the same bits.

Arrays from the network are NumPy's own format without pickle, of a few plain types; everything else in them is refused.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from metabayfl import storage
from metabayfl.errors import FederationError
from metabayfl.flower.records import Header, Record

PREFIX = "metabayfl/"
"""Before every array's name, so that they are told from those of another app."""

_KEYS = ("arrays", "counts", "words")
_TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_BRAIN = "bfloat16"
"""NumPy has no such type: its bits travel as int16."""


def to_content(message: Record) -> RecordDict:
    """The content of a Flower message."""
    arrays = array_record(message.arrays)
    words = ConfigRecord({**message.header._asdict(), "body": json.dumps(message.body, sort_keys=True, allow_nan=False)})
    return RecordDict(dict(zip(_KEYS, (arrays, MetricRecord(dict(message.counts)), words), strict=True)))


def array_record(arrays: dict[str, Tensor]) -> ArrayRecord:
    """Arrays by their prefixed names."""
    return ArrayRecord({PREFIX + name: _array(value) for name, value in arrays.items()})


def from_content(content: RecordDict) -> Record:
    """The record in a Flower message.

    Raises:
        FederationError: if it is anything but what :func:`to_content` makes.
    """
    if set(content) != set(_KEYS) or [type(content[key]) for key in _KEYS] != [ArrayRecord, MetricRecord, ConfigRecord]:
        raise FederationError(f"a message holds {sorted(content)}, expected {', '.join(_KEYS)}: it is not of metabayfl")
    arrays, counts, words = (content[key] for key in _KEYS)
    header, body = _words(words)
    if not all(type(value) is int for value in counts.values()):
        raise FederationError(f"the counts {dict(counts)} of a message are no whole numbers")
    return Record(header, body, {_name(name): _tensor(name, value) for name, value in arrays.items()}, dict(counts))


def _words(words: ConfigRecord) -> tuple[Header, dict[str, Any]]:
    try:
        text = {name: words[name] for name in (*Header._fields, "body")}
        header, body = Header(*(text[name] for name in Header._fields)), storage.parse_json(text["body"])
    except (KeyError, TypeError, ValueError) as error:
        raise FederationError(f"a message has no words that can be read ({error}): it is not of metabayfl") from error
    if [type(value) for value in header] != [str, str, int, int, str] or not isinstance(body, dict):
        raise FederationError(f"a message is headed {tuple(header)} with a body of type {type(body).__name__}: it is not of metabayfl")
    return header, body


def _name(name: str) -> str:
    plain = name.removeprefix(PREFIX)
    if plain == name or not plain or any(part in ("", "__metadata__") for part in plain.split("/")):
        raise FederationError(f"a message holds an array {name!r}, expected names that begin with {PREFIX!r}: it is not of metabayfl")
    return plain


def _array(value: Tensor) -> Array:
    plain = value.detach().cpu().contiguous()
    if plain.dtype != torch.bfloat16:
        return Array(plain.numpy())
    bits = Array(plain.view(torch.int16).numpy())
    return Array(dtype=_BRAIN, shape=bits.shape, stype=bits.stype, data=bits.data)


def _tensor(name: str, value: Array) -> Tensor:
    try:
        numbers = value.numpy()
    except (TypeError, ValueError, EOFError, OSError) as error:
        raise FederationError(f"the array {name!r} of a message cannot be read: {error}") from error
    if not isinstance(numbers, np.ndarray) or numbers.dtype.name not in _TYPES or not numbers.dtype.isnative:
        raise FederationError(f"the array {name!r} of a message is of type {getattr(numbers, 'dtype', '?')}, expected one of {', '.join(_TYPES)}")
    stands_for = str(numbers.dtype) if value.dtype != _BRAIN else "int16"
    if tuple(value.shape) != numbers.shape or str(numbers.dtype) != stands_for:
        raise FederationError(f"the array {name!r} of a message is {numbers.dtype} {numbers.shape}, but says {value.dtype} {tuple(value.shape)}")
    tensor = torch.from_numpy(np.ascontiguousarray(numbers).reshape(numbers.shape))
    return tensor.view(torch.bfloat16) if value.dtype == _BRAIN else tensor
