"""The table of labels that came after a prediction was possible: what the model said of each sample before it learned from it.

Predicting first and learning then judges a model on samples that it has not seen, with none set aside (Dawid 1984, "The prequential approach").
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from metabayfl.serve.clients import keep_newest


class Feedback(NamedTuple):
    """One labelled sample against the answer of the posterior that had not seen it."""

    client: str
    made: float
    version: int  # of that posterior
    truth: Any
    answer: Any
    confidence: float  # probability of the answer; in regression the level of the smallest central interval that holds the truth
    correct: float  # 1 or 0; in regression whether the 90 % interval holds the truth, as a share of the targets
    log_probability: float  # of the truth, in nats; in regression of its density in training standard deviations
    total: float
    aleatoric: float
    epistemic: float
    referred: int


class Judged(NamedTuple):
    """Sums over one client's feedback."""

    labels: int
    accuracy: float | None
    confidence: float | None


_COLUMNS = ", ".join(Feedback._fields)


def add(connection: sqlite3.Connection, new: Sequence[Feedback], most: int) -> None:
    """Append feedback of one client; beyond ``most``, its oldest is forgotten."""
    rows = [item._replace(truth=json.dumps(item.truth), answer=json.dumps(item.answer)) for item in new]
    connection.executemany(f"INSERT INTO feedback ({_COLUMNS}) VALUES ({', '.join('?' * len(Feedback._fields))})", rows)
    keep_newest(connection, "feedback", new[0].client, most)


def newest(connection: sqlite3.Connection, client: str, most: int) -> list[Feedback]:
    """A client's newest feedback, the oldest of it first."""
    text = f"SELECT {_COLUMNS} FROM feedback WHERE client = ? ORDER BY number DESC LIMIT ?"
    return [_feedback(row) for row in reversed(connection.execute(text, (client, most)).fetchall())]


def judged(connection: sqlite3.Connection) -> dict[str, Judged]:
    """Count, accuracy and mean confidence by client."""
    text = "SELECT client, count(*), avg(correct), avg(confidence) FROM feedback GROUP BY client"
    return {client: Judged(*rest) for client, *rest in connection.execute(text)}


def _feedback(row: tuple[Any, ...]) -> Feedback:
    item = Feedback(*row)
    return item._replace(truth=json.loads(item.truth), answer=json.loads(item.answer))
