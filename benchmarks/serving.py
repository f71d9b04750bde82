"""A prediction server under load: run by hand, ``python benchmarks/serving.py speed STRATEGY`` and ``python benchmarks/serving.py kills STRATEGY``.

``speed``: a real server and, in another process on the same machine, clients with one connection and one token each, that send the next
request when the last is answered. Of a hundred requests 98 are predictions of one row, one is an update with one sample, and one makes the posterior
anew from 20 samples. The load runs on uvloop, to leave more of the machine to the server. Printed are answers a second and the times that
clients saw.

``kills``: two connections a client update its posterior while the server is killed with SIGKILL again and again, and every request that got no
answer is repeated under its idempotency key. At the end every acknowledged sample must stand once in its client's posterior, no other may, and
the posterior must be, to the bit, the one that is made from those samples anew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop

from metabayfl import personal, tree
from metabayfl.personal import PersonalModel, PersonalStrategy
from metabayfl.serve import clients, database, requests
from metabayfl.serve.options import Limits
from serving_load import Connection, Server, new_tokens, samples, served

FIRST = 20
"""Samples that a posterior is made from."""

Times = dict[str, list[float]]


def speed(strategy: Path, connections: int, seconds: float) -> Times:
    """Seconds that every request took, by kind."""
    source = personal.load(strategy)
    names = [f"client-{at}" for at in range(connections)]
    with tempfile.TemporaryDirectory() as folder:
        held = new_tokens(Path(folder), names)
        with served(strategy, Path(folder)) as server:
            return uvloop.run(_all(source, server, held, seconds))


async def _all(source: PersonalStrategy, server: Server, held: dict[str, str], seconds: float) -> Times:
    times: Times = defaultdict(list)
    users = [_User(source, Connection(server, token), name, at, times) for at, (name, token) in enumerate(held.items())]
    for user in users:
        await user.ask("personalize")
    times.clear()
    until = time.perf_counter() + seconds
    await asyncio.gather(*(user.go_on(until) for user in users))
    return times


class _User:
    """One client that asks without a pause."""

    def __init__(self, source: PersonalStrategy, connection: Connection, name: str, seed: int, times: Times) -> None:
        self._connection, self._address, self._times = connection, f"/v1/clients/{name}", times
        self._rng = np.random.default_rng(seed)
        self._first = {**samples(source.schema, FIRST, self._rng), "replace": True}
        self._pool = [samples(source.schema, 1, self._rng) for _ in range(200)]

    async def go_on(self, until: float) -> None:
        while time.perf_counter() < until:
            await self.ask(str(self._rng.choice(["predict", "update", "personalize"], p=[0.98, 0.01, 0.01])))

    async def ask(self, kind: str) -> None:
        one = self._pool[self._rng.integers(len(self._pool))]
        body = {"predict": {"rows": one["rows"]}, "update": one, "personalize": self._first}[kind]
        start = time.perf_counter()
        status, answer = await self._connection.post(f"{self._address}/{kind}", body)
        self._times[kind].append(time.perf_counter() - start)
        assert status == 200, answer


def show_speed(times: Times, seconds: float) -> None:
    print(f"{'':12} {'requests':>9} {'a second':>9} {'p50 ms':>8} {'p99 ms':>8} {'worst ms':>9}")
    for kind in ("predict", "personalize", "update"):
        took = 1000 * np.array(times[kind])
        half, most = np.percentile(took, [50, 99])
        print(f"{kind:12} {len(took):9,} {len(took) / seconds:9.1f} {half:8.2f} {most:8.2f} {took.max():9.2f}")


def kills(strategy: Path, count: int, count_of_clients: int, pause: float) -> tuple[int, int]:
    """Acknowledged updates, and requests that had to be repeated; whatever is wrong raises."""
    source = personal.load(strategy)
    names = [f"client-{at}" for at in range(count_of_clients)]
    with tempfile.TemporaryDirectory() as folder:
        held = new_tokens(Path(folder), names)
        with served(strategy, Path(folder)) as server:
            sent = asyncio.run(_shaken(source, server, held, count, pause))
            assert server.stop() == 0, "the server did not end well"
        with closing(database.connect(Path(folder))) as store:
            for name in names:
                check(source, personal.personal_from_bytes(clients.posterior(store, name)[1], source), sent.first[name], sent.acknowledged[name])
    return sum(map(len, sent.acknowledged.values())), sent.repeated


class _Sent:
    """What clients know: their first samples, those that the server acknowledged since, and how many requests they had to repeat."""

    def __init__(self) -> None:
        self.first: dict[str, dict[str, Any]] = {}
        self.acknowledged: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.repeated = 0
        self.over = False


async def _shaken(source: PersonalStrategy, server: Server, held: dict[str, str], count: int, pause: float) -> _Sent:
    sent, rng = _Sent(), np.random.default_rng(0)
    for name, token in held.items():
        sent.first[name] = samples(source.schema, FIRST, rng)
        status, answer = await Connection(server, token).post(f"/v1/clients/{name}/personalize", sent.first[name])
        assert status == 200, answer
    async with asyncio.TaskGroup() as group:
        for at, (name, token) in enumerate([*held.items()] * 2):
            group.create_task(_keep_updating(source, Connection(server, token), name, np.random.default_rng(1 + at), sent))
        for _ in range(count):
            await asyncio.sleep(pause * rng.uniform(0.5, 1.5))
            server.kill()
            await asyncio.to_thread(server.start)
        await asyncio.sleep(pause)
        sent.over = True
    return sent


async def _keep_updating(source: PersonalStrategy, connection: Connection, name: str, rng: np.random.Generator, sent: _Sent) -> None:
    while not sent.over:
        one, key, tries = samples(source.schema, 1, rng), str(uuid.uuid4()), 1
        while (answered := await _post(connection, f"/v1/clients/{name}/update", one, key)) is None:
            tries += 1
            await asyncio.sleep(0.05)
        assert answered[0] == 200, answered
        sent.repeated += tries > 1
        sent.acknowledged[name].append(one)


async def _post(connection: Connection, path: str, value: Any, key: str) -> tuple[int, Any] | None:
    """The answer; None where the server went away."""
    try:
        return await connection.post(path, value, key)
    except (OSError, asyncio.IncompleteReadError):
        return None


def check(source: PersonalStrategy, model: PersonalModel, first: dict[str, Any], more: list[dict[str, Any]]) -> None:
    """Every sample once and no other; the posterior is the one made from the first samples and updated with the others in the stored order."""
    given = [_encoded(source, first)] + [_encoded(source, one) for one in more]
    expected = Counter(row for part in given for row in _rows(part.x))
    stored = _rows(model.support.x)
    lost, twice = expected - Counter(stored), Counter(stored) - expected
    assert not lost, f"{lost.total()} acknowledged samples are lost"
    assert not twice, f"{twice.total()} samples were applied twice, or were never sent"
    by_row = {_rows(part.x)[0]: one for part, one in zip(given[1:], more, strict=True)}
    assert stored[:FIRST] == _rows(given[0].x), "the first samples do not stand first"
    again = source.personalize(*_raw(source, first))
    for row in stored[FIRST:]:
        again = again.update(*_raw(source, by_row[row]))
    same = [torch.equal(a, b) for a, b in zip(tree.leaves(again.posterior), tree.leaves(model.posterior), strict=True)]
    assert all(same), "the posterior is not the one of its samples"
    assert again.to_bytes() == model.to_bytes(), "threshold or support are not those of its samples"


def _raw(source: PersonalStrategy, given: dict[str, Any]) -> tuple[Any, Any]:
    found = requests.samples(source.schema, given, Limits().rows)
    return found.x, found.y


def _encoded(source: PersonalStrategy, given: dict[str, Any]) -> Any:
    return personal.encode(source.schema, *_raw(source, given))


def _rows(x: torch.Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in x]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    fast, shaken = ways.add_parser("speed"), ways.add_parser("kills")
    for way in (fast, shaken):
        way.add_argument("strategy", type=Path)
    fast.add_argument("--connections", type=int, default=16)
    fast.add_argument("--seconds", type=float, default=60.0)
    shaken.add_argument("--kills", type=int, default=20)
    shaken.add_argument("--clients", type=int, default=8)
    shaken.add_argument("--pause", type=float, default=2.0, help="seconds between a start and the next kill, on average")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.way == "speed":
        print(f"{given.connections} connections for {given.seconds:g} s, load included, on {len(os.sched_getaffinity(0))} cores")
        show_speed(speed(given.strategy, given.connections, given.seconds), given.seconds)
    else:
        count, repeated = kills(given.strategy, given.kills, given.clients, given.pause)
        print(f"{given.kills} kills: {count:,} updates were acknowledged, {repeated:,} requests repeated; none is lost, none applied twice,")
        print(f"and each of {given.clients} posteriors is the one of its samples to the bit")


if __name__ == "__main__":
    main()
