"""The table of predictions over time: sums by client and minute, which are kept a month."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

KEPT_MINUTES = 30 * 24 * 60


class Sums(NamedTuple):
    """What the predictions of some time add up to; the last three are sums of uncertainties."""

    predictions: int
    referred: int
    novel: int
    total: float
    aleatoric: float
    epistemic: float


Tally = dict[tuple[str, int], Sums]
"""By client and minute since 1970."""

_NAMES = Sums._fields


def tally(sums: Tally, client: str, minute: int, new: Sums) -> None:
    """Add to a tally in place."""
    old = sums.get((client, minute))
    sums[client, minute] = new if old is None else Sums._make(a + b for a, b in zip(old, new, strict=True))


def add(connection: sqlite3.Connection, sums: Tally) -> None:
    """Add a tally to the table and forget what is older than a month."""
    rows = [(client, minute, *part) for (client, minute), part in sums.items()]
    text = ", ".join(f"{name} = {name} + excluded.{name}" for name in _NAMES)
    connection.executemany(
        f"INSERT INTO history (client, minute, {', '.join(_NAMES)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET {text}", rows
    )
    for client, minute in sums:
        connection.execute("DELETE FROM history WHERE client = ? AND minute < ?", (client, minute - KEPT_MINUTES))


def points(connection: sqlite3.Connection, client: str, since: int, step: int) -> list[tuple[int, Sums]]:
    """Sums over spans of ``step`` minutes from the minute ``since`` on, by the spans' first minutes."""
    parts = ", ".join(f"sum({name})" for name in _NAMES)
    text = f"SELECT minute / ? * ? AS span, {parts} FROM history WHERE client = ? AND minute >= ? GROUP BY span ORDER BY span"
    return [(row[0], Sums(*row[1:])) for row in connection.execute(text, (step, step, client, since))]


def totals(connection: sqlite3.Connection, since: int) -> dict[str, Sums]:
    """Sums by client from the minute ``since`` on."""
    parts = ", ".join(f"sum({name})" for name in _NAMES)
    rows = connection.execute(f"SELECT client, {parts} FROM history WHERE minute >= ? GROUP BY client", (since,))
    return {row[0]: Sums(*row[1:]) for row in rows}
