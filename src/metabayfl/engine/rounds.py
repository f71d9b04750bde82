"""Training as a generator: ``for state, info in rounds(...)``. No trainer class, no callbacks; stop by leaving the loop.

Every round is a pure function of (state, seed, round), so a run that goes on from a saved state gives the same bits as one never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metabayfl import random, tree
from metabayfl.aggregators import Combine
from metabayfl.algorithms import side_by_side
from metabayfl.data.federation import Clients, Federation
from metabayfl.engine import asynchronous, cohort, pipeline, population, private, tasks
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.pipeline import Pipeline, Stack
from metabayfl.engine.population import Population, Turnout
from metabayfl.engine.private import Permit
from metabayfl.engine.tasks import Block, Group
from metabayfl.errors import DivergedError
from metabayfl.evaluation.validation import validation_loss
from metabayfl.types import Aggregate, Algorithm, Key, Message, ServerState, Tree


class TrainState(NamedTuple):
    """All that must be saved to go on: the server's state, and the best strategy on the validation clients so far."""

    round: int  # rounds done
    server: ServerState
    best: Tree  # the strategy to ship
    best_round: int
    best_loss: float  # nats on the validation clients; inf before the first look
    stalled: int  # looks since the best one
    guards: Tree  # what the pipeline carries from round to round, ``{}`` without guards and memory
    flights: Tree  # clients at work and their strategies, ``{}`` where the server works in rounds


class RoundInfo(NamedTuple):
    """What happened in one round, or in one step of a server that works without rounds."""

    round: int  # rounds done, from 1
    loss: float | None  # mean training loss of the cohort's examples, nats; None where clients keep it to themselves
    examples: int
    clients: int  # whose messages were used
    validation: float | None  # mean loss of the validation clients, in rounds that looked
    seconds: float
    available: int  # training clients that were there
    sampled: int  # clients that were asked
    lost: int  # messages that never came, or came too late or too stale
    duration: float  # simulated time, in median response times of a client
    staleness: float  # mean number of server's steps that messages were behind
    screened: int = 0  # messages that a defence found absurd and left out
    clipped: int = 0  # updates that were cut to the public range of secure aggregation


def begin(algorithm: Algorithm, options: TrainOptions, seed: int) -> TrainState:
    """The state before the first round."""
    meta = tree.to(algorithm.init(random.fold(random.key(seed), "init")), torch.device(options.device))
    steps, device = pipeline.build(options), torch.device(options.device)
    guards = tree.to({**pipeline.begin(steps, meta), **private.begin(options)}, device)
    return TrainState(0, algorithm.begin(meta), meta, 0, float("inf"), 0, guards, asynchronous.begin(options.asynchronous, meta))


def rounds(
    algorithm: Algorithm,
    federation: Federation,
    options: TrainOptions,
    seed: int,
    state: TrainState | None = None,
    permit: Permit = private.always,
) -> Iterator[tuple[TrainState, RoundInfo]]:
    """Run the rounds that are left and yield ``(state, info)`` after each.

    Args:
        algorithm: the method.
        federation: its training clients give tasks, its validation clients decide which strategy is kept.
        options: see :class:`TrainOptions`.
        seed: decides the start, cohorts, splits and all noise.
        state: where to go on; the beginning if none.
        permit: asked before every round; the run is at its end when it says no (:func:`metabayfl.engine.private.permit`).

    Raises:
        DivergedError: if the loss is no longer finite; names the round and what to try.
    """
    state = begin(algorithm, options, seed) if state is None else state
    people = population.settle(options.population, private.sampler(options), federation.train, seed)
    steps = pipeline.infiltrated(pipeline.build(options), options, federation.train, algorithm.model, seed)
    steps = private.guarded(steps, options, len(federation.train.ids), state.server.meta) if algorithm.federated else steps
    turn = one_round if options.asynchronous is None else one_buffer
    while algorithm.federated and goes_on(state, options) and permit(state.round):
        started = time.perf_counter()
        state, aggregate, turnout = turn(algorithm, federation.train, people, steps, options, seed, state)
        state, validation = _judge(algorithm, federation, options, seed, state)
        seconds = time.perf_counter() - started
        loss, count = mean_loss(aggregate)
        require_finite(algorithm, loss, state.round)
        facts = {**private.told(options, turnout)._asdict(), **{name: int(aggregate.metrics.get(name, 0)) for name in ("screened", "clipped")}}
        yield state, RoundInfo(round=state.round, loss=loss, examples=count, validation=validation, seconds=seconds, **facts)


