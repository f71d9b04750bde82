"""Every change of a posterior: made from samples, updated with labels, or with the label of a referred case.

A change is computed from the newest posterior, under the client's own lock, and written in one transaction with all that it means: the posterior's
bytes, what the old one said of the new samples, the case's label and the idempotency key. The store takes it only if it still holds the version that
the change was made from. So no acknowledged update is lost, and none is applied twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from metabayfl.personal import PersonalModel
from metabayfl.serve import answers, applied, cases, clients, feedback, making, meters, requests
from metabayfl.serve.clients import Client, StaleError
from metabayfl.serve.making import Made
from metabayfl.serve.problems import RequestError
from metabayfl.serve.ready import Held
from metabayfl.serve.requests import Samples
from metabayfl.serve.service import Service, now

_SHARES = ("refer_share", "refer_error", "novelty_rate")

_TRIES = 3
"""Another writer may have changed the store in between, though a server holds it alone."""


class Asked(NamedTuple):
    """One request for a change."""

    client: str
    kind: str  # personalize, update, label
    key: str  # its Idempotency-Key, or nothing
    request: bytes  # its hash


class Change(NamedTuple):
    """A new posterior, ready to answer, and how it was made."""

    model: PersonalModel
    made: Made


Extra = Callable[[sqlite3.Connection, float], None]
"""What else is written with a change, at that time."""


async def personalize(service: Service, client: str, body: bytes, key: str) -> dict[str, Any]:
    """Make a client's posterior from the samples in a body; one that is there is replaced only if the body says so."""
    table = requests.document(body, {"rows", "labels", "replace", *_SHARES})
    given = requests.samples(service.source.schema, table, service.limits.rows)
    shares = {name: requests.share(table, name) for name in _SHARES if name in table}
    replace = requests.flag(table, "replace", default=False)

    async def made(old: Client | None) -> Change:
        if old is not None and not replace:
            raise RequestError(409, f'{client} has a posterior already: post to /update, or send "replace": true to begin anew', "exists")
        return _ready(service, client, await service.maker.make(making.personalized(given, shares)))

    return await _change(service, Asked(client, "personalize", key, applied.request_hash("personalize", body)), made, given, None)


async def update(service: Service, client: str, body: bytes, key: str) -> dict[str, Any]:
    """Update a client's posterior with the labelled samples in a body."""
    given = requests.samples(service.source.schema, requests.document(body, {"rows", "labels"}), service.limits.rows)
    asked = Asked(client, "update", key, applied.request_hash("update", body))
    return await _change(service, asked, _updating(service, client, given, look=False), given, None)


async def label(service: Service, client: str, name: str, body: bytes) -> dict[str, Any]:
    """Update a client's posterior with the label of a referred case; the same label again changes nothing."""
    truth = requests.document(body, {"label"}).get("label")
    y = requests.labels(service.source.schema, [truth])
    lock = service.lock(f"case {name}")
    async with lock:
        case = cases.find(service.reader, client, name)
        if case.labelled is not None:
            return _labelled_before(service, case, truth)
        given = Samples(*requests.inputs(service.source.schema, {"rows": [case.row]}, 1), y)

        def settle(connection: sqlite3.Connection, at: float) -> None:
            cases.settle(connection, name, truth, at, service.limits.records, client)

        asked = Asked(client, "label", "", b"")
        return {**await _change(service, asked, _updating(service, client, given, look=True), given, settle), "case": name}


def _labelled_before(service: Service, case: cases.Case, truth: Any) -> dict[str, Any]:
    if case.label != truth:
        raise RequestError(
            409, f"the case {case.name!r} has the label {case.label!r} already: a label is learned once and cannot be taken back", "labelled"
        )
    found = clients.find(service.reader, case.client)
    if found is None:
        raise clients.missing(case.client)
    return {**state(found), "applied": False, "case": case.name}


def state(client: Client) -> dict[str, Any]:
    """A client's posterior in JSON."""
    times = {"made": answers.when(client.made), "updated": answers.when(client.updated), "drift": client.drift and answers.when(client.drift)}
    return {**client._asdict(), **times}


def _updating(service: Service, client: str, given: Samples, *, look: bool) -> Callable[[Client | None], Any]:
    async def made(old: Client | None) -> Change:
        held = await service.model(client)
        if old is None or held.version != old.version:
            raise StaleError(client)
        have, most = len(held.model.support.mask), service.limits.samples
        if have + len(given.rows) > most:
            raise RequestError(
                409, f"{client} would have {have + len(given.rows)} samples, this server keeps at most {most}: personalize anew", "full"
            )
        version, data = clients.posterior(service.reader, client)
        if version != held.version:
            raise StaleError(client)
        return _ready(service, client, await service.maker.make(making.updated(held.model, data, given, look)))

    return made


def _ready(service: Service, client: str, made: Made) -> Change:
    """Between two requests: a thread would wait for Python's lock at each of a few hundred small steps, ten times as long as they take."""
    return Change(made.model or service.read(client, 0, made.data).model, made)


async def _change(service: Service, asked: Asked, made: Callable[[Client | None], Any], given: Samples, extra: Extra | None) -> dict[str, Any]:
    lock = service.lock(asked.client)
    async with lock:
        for left in reversed(range(_TRIES)):
            done = asked.key and applied.answered(service.reader, asked.client, asked.key, asked.request)
            if done:
                return done
            old = clients.find(service.reader, asked.client)
            try:
                change: Change = await made(old)
                return await _written(service, asked, old, change, given, extra)
            except StaleError:
                service.ready.drop(asked.client)
                if not left:
                    raise RequestError(503, "the posterior changed again and again meanwhile: send it again in a moment") from None
    raise AssertionError("unreachable")


async def _written(service: Service, asked: Asked, old: Client | None, change: Change, given: Samples, extra: Extra | None) -> dict[str, Any]:
    at = now()
    new = Client(
        asked.client, clients.digest(change.made.data), 1 if old is None else old.version + 1, len(change.model.support.mask),
        answers.finite(change.model.threshold), at if old is None else old.made, at, _drift(old, change, at), change.model.novelty_rate,
    )  # fmt: skip
    answer = {**state(new), "applied": True, **_moved(change.made)}
    before = change.made.before
    judged = before and answers.feedback(asked.client, new.version - 1, at, given.y, service.source.schema, before)

    def apply(connection: sqlite3.Connection) -> None:
        clients.put(connection, new, change.made.data)
        if judged:
            feedback.add(connection, judged, service.limits.records)
        if extra:
            extra(connection, at)
        if asked.key:
            applied.add(connection, asked.client, asked.key, asked.request, answer, service.limits.records)

    await service.writer.write(apply)
    service.ready.put(asked.client, Held(new.version, change.model))
    _metered(service, asked.kind, len(given.rows), change.made)
    return answer


def _drift(old: Client | None, change: Change, at: float) -> float | None:
    """Since when the change detector rings."""
    if not change.model.alarm:
        return None
    return at if old is None or old.drift is None else old.drift


def _moved(made: Made) -> dict[str, Any]:
    if made.after is None or made.before is None:
        return {}
    return {"before": answers.items(made.before[0])[0], "after": answers.items(made.after)[0]}


def _metered(service: Service, kind: str, count: int, made: Made) -> None:
    meters.learned(service.meters, kind, count)
    if made.before:
        nominal = None if service.source.schema.kind == "classification" else 0.9
        service.gap = meters.drifted(service.meters, service.gap, made.before[1], nominal)
