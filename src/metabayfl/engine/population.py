"""Who is there, who answers, and how long it takes: populations that come and go, for simulation.

Everything is a pure function of (seed, time, client's name): nothing is carried from round to round, so a run that goes on meets the same clients.
Time is counted in rounds; where the server does not wait for rounds, its unit is the median response time of a client, which is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from metabayfl import random
from metabayfl.data.federation import Clients
from metabayfl.engine.sampling import SAMPLERS, Positions, Sampler
from metabayfl.engine.tasks import Group
from metabayfl.errors import ConfigError, unknown
from metabayfl.types import Key, Tree

TRACES = ("always", "random", "diurnal")
"""How availability goes by."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class PopulationOptions:
    """How training clients come and go; the defaults are a population that is always there and never fails.

    Attributes:
        trace: ``always``; ``random``: each client has a probability of its own, uniform between ``low`` and ``high``, of being there in a round;
            ``diurnal``: its probability goes from ``low`` to ``high`` and back in a day, as a cosine.
        low: smallest probability of being there.
        high: largest probability of being there.
        rounds_per_day: length of a day, in rounds.
        phase_spread: share of a day over which the clients' days are shifted: 1 for clients all over the world, 0 for one time zone.
        dropout: probability that a client that was asked never answers.
        join_share: share of the clients that joins after the start.
        leave_share: share of the clients that leaves again.
        return_share: share of those that left that comes back.
        turnover: rounds within which they join, leave and come back.
        slowness: standard deviation over clients of the logarithm of their median response time; the median client takes 1.
        jitter: standard deviation of the logarithm of one client's response time over rounds.
        deadline: a response that takes longer comes too late and is dropped; 0 for none.
        liars: share of the clients that lie about their number of examples.
        lie: how many times its number a liar claims.
        overselect: how many times the cohort is asked, so that it is full in spite of drop-outs; the first answers count, the rest is not used.
    """

    trace: str = "always"
    low: float = 0.1
    high: float = 0.9
    rounds_per_day: float = 24.0
    phase_spread: float = 1.0
    dropout: float = 0.0
    join_share: float = 0.0
    leave_share: float = 0.0
    return_share: float = 0.0
    turnover: float = 100.0
    slowness: float = 0.0
    jitter: float = 0.0
    deadline: float = 0.0
    liars: float = 0.0
    lie: float = 10.0
    overselect: float = 1.0

    def __post_init__(self) -> None:
        if self.trace not in TRACES:
            raise unknown("trace", self.trace, TRACES)
        for name in ("low", "high", "phase_spread", "dropout", "join_share", "leave_share", "return_share", "liars"):
            self._check(name, "a share between 0 and 1", holds=0.0 <= getattr(self, name) <= 1.0)
        for name in ("slowness", "jitter", "deadline"):
            self._check(name, "0 or more", holds=0.0 <= getattr(self, name) < math.inf)
        for name in ("rounds_per_day", "turnover", "lie"):
            self._check(name, "a number above 0", holds=0.0 < getattr(self, name) < math.inf)
        self._check("dropout", "a share below 1, or nobody ever answers", holds=self.dropout < 1.0)
        self._check("high", "a probability above 0 and not below low", holds=self.high >= self.low and self.high > 0.0)
        self._check("overselect", "1 or more, such as 1.3", holds=1.0 <= self.overselect < math.inf)

    def _check(self, name: str, expected: str, *, holds: bool) -> None:
        if not holds:
            raise ConfigError(f"population.{name} is {getattr(self, name)}, expected {expected}")


class Population(NamedTuple):
    """What stays as it is about each of ``n`` training clients, from the seed and its name."""

    options: PopulationOptions
    sampler: Sampler
    key: Key
    names: Tensor  # (n,) int64, hashes of the clients' names
    chance: Numbers  # (n,) uniform on (0, 1): where between low and high a client is in a random trace
    phase: Numbers  # (n,) when its day is at its height, in days
    joins: Numbers  # (n,) round
    leaves: Numbers  # (n,) round, inf for never
    returns: Numbers  # (n,) round, inf for never
    pace: Numbers  # (n,) its median response time
    claims: Numbers  # (n,) claimed number of examples over the true one


class Turnout(NamedTuple):
    """Who took part in one step of the server."""

    clients: int  # whose messages were used
    available: int  # were there when the last ones were asked
    sampled: int  # were asked
    lost: int  # messages that never came, or came too late or too stale
    duration: float  # time that it took, in median response times
    staleness: float = 0.0  # mean number of the server's steps between a client's download and its arrival


class Answers(NamedTuple):
    """What becomes of clients ``(C,)`` that were asked."""

    time: Numbers  # until the answer, or until the server knows that none comes
    lost: NDArray[np.bool_]


