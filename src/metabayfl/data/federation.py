"""Clients and federations: who they are, how many rows they have, and how to read one of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from metabayfl.data.raw import Array, Raw, RawTable, take
from metabayfl.data.schema import Schema


class Member(NamedTuple):
    """One client before encoding."""

    id: str
    rows: Array  # (n,) int64 rows of the pool, support first
    support: int


class Clients(NamedTuple):
    """One group of clients. Nothing bigger than one client is held in memory by a read."""

    ids: tuple[str, ...]
    sizes: Array  # (n,) int64 rows per client
    support: Array  # (n,) int64 how many rows are support; they come first, the rest are test rows. All of them for training clients
    read: Callable[[int], tuple[Array, Array]]  # position -> float32 x (rows, ...), and y int64 (rows,) or float32 (rows, R)


class Federation(NamedTuple):
    """Three disjoint groups of clients, and how their rows were encoded."""

    name: str
    train: Clients
    validation: Clients
    heldout: Clients
    schema: Schema
    fingerprint: str  # sha256 over ids, sizes and raw values
    notes: tuple[str, ...] = ()  # what was left out on the way, for the report


def clients(raw: Raw, schema: Schema, members: Sequence[Member]) -> Clients:
    """Clients that encode their rows when they are read."""
    targets = _targets(raw, schema)

    def read(position: int) -> tuple[Array, Array]:
        rows = members[position].rows
        return schema.encode(take(raw, rows), scale_limit=math.inf), targets[rows]

    sizes = np.array([len(member.rows) for member in members], dtype=np.int64)
    support = np.array([member.support for member in members], dtype=np.int64)
    return Clients(tuple(member.id for member in members), sizes, support, read)


def _targets(raw: Raw, schema: Schema) -> Array:
    if schema.kind == "regression":
        return schema.encode_targets(raw.y.values)
    # Classes that no training client has keep -1; a member with one was refused before.
    position = {name: i for i, name in enumerate(schema.classes)}
    return np.array([position.get(name, -1) for name in raw.y.labels], dtype=np.int64)[raw.y.values]


def in_memory(ids: Sequence[str], data: Sequence[tuple[Array, Array]], support: Sequence[int]) -> Clients:
    """Clients from encoded arrays, one ``(x, y)`` each.

    Example:
        >>> group = in_memory(["a"], [(np.zeros((3, 2), np.float32), np.array([0, 1, 1]))], [2])
        >>> group.ids, group.sizes.tolist(), group.support.tolist()
        (('a',), [3], [2])
    """
    sizes = np.array([len(y) for _, y in data], dtype=np.int64)
    return Clients(tuple(ids), sizes, np.array(support, dtype=np.int64), lambda position: data[position])


def fingerprint(raw: Raw, groups: Sequence[Sequence[Member]]) -> str:
    """sha256 over every group's ids, sizes, support sizes and raw values, in order."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(f"group {len(group)}".encode())
        for member in group:
            digest.update(f"\0{member.id}\0{len(member.rows)}\0{member.support}\0".encode())
            for part in _bytes(raw, member.rows):
                digest.update(part)
    return digest.hexdigest()


def _bytes(raw: Raw, rows: Array) -> list[bytes]:
    values = raw.y.values[rows]
    y = values.tobytes() if raw.y.kind == "regression" else "\0".join(raw.y.labels[code] for code in values).encode()
    if isinstance(raw, RawTable):
        return [part for info in raw.features for part in (info.name.encode(), _column_bytes(raw.columns[info.name][rows]))] + [y]
    x = np.ascontiguousarray(raw.x[rows])
    return [x.dtype.newbyteorder("<").str.encode(), x.astype(x.dtype.newbyteorder("<"), copy=False).tobytes(), y]


def _column_bytes(column: Array) -> bytes:
    if column.dtype == object:
        return "\0".join("\1" if value is None else value for value in column).encode()
    return column.astype("<f8").tobytes()
