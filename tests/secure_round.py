"""Rounds of secure aggregation as a network would carry them: bytes between processes that keep their states on a disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metabayfl.privacy.secure_aggregation import client, server
from metabayfl.privacy.secure_aggregation.client import ClientState, Terms
from metabayfl.privacy.secure_aggregation.messages import Setup
from metabayfl.privacy.secure_aggregation.server import ServerState

SESSION = bytes(range(16))

Change = Callable[[str, str, bytes], bytes]
"""Phase, client, reply -> what arrives in its place."""


class Record(NamedTuple):
    """A round that is over."""

    state: ServerState
    clients: dict[str, ClientState]  # the last ones
    before: dict[tuple[str, str], ClientState | None]  # by phase and client, the state in which the request arrived
    requests: dict[tuple[str, str], bytes]
    replies: dict[tuple[str, str], bytes]
    refused: dict[str, str]

    @property
    def total(self) -> list[int]:
        return server.result(self.state).total.tolist()

    @property
    def transcript(self) -> bytes:
        return b"".join([*self.requests.values(), *self.replies.values()])


def setup(threshold: int, degree: int, *, bits: int = 20, length: int = 5, number: int = 3) -> Setup:
    return Setup(SESSION, number, threshold, degree, bits, length)


def terms(of: Setup) -> Terms:
    return Terms(of.length, of.bits, of.about)


def vectors(count: int, *, bits: int = 20, length: int = 5, seed: int = 0) -> dict[str, NDArray[np.uint64]]:
    generator = np.random.default_rng(seed)
    return {f"site-{i}": generator.integers(0, 2**bits, length, dtype=np.uint64) for i in range(count)}


def summed(inputs: Mapping[str, NDArray[np.uint64]], names: Set[str], bits: int = 20) -> list[int]:
    """The sum in Python's integers."""
    return [sum(int(inputs[name][i]) for name in names) % 2**bits for i in range(len(next(iter(inputs.values()))))]


def play(
    of: Setup,
    inputs: Mapping[str, NDArray[np.uint64]],
    drop: Mapping[str, Set[str]] | None = None,
    change: Change = lambda phase, name, reply: reply,
    *,
    until: str = "done",
) -> Record:
    """A whole round, or up to the phase ``until``; every state goes through bytes between any two messages."""
    record = Record(server.begin(of, inputs), {}, {}, {}, {}, {})
    silent: set[str] = set()
    while record.state.phase not in ("done", until):
        phase = record.state.phase
        silent |= (drop or {}).get(phase, set())
        arrived = []
        for name, request in record.state.requests.items():
            if name in silent:
                continue
            kept = client.to_bytes(record.clients[name]) if name in record.clients else None
            before = client.from_bytes(kept) if kept else None
            state, reply = client.answer(before, request, name, terms(of), lambda name=name: inputs[name])
            record.clients[name], record.before[phase, name] = state, before
            record.requests[phase, name], record.replies[phase, name] = request, reply
            arrived.append((name, change(phase, name, reply)))
        state, refused = server.advance(server.from_bytes(server.to_bytes(record.state)), arrived)
        record.refused.update(refused)
        record = record._replace(state=state)
    return record
