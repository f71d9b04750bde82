"""A server without rounds: it keeps clients at work, and takes a step whenever so many messages have come (FedBuff).

Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation", Algorithm 1, as in :mod:`metabayfl.engine.asynchronous`, with real
time in the place of the simulated one. Clients at work lie in the checkpoint with the strategies that they began from: a server that was killed asks
the same again, and those whose messages had come and were not used yet give them again. When all of a buffer come at once and as many are at work as
it holds, the numbers are those of rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metabayfl.engine import asynchronous, cohort, pipeline, private, tasks
from metabayfl.engine.asynchronous import AsynchronousOptions, Flights
from metabayfl.engine.pipeline import Pipeline, Stack
from metabayfl.engine.rounds import TrainState, nobody, round_key
from metabayfl.engine.sampling import SAMPLERS
from metabayfl.errors import FederationError
from metabayfl.flower import registry as registries
from metabayfl.flower.acceptance import hear
from metabayfl.flower.members import Members
from metabayfl.flower.network import Line, Patience, gather, send_due, why
from metabayfl.flower.records import Header, Record, record
from metabayfl.flower.round import Gathered, Setting, no_quorum, strategy_array
from metabayfl.types import Aggregate, Message


@dataclass
class _Flight:
    """A client at work, or one whose message waits for its buffer."""

    version: int  # the server's steps before the strategy that it began from
    wave: int  # which of the draws of that version
    key: Tensor  # all its randomness
    line: Line
    since: float  # when it was drawn, by the transport's clock
    message: Message | None = None
    arrival: int = 0  # its place among all arrivals


class Stream:
    """The clients at work for one run of a server.

    Args:
        setting: of the run, with ``asynchronous`` among its options.
        members: the sites.
        patience: how long to wait; ``reply`` seconds for one message, and for a buffer.
        state: where to go on; clients that were at work are asked again.
    """

    def __init__(self, setting: Setting, members: Members, patience: Patience, state: TrainState) -> None:
        self._setting, self._members, self._patience = setting, members, patience
        self._arrivals = 0
        self._skipped: dict[str, str] = {}
        self._flights: dict[str, _Flight] = self._restored(state)

    @property
    def _options(self) -> AsynchronousOptions:
        options = self._setting.run.options.asynchronous
        assert options is not None, "callers ask before"
        return options

    def buffer(self, steps: Pipeline, state: TrainState) -> tuple[Gathered, TrainState]:
        """Wait until a buffer is full, or holds the quorum when time is up or nobody is at work any more.

        Returns:
            What the buffer came to, and the state with the clients who are still at work.

        Raises:
            FederationError: if fewer messages than the quorum came, after waiting ``retries`` times more.
        """
        self._skipped = {}
        self._leave_stale(state.round)
        transport, left, wave = self._members.transport, self._setting.retries, 0
        start = busy = transport.now()
        while True:
            wave += self._ask(state, wave)
            moved, now = self._exchange(), transport.now()
            busy = busy if len(self._waiting()) == len(self._flights) else now
            if self._is_enough(late=now >= min(start + self._patience.reply, busy + self._patience.grace)):
                return self._gathered(steps, state)
            if now >= start + self._patience.reply:
                if not left:
                    raise FederationError(no_quorum(state.round, self._shortage(), self._setting))
                left, start, busy, self._skipped = left - 1, now, now, {}
            if not moved:
                transport.sleep(self._patience.poll)

    def _is_enough(self, *, late: bool) -> bool:
        """Whether the messages that came make a buffer, or the quorum where it is late."""
        return len(self._waiting()) >= (min(self._setting.quorum, self._options.buffer) if late else self._options.buffer)

    def _shortage(self) -> str:
        return f"{len(self._waiting())} messages came: {'; '.join(sorted(set(self._skipped.values()))[:5]) or 'no reply'}"

    def _waiting(self) -> list[str]:
        """Clients whose messages came, in the order in which they did."""
        there = {name: flight for name, flight in self._flights.items() if flight.message is not None}
        return sorted(there, key=lambda name: there[name].arrival)

    def _leave_stale(self, version: int) -> None:
        for name, flight in list(self._flights.items()):
            if flight.version < version - self._options.max_staleness:
                self._leave(name, f"it was more than {self._options.max_staleness} steps behind")

    def _leave(self, name: str, reason: str) -> None:
        del self._flights[name]
        self._skipped[name] = reason

    def _ask(self, state: TrainState, wave: int) -> int:
        """Fill the free places with clients that are there; 1 if anybody was asked, since the next ones are of another draw then."""
        run, known = self._setting.run, self._members.registry
        population, here = registries.training(known), self._members.places()
        free = [
            place for place, name in enumerate(population.ids) if name not in self._flights and name not in self._skipped and known[name].site in here
        ]
        places = self._options.concurrency - len(self._flights)
        if not free or places < 1:
            return 0
        rng, key = asynchronous.randomness(run.seed, state.round, wave, round_key(run.seed, state.round))
        drawn = SAMPLERS[private.sampler(run.options)](population)(rng, places, np.array(free))
        for place, own in zip(drawn, tasks.client_keys(key, population, drawn), strict=True):
            self._flights[population.ids[place]] = self._departing(state, population.ids[place], state.round, wave, own)
        return 1

    def _departing(self, state: TrainState, name: str, version: int, wave: int, key: Tensor) -> _Flight:
        strategy = strategy_array(self._setting.run, asynchronous.strategy_of(state.flights, version))
        body = {"plan": self._setting.plan, "cohort": [name], "wave": wave}
        request = record(Header(self._setting.experiment, "train", version), body, {"strategy": strategy})
        return _Flight(version, wave, key, Line(request), self._members.transport.now())

    def _exchange(self) -> bool:
        """Send what is due and take in what has come; whether anything has."""
        transport, places, replies = self._members.transport, self._members.places(), dict[str, Record]()
        lines = {name: flight.line for name, flight in self._flights.items() if flight.message is None}
        sites = {name: self._members.registry[name].site for name in lines if name in self._members.registry}
        send_due(transport, lines, {name: places[site] for name, site in sites.items() if site in places}, self._patience, self._patience.reply)
        moved = gather(transport, lines, replies)
        for name, line in lines.items():
            if name in replies:
                self._take(name, replies[name])
            elif line.failures >= self._patience.tries or transport.now() >= self._flights[name].since + self._patience.reply:
                self._leave(name, why(line, self._patience))
        return moved

    def _take(self, name: str, reply: Record) -> None:
        flight, setting = self._flights[name], self._setting
        try:
            heard = hear(setting.run, self._members.registry, flight.line.request.header, [name], reply, setting.like)
        except FederationError as error:
            self._leave(name, str(error))
            return
        if name in heard.skipped:
            self._leave(name, heard.skipped[name])
        else:
            self._arrivals += 1
            flight.message, flight.arrival = heard.messages[name], self._arrivals

    def _gathered(self, steps: Pipeline, state: TrainState) -> tuple[Gathered, TrainState]:
        """The aggregate of a buffer, the freshest messages first; and the state with those who are left."""
        used = {name: self._flights[name] for name in self._waiting()[: self._options.buffer]}
        order = sorted(used, key=lambda name: -used[name].version)  # stable: in the order of arrival
        aggregate = self._aggregate(steps, state, {name: used[name] for name in order})
        for name in used:
            del self._flights[name]
        behind = float(np.mean([state.round - flight.version for flight in used.values()])) if used else 0.0
        return Gathered(aggregate, len(used), dict(self._skipped), behind), state._replace(flights=self._saved(state))

    def _aggregate(self, steps: Pipeline, state: TrainState, used: dict[str, _Flight]) -> Aggregate:
        if not used:
            return nobody(steps.combine, state.server.meta)
        places = {name: place for place, name in enumerate(registries.training(self._members.registry).ids)}
        key = round_key(self._setting.run.seed, state.round)
        with torch.no_grad():
            names = tasks.names(list(used))
            stacks = [self._stack(flight, places[name], own[None], state.round) for (name, flight), own in zip(used.items(), names, strict=True)]
            return pipeline.gather(pipeline.drawn(steps, key), state.guards, stacks, key)

    def _stack(self, flight: _Flight, place: int, name: Tensor, version: int) -> Stack:
        assert flight.message is not None, "callers take those that came"
        scale = asynchronous.staleness_weight(self._options.exponent, version - flight.version)
        weighed = torch.tensor([scale], dtype=torch.float64)
        return Stack(cohort.stack([flight.message]), flight.key[None], np.array([place]), name, weighed)

    def _saved(self, state: TrainState) -> dict[str, Tensor]:
        """Clients at work, as the engine keeps them; their wave stands where it has the time of an answer, which nobody knows here."""
        flights: Flights = np.zeros(len(self._flights), asynchronous.FLIGHT)
        for row, flight in enumerate(self._flights.values()):
            flights[row] = (row, flight.version, flight.wave, False, int(flight.key))
        return asynchronous.saved(flights, 0.0, self._options.concurrency, state.flights["strategies"])

    def _restored(self, state: TrainState) -> dict[str, _Flight]:
        """Clients are known by their keys, which hold their names; one that has left is not asked again."""
        run, population = self._setting.run, registries.training(self._members.registry)
        everyone, found = np.arange(len(population.ids)), dict[str, _Flight]()
        for row in asynchronous.restored(state.flights):
            version, wave = int(row["version"]), int(row["time"])
            key = asynchronous.randomness(run.seed, version, wave, round_key(run.seed, version))[1]
            keys = tasks.client_keys(key, population, everyone)
            for place in np.flatnonzero(keys.numpy() == row["key"]):
                found[population.ids[place]] = self._departing(state, population.ids[place], version, wave, keys[place])
        return found
