"""Records over Flower's grid: the one place where the server's loop touches Flower."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

from metabayfl.errors import FederationError
from metabayfl.flower.codec import from_content, to_content
from metabayfl.flower.network import Unreachable
from metabayfl.flower.records import PHASES, SECURE, Record

_PLAIN = {phase: phase for phase in ("train", "evaluate")} | {phase: f"train.{phase}" for phase in SECURE}

TYPES = {phase: _PLAIN.get(phase, f"query.{phase}") for phase in PHASES}
"""Flower's message type of each phase."""


class Clock(NamedTuple):
    """Where time comes from."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class FlowerTransport:
    """A :class:`~metabayfl.flower.network.Transport` over a grid."""

    def __init__(self, grid: Grid, clock: Clock | None = None) -> None:
        self._grid = grid
        self._clock = clock or Clock()

    def nodes(self) -> dict[int, str]:
        """Connected nodes, with the names under which the server's operator registered their keys."""
        return {info.node_id: info.name for info in self._grid.get_nodes()}

    def send(self, requests: Mapping[int, Record], seconds: float) -> dict[int, str]:
        """Push one message a node; a message that Flower does not take has no ticket."""
        messages = [outgoing(node, request, seconds) for node, request in requests.items()]
        tickets = self._grid.push_messages(messages)
        return {node: ticket for node, ticket in zip(requests, tickets, strict=False) if ticket}

    def receive(self, tickets: Collection[str]) -> dict[str, Record | Unreachable]:
        """Pull the replies that are there."""
        return {message.metadata.reply_to_message_id: incoming(message) for message in self._grid.pull_messages(list(tickets))}

    def now(self) -> float:
        """Seconds since some moment."""
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._clock.sleep(seconds)


def outgoing(node: int, request: Record, seconds: float) -> Message:
    """A request as a Flower message that is worth so many seconds."""
    return Message(to_content(request), node, TYPES[request.header.phase], ttl=seconds, group_id=str(request.header.round))


def incoming(message: Message) -> Record | Unreachable:
    """A reply, or what Flower says in its place."""
    if message.has_error():
        return Unreachable(f"Flower says: {message.error.reason or message.error.code}")
    try:
        return from_content(message.content)
    except FederationError as error:
        return Unreachable(str(error))
