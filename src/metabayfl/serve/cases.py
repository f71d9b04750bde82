"""The table of referred cases: what a person should look at, and the labels that came back."""

from __future__ import annotations

import json
import secrets
import sqlite3
from typing import Any, NamedTuple

from metabayfl.serve.clients import keep_newest
from metabayfl.serve.problems import RequestError


class Case(NamedTuple):
    """One referred input with the answer that was given."""

    name: str
    client: str
    row: Any  # as it was posted
    answer: dict[str, Any]  # the prediction
    version: int  # of the posterior that gave it
    made: float
    label: Any | None  # a class name, or numbers
    labelled: float | None


_COLUMNS = ", ".join(Case._fields)


def new_names(count: int) -> list[str]:
    """Names that tell nothing of how many cases there are."""
    return [secrets.token_hex(8) for _ in range(count)]


def add(connection: sqlite3.Connection, new: list[Case], most: int) -> None:
    """Put cases of one client into the list; beyond ``most`` that wait, its oldest are dropped."""
    rows = [(case.name, case.client, json.dumps(case.row), json.dumps(case.answer), case.version, case.made) for case in new]
    connection.executemany("INSERT INTO cases (name, client, row, answer, version, made) VALUES (?, ?, ?, ?, ?, ?)", rows)
    keep_newest(connection, "cases", new[0].client, most, " AND labelled IS NULL")


def listed(connection: sqlite3.Connection, client: str, *, waiting: bool, most: int) -> list[Case]:
    """The newest cases of a client: those that wait, or those that have a label."""
    condition = "labelled IS NULL" if waiting else "labelled IS NOT NULL"
    text = f"SELECT {_COLUMNS} FROM cases WHERE client = ? AND {condition} ORDER BY number DESC LIMIT ?"
    return [_case(row) for row in connection.execute(text, (client, most))]


def find(connection: sqlite3.Connection, client: str, name: str) -> Case:
    """One case.

    Raises:
        RequestError: 404 if the client has none of that name.
    """
    row = connection.execute(f"SELECT {_COLUMNS} FROM cases WHERE client = ? AND name = ?", (client, name)).fetchone()
    if row is None:
        raise RequestError(404, f"{client} has no case {name!r}: GET /v1/clients/{client}/cases lists those that wait")
    return _case(row)


def settle(connection: sqlite3.Connection, name: str, label: Any, now: float, most: int, client: str) -> None:
    """Write down a case's label; labelled cases beyond ``most`` are forgotten, the oldest first."""
    connection.execute("UPDATE cases SET label = ?, labelled = ? WHERE name = ?", (json.dumps(label), now, name))
    keep_newest(connection, "cases", client, most, " AND labelled IS NOT NULL")


def waiting(connection: sqlite3.Connection) -> dict[str, int]:
    """How many cases wait, by client."""
    return dict(connection.execute("SELECT client, count(*) FROM cases WHERE labelled IS NULL GROUP BY client").fetchall())


def _case(row: tuple[Any, ...]) -> Case:
    name, client, posted, answer, version, made, label, labelled = row
    return Case(name, client, json.loads(posted), json.loads(answer), version, made, None if label is None else json.loads(label), labelled)
