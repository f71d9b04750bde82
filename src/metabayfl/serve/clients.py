"""The table of posteriors: one row a client, its file's bytes with a version that grows by one with every change."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any, NamedTuple

from metabayfl.serve.problems import RequestError


class Client(NamedTuple):
    """What there is to say of a client's posterior without reading it."""

    client: str
    digest: str  # SHA-256 of the posterior's file
    version: int
    samples: int
    threshold: float | None  # None where nothing is referred
    made: float  # seconds since 1970
    updated: float
    drift: float | None = None  # since when the change detector rings, if it does
    novelty_rate: float = 0.02  # share of ordinary cases that may be called novel


class StaleError(Exception):
    """The posterior that a change was made from is no longer the one in the store."""


_COLUMNS = ", ".join(Client._fields)


def find(connection: sqlite3.Connection, client: str) -> Client | None:
    """The client's row, if it has a posterior."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM clients WHERE client = ?", (client,)).fetchone()
    return Client(*row) if row else None


def every(connection: sqlite3.Connection) -> list[Client]:
    """All rows, by name."""
    return [Client(*row) for row in connection.execute(f"SELECT {_COLUMNS} FROM clients ORDER BY client")]


def posterior(connection: sqlite3.Connection, client: str) -> tuple[int, bytes]:
    """Version and bytes.

    Raises:
        RequestError: 404 if there is none.
    """
    row = connection.execute("SELECT version, posterior FROM clients WHERE client = ?", (client,)).fetchone()
    if row is None:
        raise missing(client)
    return row[0], row[1]


def missing(client: str) -> RequestError:
    """What a client without a posterior is told."""
    return RequestError(404, f"{client} has no posterior yet: post labelled samples to /v1/clients/{client}/personalize", "no_posterior")


def put(connection: sqlite3.Connection, new: Client, data: bytes) -> None:
    """Write a posterior of version ``new.version`` in place of the one before it.

    Raises:
        StaleError: if the store holds another version than the one before; nothing is written.
    """
    if new.version == 1:
        done = connection.execute(f"INSERT OR IGNORE INTO clients ({_COLUMNS}, posterior) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*new, data))
    else:
        done = connection.execute(
            "UPDATE clients SET posterior = ?, digest = ?, version = ?, samples = ?, threshold = ?, updated = ?, drift = ?, novelty_rate = ? "
            "WHERE client = ? AND version = ?",
            (data, new.digest, new.version, new.samples, new.threshold, new.updated, new.drift, new.novelty_rate, new.client, new.version - 1),
        )
    if done.rowcount != 1:
        raise StaleError(new.client)


def digest(data: bytes) -> str:
    """The name of a posterior's bytes."""
    return hashlib.sha256(data).hexdigest()


def keep_newest(connection: sqlite3.Connection, table: str, client: str, most: int, condition: str = "") -> None:
    """Drop a client's oldest rows of a table beyond ``most``."""
    which: tuple[Any, ...] = (client, client, most)
    connection.execute(
        f"DELETE FROM {table} WHERE client = ?{condition} AND number <= "
        f"(SELECT number FROM {table} WHERE client = ?{condition} ORDER BY number DESC LIMIT 1 OFFSET ?)",
        which,
    )
