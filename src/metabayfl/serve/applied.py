"""The table of idempotency keys: a change that was made is not made again, and who repeats it gets the answer that was lost."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any

from metabayfl.serve.clients import keep_newest
from metabayfl.serve.problems import RequestError


def request_hash(kind: str, body: bytes) -> bytes:
    """What tells one request from another."""
    return hashlib.sha256(kind.encode() + b"\n" + body).digest()


def answered(connection: sqlite3.Connection, client: str, key: str, request: bytes) -> dict[str, Any] | None:
    """The answer that was given under this key, with ``applied`` false; None where there was none.

    Raises:
        RequestError: 409 if the key was given to another request.
    """
    row = connection.execute("SELECT request, answer FROM applied WHERE client = ? AND key = ?", (client, key)).fetchone()
    if row is None:
        return None
    if row[0] != request:
        raise RequestError(409, f"the Idempotency-Key {key!r} was used for another request: give every new request a new key", "key_reused")
    answer: dict[str, Any] = json.loads(row[1])
    return {**answer, "applied": False}


def add(connection: sqlite3.Connection, client: str, key: str, request: bytes, answer: dict[str, Any], most: int) -> None:
    """Write down an answer in the transaction of the change that it tells of; the client's oldest beyond ``most`` are forgotten."""
    connection.execute("INSERT INTO applied (client, key, request, answer) VALUES (?, ?, ?, ?)", (client, key, request, json.dumps(answer)))
    keep_newest(connection, "applied", client, most)
