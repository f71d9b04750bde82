"""Who may ask: tokens of 256 random bits, of which the store keeps the hash alone.

A token reads ``ID.SECRET``. The ID finds the row and is no secret; the secret's SHA-256 is compared in constant time. A random secret needs no slow
hash: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import time
from typing import NamedTuple

from metabayfl.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a client may be called: it stands in addresses."""

_TOKEN = re.compile(r"([0-9a-f]{12})\.([A-Za-z0-9_-]{43})")
_NOBODY = bytes(32)


class Bearer(NamedTuple):
    """Whom a valid token belongs to."""

    id: str
    client: str | None  # None for the operator


class Listed(NamedTuple):
    """A token as the operator sees it in a list."""

    id: str
    client: str | None
    made: float
    revoked: float | None


def make(connection: sqlite3.Connection, client: str | None) -> str:
    """A new token for a client, or for the operator; it is in the answer and nowhere else.

    Raises:
        ConfigError: for a name that cannot stand in an address.
    """
    if client is not None and not NAME.fullmatch(client):
        raise ConfigError(f"the client's name {client!r}: expected at most 64 letters, digits, dots, dashes and underscores, a letter or digit first")
    name, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, NULL)", (name, _hash(secret), client, time.time()))
    return f"{name}.{secret}"


def bearer(connection: sqlite3.Connection, token: str) -> Bearer | None:
    """Whose token it is; None for a wrong or revoked one, whatever is wrong with it."""
    found = _TOKEN.fullmatch(token)
    row = found and connection.execute("SELECT hash, client FROM tokens WHERE id = ? AND revoked IS NULL", (found[1],)).fetchone()
    expected, client = row or (_NOBODY, None)
    right = hmac.compare_digest(_hash(found[2] if found else ""), expected)
    return Bearer(found[1], client) if found and row and right else None


def revoke(connection: sqlite3.Connection, name: str) -> None:
    """End a token, from the next request on.

    Raises:
        ConfigError: if no valid token has that ID.
    """
    done = connection.execute("UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL", (time.time(), name))
    if done.rowcount != 1:
        raise ConfigError(f"there is no valid token with the ID {name!r}: metabayfl token list shows them")


def every(connection: sqlite3.Connection) -> list[Listed]:
    """All tokens, the oldest first."""
    return [Listed(*row) for row in connection.execute("SELECT id, client, made, revoked FROM tokens ORDER BY made")]


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
