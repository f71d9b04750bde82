"""What the server and the sites say to each other, whatever carries it."""

from __future__ import annotations

from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabayfl import tree, tree_file
from metabayfl.errors import FederationError

PROTOCOL = 1
"""Version of what records say; both ends refuse any other."""

SECURE = ("advertise", "share", "mask", "unmask")
"""Phases of a round under secure aggregation, in the place of ``train``; what they carry is sealed by the protocol itself."""

PHASES = ("survey", "deviate", "enrol", "train", *SECURE, "evaluate", "personalize")


class Header(NamedTuple):
    """What a record is about. A reply carries its request's, so that one from another run or round is known."""

    experiment: str  # digest of the plan
    phase: str  # one of PHASES
    round: int  # absolute, from 0; 0 outside training
    protocol: int = PROTOCOL
    version: str = metadata.version("metabayfl")


class Record(NamedTuple):
    """One message: words that have JSON, and numbers."""

    header: Header
    body: dict[str, Any]
    arrays: dict[str, Tensor]
    counts: dict[str, int]  # what may be shown of it: how many clients, how many samples


def record(header: Header, body: dict[str, Any], arrays: dict[str, Tensor] | None = None, counts: dict[str, int] | None = None) -> Record:
    """A record; arrays are named by plain words with slashes between."""
    return Record(header, body, arrays or {}, counts or {})


REFUSED, REASON = "refused", "reason"


def refusal(header: Header, code: str, reason: str) -> Record:
    """The reply of a site that cannot do what it was asked; ``reason`` may hold nothing of the site's data."""
    return record(header, {REFUSED: code, REASON: reason})


def digest(message: Record) -> str:
    """SHA-256 of everything in a record, in hexadecimal: two requests with one digest have one reply."""
    return tree_file.digest(tree.unflatten(message.arrays), _about(message))


def to_bytes(message: Record, about: dict[str, Any]) -> bytes:
    """The content of a file that keeps a record, with what else there is to say ``about`` it."""
    return tree_file.to_bytes(tree.unflatten(message.arrays), {**_about(message), "about": about}, kind="message")


def from_bytes(data: bytes, where: str) -> tuple[Record, dict[str, Any]]:
    """The inverse of :func:`to_bytes`; ``where`` names the file in messages."""
    numbers, about = tree_file.from_bytes(data, kind="message", where=where)
    return Record(Header(**about["header"]), about["body"], tree.flatten(numbers), about["counts"]), about["about"]


def _about(message: Record) -> dict[str, Any]:
    return {"header": message.header._asdict(), "body": message.body, "counts": message.counts}


def as_array(data: bytes) -> Tensor:
    """Bytes as an array of a record."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def check_header(header: Header, expected: Header) -> None:
    """Refuse a reply to another request.

    Raises:
        FederationError: names what differs.
    """
    for name in ("protocol", "version", "experiment", "phase", "round"):
        given, wanted = getattr(header, name), getattr(expected, name)
        if given != wanted:
            raise FederationError(f"a reply of {name} {given!r} where {wanted!r} was asked for: {_REMEDY[name]}")


_REMEDY = {
    "protocol": "install the same metabayfl at every site",
    "version": "install the same metabayfl at every site",
    "experiment": "it belongs to another run and is left out",
    "phase": "it answers another request and is left out",
    "round": "it answers another round and is left out",
}
