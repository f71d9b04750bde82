"""Training as a generator: ``for state, info in rounds(...)``. No trainer class, no callbacks; stop by leaving the loop.

Every round is a pure function of (state, seed, round), so a run that goes on from a saved state gives the same bits as one never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import random, tree
from metabayfl.aggregators import Combine
from metabayfl.algorithms import side_by_side
from metabayfl.data.federation import Clients, Federation
from metabayfl.engine import cohort, pipeline, tasks
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.pipeline import Pipeline
from metabayfl.engine.sampling import SAMPLERS, Sampler
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
    guards: Tree  # what the pipeline's guards carry from round to round, ``{}`` without any


class RoundInfo(NamedTuple):
    """What happened in one round."""

    round: int  # rounds done, from 1
    loss: float | None  # mean training loss of the cohort's examples, nats; None where clients keep it to themselves
    examples: int
    clients: int
    validation: float | None  # mean loss of the validation clients, in rounds that looked
    seconds: float
    screened: int = 0  # messages that a defence found absurd and left out


def begin(algorithm: Algorithm, options: TrainOptions, seed: int) -> TrainState:
    """The state before the first round."""
    meta = tree.to(algorithm.init(random.fold(random.key(seed), "init")), torch.device(options.device))
    return TrainState(0, algorithm.begin(meta), meta, 0, float("inf"), 0, pipeline.begin(pipeline.build(options), meta))


def rounds(
    algorithm: Algorithm, federation: Federation, options: TrainOptions, seed: int, state: TrainState | None = None
) -> Iterator[tuple[TrainState, RoundInfo]]:
    """Run the rounds that are left and yield ``(state, info)`` after each.

    Args:
        algorithm: the method.
        federation: its training clients give tasks, its validation clients decide which strategy is kept.
        options: see :class:`TrainOptions`.
        seed: decides the start, cohorts, splits and all noise.
        state: where to go on; the beginning if none.

    Raises:
        DivergedError: if the loss is no longer finite; names the round and what to try.
    """
    state = begin(algorithm, options, seed) if state is None else state
    sampler = SAMPLERS[options.sampler](federation.train)
    steps = pipeline.infiltrated(pipeline.build(options), options, federation.train, algorithm.model, seed)
    while algorithm.federated and goes_on(state, options):
        started = time.perf_counter()
        state, aggregate, clients = one_round(algorithm, federation.train, sampler, steps, options, seed, state)
        state, validation = _judge(algorithm, federation, options, seed, state)
        seconds = time.perf_counter() - started
        loss, count = mean_loss(aggregate)
        require_finite(algorithm, loss, state.round)
        screened = int(aggregate.metrics.get("screened", 0))
        yield state, RoundInfo(state.round, loss, count, clients, validation, seconds, screened)


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
    algorithm: Algorithm, clients: Clients, sampler: Sampler, steps: Pipeline, options: TrainOptions, seed: int, state: TrainState
) -> tuple[TrainState, Aggregate, int]:
    """One communication round: sample a cohort, run its clients, combine, step; returns the new state, the aggregate and the cohort's size."""
    positions = sampler(np.random.default_rng([seed, state.round]), options.cohort)
    key = round_key(seed, state.round)
    aggregate = run_cohort(algorithm, steps, state.guards, clients, positions, key, options, state.server.meta)
    return server_step(algorithm, steps, state, aggregate, key), aggregate, len(positions)


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
    """The cohort's aggregate: strategy down as clients decode it, messages in chunks, sums inside each chunk."""
    if not len(positions):
        return nobody(steps.combine, meta)
    seen, steps = cohort.by_columns(algorithm.down.round_trip(meta, None)), pipeline.drawn(steps, key)
    device = torch.device(options.device)
    pays = side_by_side.pays(tree.size(seen), device)
    limit = options.chunk or (cohort.chunk_limit(tree.size(seen)) if pays else 1)
    names = tasks.client_keys(key, clients, positions)
    sizes = np.minimum(clients.sizes[positions], options.task_samples or np.inf).astype(np.int64)
    groups = tasks.chunks(sizes, limit, cohort.call_cost(algorithm.model))
    blocks = (
        tasks.block(clients, positions[rows], names[torch.from_numpy(rows)], options.support_share, device, options.task_samples) for rows in groups
    )
    if options.vectorise and pays and not algorithm.clients and steps.plain and cohort.takes_one_pass(algorithm):
        return steps.combine.finish(cohort.total(cohort.one_pass(algorithm, steps.combine, seen, block) for block in blocks))
    run = cohort.messages if options.vectorise and (pays or algorithm.clients) else cohort.messages_by_loop
    with torch.no_grad():
        poisoned = (pipeline.on_tasks(steps, block, positions[rows], key) for rows, block in zip(groups, blocks, strict=True))
        stacks: Iterable[tuple[Message, Tensor]] = ((run(algorithm, seen, block), block.keys) for block in poisoned)
        if steps.attack is not None or steps.combine.needs == "each":
            messages, keys = pipeline.together(list(stacks), groups)
            stacks = [(pipeline.attacked(steps, messages, positions, key), keys)]
        return gather(steps, guards, stacks)


def gather(steps: Pipeline, guards: Tree, stacks: Iterable[tuple[Message, Tensor]]) -> Aggregate:
    """The aggregate of stacks of decoded messages ``(C,)``, each with its clients' keys ``(C,)``, summed in their order.

    ``steps`` are those of the round, from :func:`metabayfl.engine.pipeline.drawn`.
    """
    return pipeline.combined(steps.combine, (pipeline.on_messages(steps, guards, messages, keys) for messages, keys in stacks))


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
