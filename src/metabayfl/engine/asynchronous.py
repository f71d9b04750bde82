"""Buffered asynchronous aggregation: the server takes a step whenever so many messages have come, and waits for nobody (FedBuff).

Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation", Algorithm 1. A simulation by events in virtual time: when a client
answers is known from its key beforehand, so the order of arrivals is found first, and the messages are computed when they are used, together for
all clients of a buffer that started from one strategy. What is in flight is a tree of tensors of fixed shape, and lies in the checkpoint.

Guards and combines run as in a round. :class:`~metabayfl.engine.options.TrainOptions` refuses it with what needs to know its cohort beforehand:
Poisson sampling, privacy accounts, and secure aggregation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metabayfl import random
from metabayfl.engine import population
from metabayfl.engine.population import Population, Turnout
from metabayfl.engine.sampling import Positions
from metabayfl.engine.tasks import Group
from metabayfl.errors import ConfigError, MetabayflError
from metabayfl.types import Key, Tree

FRUITLESS = 10_000
"""Events in a row without one message of use after which the simulation gives up."""


@dataclass(frozen=True)
class AsynchronousOptions:
    """How the server works without rounds; ``cohort`` is not used then, and ``rounds`` are the server's steps.

    Attributes:
        concurrency: clients at work at a time; a client that answers, or is given up, is replaced at once.
        buffer: messages that make a step of the server, the paper's K.
        exponent: an update that is ``tau`` steps stale is multiplied by ``(1 + tau)^-exponent``: 0.5 as in the paper, 0 for no difference.
        max_staleness: staler messages are dropped; the server keeps one strategy more than this.
    """

    concurrency: int = 30
    buffer: int = 10
    exponent: float = 0.5
    max_staleness: int = 20

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("buffer", 1), ("max_staleness", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"asynchronous.{name} is {getattr(self, name)}, expected {least} or more")
        if not 0.0 <= self.exponent < math.inf:
            raise ConfigError(f"asynchronous.exponent is {self.exponent}, expected 0 or more, such as 0.5")


COLUMNS: dict[str, type] = {
    "position": np.int64,
    "version": np.int64,  # the server's steps before the strategy that the client downloaded
    "time": np.float64,  # when it answers, or is given up
    "lost": np.bool_,  # it never answers
    "key": np.int64,  # all its randomness
}
"""What there is to know about a client at work."""

FLIGHT = np.dtype(list(COLUMNS.items()))
Flights = NDArray[np.void]
"""Clients at work ``(F,)``, in the order in which they were asked."""


def staleness_weight(exponent: float, steps: int) -> float:
    """``(1 + tau)^-exponent`` for a message that is ``tau`` steps stale.

    Example:
        >>> staleness_weight(0.5, 0), staleness_weight(0.5, 3)
        (1.0, 0.5)
    """
    return float((1.0 + steps) ** -exponent)


def begin(options: AsynchronousOptions | None, meta: Tree) -> Tree:
    """Nobody at work; ``{}`` where the server works in rounds."""
    if options is None:
        return {}
    return saved(np.empty(0, FLIGHT), 0.0, options.concurrency, {str(slot): meta for slot in range(options.max_staleness + 1)})


def publish(state: Tree, version: int, meta: Tree) -> Tree:
    """The server's new strategy, in the place of the oldest one kept."""
    return {**state, "strategies": {**state["strategies"], _slot(state, version): meta}}


def fill(options: AsynchronousOptions, people: Population, state: Tree, seed: int, version: int, key: Key) -> tuple[Tree, list[Group], Turnout]:
    """Let time go on until a buffer is full.

    Args:
        options: see :class:`AsynchronousOptions`.
        people: the training clients.
        state: what is in flight, as from :func:`begin`.
        seed: decides whom the server asks.
        version: the server's steps so far.
        key: of this step, as of a round.

    Returns:
        What is in flight now, the buffer's clients in groups of one staleness, and who took part.

    Raises:
        MetabayflError: if no message of use comes any more.
    """
    flights, clock = restored(state), float(state["clock"])
    hour, there = -1, np.empty(0, np.bool_)
    buffered, sampled, lost, wave, fruitless = np.empty(0, FLIGHT), 0, 0, 0, 0
    while len(buffered) < options.buffer:
        if math.floor(clock) > hour:
            hour = math.floor(clock)
            there = population.present(people, hour)
        rng, own = randomness(seed, version, wave, key)
        asked = _choose(people, there, flights, options.concurrency - len(flights), rng)
        flights = np.concatenate([flights, _depart(people, asked, own, version, clock)])
        clock = _next_event(flights, clock, idle=len(flights) < options.concurrency)
        useful, flights, gone = _arrivals(flights, clock, version - options.max_staleness, options.buffer - len(buffered))
        buffered, sampled, lost, wave = np.concatenate([buffered, useful]), sampled + len(asked), lost + gone, wave + 1
        fruitless = 0 if len(useful) else fruitless + 1
        if fruitless > FRUITLESS:
            raise MetabayflError(f"no message of use in {FRUITLESS} events, at virtual time {clock:.0f}: raise low, deadline or max_staleness")
    stale = version - buffered["version"]
    turnout = Turnout(len(stale), int(there.sum()), sampled, lost, clock - float(state["clock"]), float(stale.mean()))
    return saved(flights, clock, options.concurrency, state["strategies"]), _groups(options, people, state, buffered, stale), turnout