def mean_loss(aggregate: Aggregate) -> tuple[float | None, int]:
    """Mean training loss of the cohort's examples and their number, None and 0 where the messages hold no metrics."""
    if "loss" not in aggregate.metrics:
        return None, 0
    count = float(aggregate.metrics["examples"])
    return float(aggregate.metrics["loss"]) / max(count, 1.0), int(count)


def require_finite(algorithm: Algorithm, loss: float | None, number: int) -> None:
    """Stop a run that diverged."""
    if loss is not None and not np.isfinite(loss):
        raise DivergedError(f"the training loss of {algorithm.name} is {loss} in round {number}: lower its learning rates")


def one_round(
    algorithm: Algorithm, clients: Clients, people: Population, steps: Pipeline, options: TrainOptions, seed: int, state: TrainState
) -> tuple[TrainState, Aggregate, Turnout]:
    """One communication round: ask a cohort, run those that answer, combine, step; returns the new state, the aggregate and who took part."""
    key = round_key(seed, state.round)
    positions, turnout = population.turn_up(people, options.cohort, private.cohort_generator(options, seed, state.round), key, state.round)
    groups = population.groups(people, state.server.meta, positions, tasks.client_keys(key, clients, positions))
    aggregate = run_groups(algorithm, steps, state.guards, clients, groups, key, options)
    return server_step(algorithm, steps, state, aggregate, key), aggregate, turnout


def one_buffer(
    algorithm: Algorithm, clients: Clients, people: Population, steps: Pipeline, options: TrainOptions, seed: int, state: TrainState
) -> tuple[TrainState, Aggregate, Turnout]:
    """One step of an asynchronous server, as soon as its buffer is full; returns as :func:`one_round` does."""
    assert options.asynchronous is not None, "callers ask before"
    key = round_key(seed, state.round)
    flights, groups, turnout = asynchronous.fill(options.asynchronous, people, state.flights, seed, state.round, key)
    aggregate = run_groups(algorithm, steps, state.guards, clients, groups, key, options)
    after = server_step(algorithm, steps, state, aggregate, key)
    return after._replace(flights=asynchronous.publish(flights, after.round, after.server.meta)), aggregate, turnout


def round_key(seed: int, number: int) -> Key:
    """The key that all randomness of round ``number``, from 0, comes from."""
    return random.fold(random.key(seed), "round", number)


def server_step(algorithm: Algorithm, steps: Pipeline, state: TrainState, aggregate: Aggregate, key: Key) -> TrainState:
    """The state after a round's aggregate: the guards' halves on it, then the server's step."""
    guards, guarded = pipeline.on_aggregate(steps, state.guards, aggregate, key)
    return state._replace(round=state.round + 1, server=algorithm.server(state.server, guarded), guards=guards)


def run_cohort(
    algorithm: Algorithm,
    steps: Pipeline,
    guards: Tree,
    clients: Clients,
    positions: NDArray[np.int64],
    key: Key,
    options: TrainOptions,
    meta: Tree,
) -> Aggregate:
    """The aggregate of clients that all start from ``meta`` and say how many examples they have."""
    return run_groups(algorithm, steps, guards, clients, [Group(meta, positions, tasks.client_keys(key, clients, positions))], key, options)


