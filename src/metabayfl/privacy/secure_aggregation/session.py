"""The whole protocol in one process, every message as bytes: for simulation, tests and measurements.

Key material comes from the operating system here as everywhere; the sum does not depend on it, so a seeded simulation stays the same to the bit.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metabayfl.errors import ArtifactError, QuorumError
from metabayfl.privacy.secure_aggregation import client, server
from metabayfl.privacy.secure_aggregation.client import ClientState, Terms
from metabayfl.privacy.secure_aggregation.messages import Phase, Setup
from metabayfl.privacy.secure_aggregation.server import Refused


class Cost(NamedTuple):
    """What the round cost a client."""

    sent: int  # bytes
    received: int  # bytes
    seconds: float  # of processor time


class Outcome(NamedTuple):
    """The sum and how it came about."""

    total: NDArray[np.uint64]  # (L,) modulo 2^b
    clients: tuple[str, ...]  # who was counted
    refused: Refused  # who fell silent by its own or the server's decision, and why
    costs: dict[str, Cost]
    server_seconds: float


def secure_sum(
    inputs: Mapping[str, NDArray[np.uint64]],
    bits: int,
    *,
    colluding: float = 0.1,
    dropouts: float = 0.3,
    drop: Mapping[Phase, Set[str]] = {},
) -> Outcome:
    """The sum modulo ``2^bits`` of the clients' vectors, by the protocol from the first key to the last mask.

    Args:
        inputs: uint64 ``(L,)`` below ``2^bits``, by client.
        bits: ``b``.
        colluding: as in :func:`.graph.choose`.
        dropouts: the same.
        drop: clients that fall silent from a phase on, before they answer it.

    Raises:
        QuorumError: if fewer clients are left than the threshold.

    Example:
        >>> inputs = {name: np.array([number, 1], np.uint64) for number, name in enumerate("abcd")}
        >>> outcome = secure_sum(inputs, 8, drop={"unmask": {"d"}})
        >>> outcome.total.tolist(), outcome.clients
        ([6, 4], ('a', 'b', 'c', 'd'))
    """
    first = next(iter(inputs.values()))
    setup = server.plan(len(inputs), len(first), bits, colluding=colluding, dropouts=dropouts)
    return run(setup, inputs, drop)


def run(setup: Setup, inputs: Mapping[str, NDArray[np.uint64]], drop: Mapping[Phase, Set[str]]) -> Outcome:
    """:func:`secure_sum` with a given setup."""
    terms = Terms(setup.length, setup.bits, setup.about, setup.threshold)
    states: dict[str, ClientState] = {}
    costs = dict.fromkeys(inputs, Cost(0, 0, 0.0))
    refused: Refused = {}

    def replies(requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        for name, request in requests.items():
            begun = time.process_time()
            try:
                state, reply = client.answer(states.get(name), request, name, terms, functools.partial(inputs.__getitem__, name))
            except (ArtifactError, QuorumError) as error:
                refused[name] = str(error)
                continue
            states[name] = state._replace(reply=b"")  # nobody asks again here, and a thousand masked vectors fill a memory
            costs[name] = _added(costs[name], len(reply), len(request), time.process_time() - begun)
            yield name, reply

    begun = time.process_time()
    round_, silent = server.begin(setup, inputs), set[str]()
    while round_.phase != "done":
        silent |= drop.get(round_.phase, set())
        round_, reasons = server.advance(round_, replies({name: request for name, request in round_.requests.items() if name not in silent}))
        refused |= reasons
    total, clients = server.result(round_)
    seconds = time.process_time() - begun
    return Outcome(total, clients, refused, costs, seconds - sum(cost.seconds for cost in costs.values()))


def _added(cost: Cost, sent: int, received: int, seconds: float) -> Cost:
    return Cost(cost.sent + sent, cost.received + received, cost.seconds + seconds)