def settle(options: PopulationOptions, sampler: str, clients: Clients, seed: int) -> Population:
    """The population of ``clients``; the sampler sees the numbers of examples that they claim."""
    key = random.fold(random.key(seed), "population")
    names = torch.tensor([random.digest(name) for name in clients.ids], dtype=torch.int64)
    draw = {word: _uniform(random.fold(key, names, word)) for word in ("chance", "phase", "join", "leave", "return", "liar")}
    joins, leaves, returns = _membership(options, draw, key, names)
    claims = np.where(draw["liar"] < options.liars, options.lie, 1.0)
    return Population(
        options=options,
        sampler=SAMPLERS[sampler](clients._replace(sizes=clients.sizes * claims)),
        key=key,
        names=names,
        chance=draw["chance"],
        phase=options.phase_spread * draw["phase"],
        joins=joins,
        leaves=leaves,
        returns=returns,
        pace=np.exp(options.slowness * _normal(random.fold(key, names, "pace"))),
        claims=claims,
    )


def _membership(options: PopulationOptions, draw: dict[str, Numbers], key: Key, names: Tensor) -> tuple[Numbers, Numbers, Numbers]:
    """Three rounds a client, in order: each uniform between the one before it and the end of the turnover."""
    share = {word: _uniform(random.fold(key, names, word, "time")) for word in ("join", "leave", "return")}
    joins = np.where(draw["join"] < options.join_share, share["join"] * options.turnover, 0.0)
    left = joins + share["leave"] * (options.turnover - joins)
    back = left + share["return"] * (options.turnover - left)
    leaves = draw["leave"] < options.leave_share
    returns = leaves & (draw["return"] < options.return_share)
    return joins, np.where(leaves, left, np.inf), np.where(returns, back, np.inf)


def belongs(people: Population, hour: int) -> NDArray[np.bool_]:
    """Which clients ``(n,)`` are members in a round or unit of time."""
    return ((people.joins <= hour) & (hour < people.leaves)) | (people.returns <= hour)


def probability(people: Population, hour: int) -> Numbers:
    """With which probability each member ``(n,)`` is there.

    Diurnal: ``low + (high - low) (1 + cos 2 pi (t / day - phase)) / 2``.
    """
    options = people.options
    if options.trace == "always":
        return np.ones(len(people.chance))
    wave = 0.5 + 0.5 * np.cos(2.0 * np.pi * (hour / options.rounds_per_day - people.phase))
    return options.low + (options.high - options.low) * (people.chance if options.trace == "random" else wave)


def present(people: Population, hour: int) -> NDArray[np.bool_]:
    """Which clients ``(n,)`` are there in a round or unit of time, drawn anew for each."""
    drawn = _uniform(random.fold(people.key, "hour", hour, people.names))
    return belongs(people, hour) & (drawn < probability(people, hour))


def answers(people: Population, positions: Positions, keys: Tensor) -> Answers:
    """How the clients at ``positions`` answer when asked under ``keys``, ``(C,)``: their own of the round."""
    options = people.options
    taken = people.pace[positions] * np.exp(options.jitter * _normal(random.fold(keys, "response")))
    deadline = options.deadline or math.inf
    return Answers(np.minimum(taken, deadline), (_uniform(random.fold(keys, "dropout")) < options.dropout) | (taken > deadline))


def ask(people: Population, rng: np.random.Generator, size: int, pool: Positions) -> Positions:
    """``size`` clients of those in ``pool``, or all of them where there are fewer."""
    return people.sampler(rng, size, pool) if size and len(pool) else pool[:0]


def turn_up(people: Population, cohort: int, rng: np.random.Generator, key: Key, number: int) -> tuple[Positions, Turnout]:
    """The clients whose messages count in round ``number``, in the sampler's order.

    With ``overselect`` more are asked, and the round ends with the first ``cohort`` answers (Bonawitz et al. 2019, "Towards federated learning at
    scale", section 2.2); otherwise it ends when every client has answered or is given up.
    """
    pool = np.flatnonzero(present(people, number))
    more = people.options.overselect
    asked = ask(people, rng, math.ceil(round(more * cohort, 9)), pool)
    own = answers(people, asked, random.fold(key, "client", people.names[torch.from_numpy(asked)]))
    came = np.flatnonzero(~own.lost)
    used = came if more == 1.0 else np.sort(came[np.argsort(own.time[came], kind="stable")[:cohort]])
    waited = own.time[used] if more > 1.0 and len(used) == cohort else own.time
    return asked[used], Turnout(len(used), len(pool), len(asked), int(own.lost.sum()), float(waited.max(initial=0.0)))


def groups(people: Population, meta: Tree, positions: Positions, keys: Tensor, scale: float = 1.0) -> list[Group]:
    """The clients at ``positions`` that start from ``meta``: the honest ones together, and the liars."""
    claims = people.claims[positions]
    rows = [(claim, np.flatnonzero(claims == claim)) for claim in np.unique(claims)] or [(1.0, np.arange(0))]
    return [Group(meta, positions[own], keys[torch.from_numpy(own)], float(claim), scale) for claim, own in rows]


def _uniform(keys: Tensor) -> Numbers:
    """A number on (0, 1) from each key: keys are hashes, uniform over all patterns of bits."""
    return ((keys.numpy().view(np.uint64) >> 12).astype(np.float64) + 0.5) * 2.0**-52


def _normal(keys: Tensor) -> Numbers:
    drawn: Numbers = ndtri(_uniform(keys))
    return drawn