def run_groups(
    algorithm: Algorithm, steps: Pipeline, guards: Tree, clients: Clients, groups: list[Group], key: Key, options: TrainOptions
) -> Aggregate:
    """The groups' aggregate: strategy down as clients decode it, messages in chunks, sums inside each chunk."""
    meta, steps = groups[0].meta, pipeline.drawn(steps, key)
    if not any(len(group.positions) for group in groups):
        return nobody(steps.combine, meta)
    pays = side_by_side.pays(tree.size(meta), torch.device(options.device))
    limit = options.chunk or (cohort.chunk_limit(tree.size(meta)) if pays else 1)
    work = (item for group in groups for item in _blocks(algorithm, clients, group, options, limit))
    plain = steps.plain and all(group.claim == 1.0 for group in groups)
    if options.vectorise and pays and not algorithm.clients and plain and cohort.takes_one_pass(algorithm):
        parts = ((cohort.one_pass(algorithm, steps.combine, seen, block), group) for group, _, seen, block in work)
        return steps.combine.finish(cohort.total({**part, "update": _scaled(part["update"], group.scale)} for part, group in parts))
    run = cohort.messages if options.vectorise and (pays or algorithm.clients) else cohort.messages_by_loop
    with torch.no_grad():
        poisoned = ((group, own, seen, pipeline.on_tasks(steps, block, own, key)) for group, own, seen, block in work)
        stacks = (_stack(run(algorithm, seen, block), block, clients, own, group) for group, own, seen, block in poisoned)
        return pipeline.gather(steps, guards, stacks, key)


def _blocks(
    algorithm: Algorithm, clients: Clients, group: Group, options: TrainOptions, limit: int
) -> Iterator[tuple[Group, NDArray[np.int64], Tree, Block]]:
    """A group in blocks of at most ``limit`` clients, read as they are due: where they stand, the strategy as they decode it, and their data."""
    seen, device = cohort.by_columns(algorithm.down.round_trip(group.meta, None)), torch.device(options.device)
    sizes = np.minimum(clients.sizes[group.positions], options.task_samples or np.inf).astype(np.int64)
    for rows in tasks.chunks(sizes, limit, cohort.call_cost(algorithm.model)):
        own, keys = group.positions[rows], group.keys[torch.from_numpy(rows)]
        yield group, own, seen, tasks.block(clients, own, keys, options.support_share, device, options.task_samples)


def _stack(messages: Message, block: Block, clients: Clients, positions: NDArray[np.int64], group: Group) -> Stack:
    """Messages with the sizes that their senders claim."""
    claimed = messages if group.claim == 1.0 else messages._replace(weight=messages.weight * group.claim)
    names = tasks.names([clients.ids[position] for position in positions]).to(block.keys.device)
    return Stack(claimed, block.keys, positions, names, torch.full_like(block.keys, group.scale, dtype=torch.float64))


def _scaled(update: Tree, scale: float) -> Tree:
    return update if scale == 1.0 else tree.scale(update, scale)


def nobody(combine: Combine, meta: Tree) -> Aggregate:
    """The aggregate of an empty cohort: an update of zeros."""
    return combine.finish({"update": tree.zeros_like(meta), "weight": torch.zeros(()), "metrics": {}})


def goes_on(state: TrainState, options: TrainOptions) -> bool:
    """Whether rounds are left: neither all done nor patience at its end."""
    return state.round < options.rounds and not 0 < options.patience <= state.stalled


def _judge(algorithm: Algorithm, federation: Federation, options: TrainOptions, seed: int, state: TrainState) -> tuple[TrainState, float | None]:
    """Keep the best strategy on the validation clients; without a look, the newest is the best."""
    if not options.validate_every or not len(federation.validation.ids):
        return unjudged(state), None
    if not looks(options, state.round):
        return state, None
    loss = validation_loss(algorithm, state.server.meta, federation.validation, validation_key(seed))
    return judged(state, loss), loss


def looks(options: TrainOptions, number: int) -> bool:
    """Whether the validation clients are asked after round ``number``, from 1."""
    return bool(options.validate_every) and (number % options.validate_every == 0 or number == options.rounds)


def validation_key(seed: int) -> Key:
    """One key for all looks of a run, so that they differ by the strategy alone."""
    return random.fold(random.key(seed), "validation")


def unjudged(state: TrainState) -> TrainState:
    """The newest strategy is the best one where nobody can tell."""
    return state._replace(best=state.server.meta, best_round=state.round)


def judged(state: TrainState, loss: float) -> TrainState:
    """The state after a look that found ``loss``, in nats."""
    if loss < state.best_loss:
        return state._replace(best=state.server.meta, best_round=state.round, best_loss=loss, stalled=0)
    return state._replace(stalled=state.stalled + 1)
