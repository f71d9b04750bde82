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
from metabayfl.aggregators import COMBINES, Combine
from metabayfl.algorithms import side_by_side
from metabayfl.data.federation import Clients, Federation
from metabayfl.engine import cohort, tasks
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.sampling import SAMPLERS, Sampler
from metabayfl.errors import MetabayflError
from metabayfl.evaluation.validation import validation_loss
from metabayfl.types import Aggregate, Algorithm, Key, ServerState, Tree


class TrainState(NamedTuple):
    """All that must be saved to go on: the server's state, and the best strategy on the validation clients so far."""

    round: int  # rounds done
    server: ServerState
    best: Tree  # the strategy to ship
    best_round: int
    best_loss: float  # nats on the validation clients; inf before the first look
    stalled: int  # looks since the best one


class RoundInfo(NamedTuple):
    """What happened in one round."""

    round: int  # rounds done, from 1
    loss: float  # mean training loss of the cohort's examples, nats
    examples: int
    clients: int
    validation: float | None  # mean loss of the validation clients, in rounds that looked
    seconds: float


def begin(algorithm: Algorithm, seed: int, device: torch.device | str = "cpu") -> TrainState:
    """The state before the first round."""
    meta = tree.to(algorithm.init(random.fold(random.key(seed), "init")), torch.device(device))
    return TrainState(0, algorithm.begin(meta), meta, 0, float("inf"), 0)


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
        MetabayflError: if the loss is no longer finite; names the round and what to try.
    """
    device = torch.device(options.device)
    state = begin(algorithm, seed, device) if state is None else state
    sampler = SAMPLERS[options.sampler](federation.train)
    while algorithm.federated and state.round < options.rounds and not _exhausted(state, options):
        started = time.perf_counter()
        server, aggregate, clients = one_round(algorithm, federation.train, sampler, options, seed, state.round, state.server)
        state, validation = _judge(algorithm, federation, options, seed, state._replace(round=state.round + 1, server=server))
        seconds = time.perf_counter() - started
        count = float(aggregate.metrics["examples"])
        loss = float(aggregate.metrics["loss"]) / max(count, 1.0)
        if not np.isfinite(loss):
            raise MetabayflError(f"the training loss of {algorithm.name} is {loss} in round {state.round}: lower its learning rates")
        yield state, RoundInfo(state.round, loss, int(count), clients, validation, seconds)


def one_round(
    algorithm: Algorithm, clients: Clients, sampler: Sampler, options: TrainOptions, seed: int, number: int, server: ServerState
) -> tuple[ServerState, Aggregate, int]:
    """One communication round: sample a cohort, run its clients, combine, step; returns the new state, the aggregate and the cohort's size."""
    positions = sampler(np.random.default_rng([seed, number]), options.cohort)
    key = random.fold(random.key(seed), "round", number)
    aggregate = run_cohort(algorithm, COMBINES[options.weighting](), clients, positions, key, options, server.meta)
    return algorithm.server(server, aggregate), aggregate, len(positions)


def run_cohort(
    algorithm: Algorithm,
    combine: Combine,
    clients: Clients,
    positions: NDArray[np.int64],
    key: Key,
    options: TrainOptions,
    meta: Tree,
) -> Aggregate:
    """The cohort's aggregate: strategy down as clients decode it, messages in chunks, sums inside each chunk."""
    seen = cohort.by_columns(algorithm.down.round_trip(meta, None))
    device = torch.device(options.device)
    pays = side_by_side.pays(tree.size(seen), device)
    limit = options.chunk or (cohort.chunk_limit(tree.size(seen)) if pays else 1)
    names = tasks.client_keys(key, clients, positions)
    sizes = np.minimum(clients.sizes[positions], options.task_samples or np.inf).astype(np.int64)
    blocks = (
        tasks.block(clients, positions[rows], names[torch.from_numpy(rows)], options.support_share, device, options.task_samples)
        for rows in tasks.chunks(sizes, limit, cohort.call_cost(algorithm.model))
    )
    if options.vectorise and pays and not algorithm.clients and cohort.takes_one_pass(algorithm, combine):
        return combine.finish(cohort.total(cohort.one_pass(algorithm, combine, seen, block) for block in blocks))
    run = cohort.messages if options.vectorise and (pays or algorithm.clients) else cohort.messages_by_loop
    with torch.no_grad():
        if combine.needs == "sum":
            return combine.finish(cohort.total(combine.partial(run(algorithm, seen, block)) for block in blocks))
        return combine.finish(combine.partial(cohort.concatenate([run(algorithm, seen, block) for block in blocks])))


def _exhausted(state: TrainState, options: TrainOptions) -> bool:
    return 0 < options.patience <= state.stalled


def _judge(algorithm: Algorithm, federation: Federation, options: TrainOptions, seed: int, state: TrainState) -> tuple[TrainState, float | None]:
    """Keep the best strategy on the validation clients; without a look, the newest is the best."""
    if not options.validate_every or not len(federation.validation.ids):
        return state._replace(best=state.server.meta, best_round=state.round), None
    if state.round % options.validate_every and state.round != options.rounds:
        return state, None
    key = random.fold(random.key(seed), "validation")
    loss = validation_loss(algorithm, state.server.meta, federation.validation, key)
    if loss < state.best_loss:
        return state._replace(best=state.server.meta, best_round=state.round, best_loss=loss, stalled=0), loss
    return state._replace(stalled=state.stalled + 1), loss
