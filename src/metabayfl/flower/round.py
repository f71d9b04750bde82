"""One training round between server and sites, as phases: requests go out, replies come in, until the round's messages are there.

A round is a generator, so that one with several phases (secure aggregation) is driven by the same loop as one with a single phase.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl.engine import cohort, pipeline, private, tasks
from metabayfl.engine.pipeline import Pipeline, Stack
from metabayfl.engine.rounds import TrainState, nobody, round_key
from metabayfl.engine.sampling import SAMPLERS
from metabayfl.errors import FederationError
from metabayfl.flower import registry as registries
from metabayfl.flower.acceptance import Heard, hear
from metabayfl.flower.network import Ask, Replies, Requests
from metabayfl.flower.records import Header, as_array, record
from metabayfl.flower.registry import Registry
from metabayfl.study import Run
from metabayfl.types import Aggregate, Message, Tree


class Setting(NamedTuple):
    """What stays the same from round to round."""

    run: Run
    plan: dict[str, Any]  # as JSON: every request carries it, so that sites need to remember nothing
    experiment: str
    like: Message  # what a message must look like
    quorum: int  # fewest clients whose messages make a round
    retries: int  # how often missing sites are asked once more when there are fewer


class Cohort(NamedTuple):
    """The clients of one round in the order of the draw, in which the engine sums them one at a time."""

    ids: tuple[str, ...]
    keys: Tensor  # (C,)
    positions: NDArray[np.int64]  # (C,) among the training clients
    owners: dict[str, list[str]]  # clients by site


class Gathered(NamedTuple):
    """What a round came to."""

    aggregate: Aggregate
    clients: int  # whose messages are in it
    skipped: dict[str, str]  # the cohort's others, and why
    staleness: float = 0.0  # mean number of the server's steps that messages were behind


Round: TypeAlias = Generator[Ask, Replies, Gathered]


def draw(run: Run, registry: Registry, number: int) -> Cohort:
    """The cohort of round ``number``: the engine's draw over the training clients' ids, whoever is connected now."""
    population = registries.training(registry)
    sampler, everyone = SAMPLERS[private.sampler(run.options)](population), np.arange(len(population.ids))
    positions = sampler(private.cohort_generator(run.options, run.seed, number), run.options.cohort, everyone)
    return cohort_of(run, registry, number, tuple(population.ids[position] for position in positions))


def cohort_of(run: Run, registry: Registry, number: int, ids: tuple[str, ...]) -> Cohort:
    """The cohort of round ``number`` that these training clients are, in this order."""
    population = registries.training(registry)
    places = {id: position for position, id in enumerate(population.ids)}
    positions = np.array([places[id] for id in ids], dtype=np.int64)
    return Cohort(ids, tasks.client_keys(round_key(run.seed, number), population, positions), positions, _owners(registry, ids))


def _owners(registry: Registry, ids: tuple[str, ...]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for id in ids:
        owners.setdefault(registry[id].site, []).append(id)
    return owners


def strategy_array(run: Run, meta: Tree) -> Tensor:
    """The strategy as it travels down."""
    return as_array(run.algorithm.down.encode(meta, None))


def train_requests(setting: Setting, drawn: Cohort, state: TrainState) -> Requests:
    """What each site of the cohort is asked."""
    header = Header(setting.experiment, "train", state.round)
    strategy = strategy_array(setting.run, state.server.meta)
    return {site: record(header, {"plan": setting.plan, "cohort": ids}, {"strategy": strategy}) for site, ids in drawn.owners.items()}


def in_clear(setting: Setting, steps: Pipeline, registry: Registry, drawn: Cohort, state: TrainState) -> Round:
    """The round whose messages the server sees: one phase, which those who are missing are asked again while too few have answered.

    Raises:
        FederationError: if too few have answered after all.
    """
    requests, need = train_requests(setting, drawn, state), min(setting.quorum, len(drawn.ids))
    messages, skipped = dict[str, Message](), dict[str, str]()

    def enough(sites: Collection[str]) -> bool:
        return len(messages) + sum(len(drawn.owners[site]) for site in sites) >= setting.quorum

    for _ in range(setting.retries + 1):
        replies = yield Ask({site: request for site, request in requests.items() if not set(drawn.owners[site]) & messages.keys()}, enough)
        heard = hear_all(setting, registry, requests, drawn, replies)
        messages, skipped = messages | heard.messages, {**skipped, **heard.skipped}
        if len(messages) >= need:
            break
    skipped = {name: reason for name, reason in skipped.items() if name not in messages}
    if len(messages) < need:
        why = "; ".join(sorted(set(skipped.values()))[:5])
        raise FederationError(no_quorum(state.round, f"{len(messages)} clients answered where {need} are needed: {why}", setting))
    return Gathered(aggregate(setting, steps, state, drawn, Heard(messages, skipped)), len(messages), skipped)


def no_quorum(number: int, why: str, setting: Setting) -> str:
    """What is said of a round that came to nothing."""
    return f"round {number + 1} came to nothing after asking {setting.retries + 1} times ({why}); go on with --resume"


def hear_all(setting: Setting, registry: Registry, requests: Requests, drawn: Cohort, replies: Replies) -> Heard:
    """The messages in the replies of several sites; a site whose reply cannot be used loses all its clients for this round."""
    messages, skipped = dict[str, Message](), dict[str, str]()
    for site, reason in replies.failed.items():
        skipped |= dict.fromkeys(drawn.owners[site], f"site {site!r}: {reason}")
    for site, reply in replies.records.items():
        try:
            heard = hear(setting.run, registry, requests[site].header, drawn.owners[site], reply, setting.like)
        except FederationError as error:
            skipped |= dict.fromkeys(drawn.owners[site], f"site {site!r}: {error}")
            continue
        messages |= heard.messages
        skipped |= {name: f"site {site!r}: {reason}" for name, reason in heard.skipped.items()}
    return Heard(messages, skipped)


def drive(phases: Round, exchange: Callable[[Ask], Replies]) -> Gathered:
    """Run a round's phases through ``exchange``, which sends requests and gathers replies."""
    try:
        ask = next(phases)
        while True:
            ask = phases.send(exchange(ask))
    except StopIteration as done:
        gathered: Gathered = done.value
        return gathered


def aggregate(setting: Setting, steps: Pipeline, state: TrainState, drawn: Cohort, heard: Heard) -> Aggregate:
    """The engine's aggregate of the messages that came, in the order of the draw."""
    rows = [row for row, id in enumerate(drawn.ids) if id in heard.messages]
    if not rows:
        return nobody(steps.combine, state.server.meta)
    key, full = round_key(setting.run.seed, state.round), torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        names = tasks.names(drawn.ids)
        stacks = (
            Stack(cohort.stack([heard.messages[drawn.ids[row]]]), drawn.keys[row][None], drawn.positions[row][None], names[row][None], full)
            for row in rows
        )
        return pipeline.gather(pipeline.drawn(steps, key), state.guards, stacks, key)