def randomness(seed: int, version: int, wave: int, key: Key) -> tuple[np.random.Generator, Key]:
    """For the first clients of a version what a round has, so that clients of one speed give the numbers of rounds."""
    if not wave:
        return np.random.default_rng([seed, version]), key
    return np.random.default_rng([seed, version, wave]), random.fold(key, "wave", wave)


def _choose(people: Population, there: NDArray[np.bool_], flights: Flights, places: int, rng: np.random.Generator) -> Positions:
    """Clients for all free places, of those that are there and not at work."""
    free = there.copy()
    free[flights["position"]] = False
    return population.ask(people, rng, places, np.flatnonzero(free))


def _depart(people: Population, asked: Positions, key: Key, version: int, clock: float) -> Flights:
    """Clients that download a version now."""
    keys = random.fold(key, "client", people.names[torch.from_numpy(asked)])
    own = population.answers(people, asked, keys)
    departing = np.empty(len(asked), FLIGHT)
    for name, column in zip(COLUMNS, (asked, version, clock + own.time, own.lost, keys.numpy()), strict=True):
        departing[name] = column
    return departing


def _next_event(flights: Flights, clock: float, *, idle: bool) -> float:
    """The next answer; with free places also the next unit of time, when others may be there."""
    answer = float(flights["time"].min(initial=math.inf))
    return max(clock, min(answer, math.floor(clock) + 1.0) if idle else answer)


def _arrivals(flights: Flights, clock: float, oldest: int, room: int) -> tuple[Flights, Flights, int]:
    """Messages for the buffer, those who are still at work or wait for the next buffer, and how many came to nothing."""
    due = np.flatnonzero(flights["time"] <= clock)
    due = due[np.argsort(flights["time"][due], kind="stable")]
    useful = ~flights["lost"][due] & (flights["version"][due] >= oldest)
    taken = due[: np.searchsorted(np.cumsum(useful), room) + 1]
    used = taken[useful[: len(taken)]]
    return flights[used], np.delete(flights, taken), len(taken) - len(used)


def _groups(options: AsynchronousOptions, people: Population, state: Tree, buffered: Flights, stale: NDArray[np.int64]) -> list[Group]:
    """Those of one version together, the freshest first."""
    groups = []
    for steps in np.unique(stale):
        own = buffered[stale == steps]
        meta = strategy_of(state, int(own["version"][0]))
        scale = staleness_weight(options.exponent, int(steps))
        groups += population.groups(people, meta, own["position"], torch.from_numpy(own["key"].copy()), scale)
    return groups


def strategy_of(state: Tree, version: int) -> Tree:
    """The strategy of one of the last ``max_staleness + 1`` versions."""
    meta: Tree = state["strategies"][_slot(state, version)]
    return meta


def _slot(state: Tree, version: int) -> str:
    return str(version % len(state["strategies"]))


def saved(flights: Flights, clock: float, places: int, strategies: Tree) -> Tree:
    """As tensors of fixed shape, by column: position -1 is an empty place."""
    padded = np.zeros(places, FLIGHT)
    padded["position"] = -1
    padded[: len(flights)] = flights
    columns = {name: torch.from_numpy(padded[name].copy()) for name in COLUMNS}
    return {"clock": torch.tensor(clock, dtype=torch.float64), **columns, "strategies": strategies}


def restored(state: Tree) -> Flights:
    """The inverse of :func:`saved`."""
    padded = np.empty(len(state["position"]), FLIGHT)
    for name in COLUMNS:
        padded[name] = state[name].cpu().numpy()
    return padded[padded["position"] >= 0]
