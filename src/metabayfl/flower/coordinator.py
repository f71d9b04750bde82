"""The server's own loop: agree, enrol, train round by round with a checkpoint after each, and deliver; from wherever it was stopped.

``OUT`` holds ``plan.json``, ``registry.json``, ``checkpoint.safetensors``, ``metrics.jsonl``, ``status.json`` and in the end ``strategy.safetensors``
and ``delivered.json``. All are replaced atomically, and what was done is never done twice: a round that was cut off is asked for again, and sites
that had answered it give the same replies. Under secure aggregation ``secure_round.safetensors`` holds the round that is under way.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from metabayfl import storage
from metabayfl.artifact import Strategy
from metabayfl.engine import asynchronous, pipeline, private
from metabayfl.engine import job as engine_job
from metabayfl.engine.pipeline import Pipeline
from metabayfl.engine.rounds import TrainState, goes_on, judged, looks, mean_loss, require_finite, round_key, server_step, unjudged
from metabayfl.errors import ArtifactError, ConfigError, FederationError
from metabayfl.flower import agreeing, closing, registry, round_secure
from metabayfl.flower import round as one_round
from metabayfl.flower.acceptance import template
from metabayfl.flower.members import Members
from metabayfl.flower.network import Patience, Transport
from metabayfl.flower.plan import Plan, experiment, from_json, prepared, to_json
from metabayfl.flower.records import Header, record
from metabayfl.flower.registry import Registry
from metabayfl.flower.round import Gathered, Round, Setting
from metabayfl.flower.round_secure import Secret
from metabayfl.flower.stream import Stream
from metabayfl.flower.telling import STATUS, STRATEGY
from metabayfl.study import identity, versions

log = logging.getLogger(__name__)

PLAN, REGISTRY = "plan.json", "registry.json"


@dataclass(frozen=True)
class Options:
    """What the server asks of a federation.

    Attributes:
        sites: fewest sites to begin with; all that will come, where a run is to be repeated to the bit.
        quorum: fewest clients whose messages make a round.
        retries: how often the missing sites of a round with fewer are asked once more before the run stops.
        patience: how long to wait for sites.
    """

    sites: int = 2
    quorum: int = 1
    retries: int = 2
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        for name, least in (("sites", 1), ("quorum", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected {least} or more")


class Job(NamedTuple):
    """One run of a server."""

    plan: Plan
    out: Path
    options: Options


class Info(NamedTuple):
    """What happened in one round."""

    round: int  # rounds done, from 1
    loss: float | None  # mean training loss of the cohort's examples, nats
    examples: int
    clients: int  # whose messages came; the planned cohort under privacy, where how many came is as private as who
    validation: float | None  # mean loss of the validation clients, in rounds that looked
    seconds: float
    screened: int  # messages that a defence left out
    clipped: int  # updates that were cut to the public range of secure aggregation
    skipped: dict[str, str]  # clients without a message, and why; under privacy in the server's log alone
    staleness: float = 0.0  # mean number of the server's steps that messages were behind


class Outcome(NamedTuple):
    """The end of a run."""

    strategy: Strategy
    rounds: int
    delivered: list[str]  # sites that have written their clients' models
    failed: dict[str, str]  # sites that have not, and why


def federate(job: Job, transport: Transport) -> Generator[tuple[TrainState, Info], None, Outcome]:
    """Run the federation, or go on with it; yields after every round.

    Raises:
        FederationError: if too few sites or clients answered in time; the checkpoint is kept.
        ArtifactError: if ``job.out`` belongs to another run.
        StorageError: if a checkpoint cannot be written; the one before it stays.
    """
    try:
        outcome = yield from _federate(job, transport)
    except BaseException as error:
        _status(job, "stopped", reason=str(error) or type(error).__name__, interrupted=not isinstance(error, Exception))
        raise
    _status(job, "done", delivered=outcome.delivered, failed=outcome.failed, rounds=outcome.rounds)
    return outcome


def _federate(job: Job, transport: Transport) -> Generator[tuple[TrainState, Info], None, Outcome]:
    _status(job, "waiting for sites")
    members, setting = opened(job, transport)
    run = setting.run
    start = engine_job.restore(job.out, run.algorithm, run.options, run.seed, identity(run))
    state = start
    _status(job, "training", round=start.round, rounds=run.options.rounds)
    for state, info in engine_job.record(job.out, start, rounds(job, setting, members, start), 1, identity(run)):
        _status(job, "training", round=state.round, rounds=run.options.rounds, skipped=info.skipped)
        yield state, info
    round_secure.forget(job.out)  # also where the server was killed right after the last checkpoint
    _status(job, "delivering", round=state.round, rounds=run.options.rounds)
    return deliver(job, setting, members, state)


def opened(job: Job, transport: Transport) -> tuple[Members, Setting]:
    """The enrolled sites, and the agreed plan as every round needs it.

    Raises:
        FederationError: if too few sites come in time, or cannot agree.
    """
    agreed = _agreed(job, transport)
    run = prepared(agreed, job.out)
    if run.options.device != "cpu":
        raise ConfigError(f"train.device is {run.options.device!r}: a server only sums, and sites compute where they are; leave it at 'cpu'")
    digest = experiment(agreed)
    request = record(Header(digest, "enrol", 0), {"plan": to_json(agreed)})
    members = Members(transport, request, registry.load(job.out / REGISTRY))
    members.assemble(job.options.sites, job.options.patience)
    registry.save(job.out / REGISTRY, members.registry)
    population = len(registry.training(members.registry).ids)
    if population < job.options.quorum:
        raise FederationError(
            f"{population} training clients are enrolled, but a round needs {job.options.quorum}: lower the quorum, or wait for more sites"
        )
    return members, Setting(run, to_json(agreed), digest, template(run), job.options.quorum, job.options.retries)


def _agreed(job: Job, transport: Transport) -> Plan:
    path = job.out / PLAN
    if path.exists():
        kept = from_json(storage.read_json(path))
        if job.plan not in (kept._replace(run=""), kept._replace(run="", schema=None)):
            raise ArtifactError(f"{path} is another plan (config, algorithm, seed or schema): choose another --out, or delete it to start anew")
        return kept
    fresh = job.plan._replace(run=secrets.token_hex(8))
    agreed = fresh if fresh.schema is not None else agreeing.complete(fresh, transport, job.options.sites, job.options.patience)
    storage.write_json(path, to_json(agreed))
    return agreed


def rounds(job: Job, setting: Setting, members: Members, state: TrainState) -> Iterator[tuple[TrainState, Info]]:
    """The rounds that are left."""
    run, options = setting.run, setting.run.options
    clients = len(registry.training(members.registry).ids)
    steps = private.guarded(pipeline.build(options), options, clients, state.server.meta)
    secret = None if options.secure is None else round_secure.secret_of(setting, steps, clients, state, job.out)
    stream = None if options.asynchronous is None else Stream(setting, members, job.options.patience, state)
    permit = private.permit(job.out, options, clients, state.server.meta, identity(run), done=state.round)
    while run.algorithm.federated and goes_on(state, options) and permit(state.round):
        started = time.perf_counter()
        members.refresh(job.options.patience)
        registry.save(job.out / REGISTRY, members.registry)
        if stream is None:
            phases = _phases(setting, steps, secret, members.registry, state)
            gathered = one_round.drive(phases, lambda ask: members.exchange(ask, job.options.patience))
        else:
            gathered, state = stream.buffer(steps, state)
        state = server_step(run.algorithm, steps, state, gathered.aggregate, round_key(run.seed, state.round))
        state = state if stream is None else state._replace(flights=asynchronous.publish(state.flights, state.round, state.server.meta))
        state, validation, unseen = _judge(job, setting, members, state)
        yield state, _info(setting, state, gathered, validation, time.perf_counter() - started, {**gathered.skipped, **unseen})
        round_secure.forget(job.out)


def _phases(setting: Setting, steps: Pipeline, secret: Secret | None, known: Registry, state: TrainState) -> Round:
    if secret is not None:
        return round_secure.in_secret(secret, known, state)
    return one_round.in_clear(setting, steps, known, one_round.draw(setting.run, known, state.round), state)


def _info(setting: Setting, state: TrainState, gathered: Gathered, validation: float | None, seconds: float, skipped: dict[str, str]) -> Info:
    """What may be told of a round."""
    aggregate = gathered.aggregate
    loss, examples = mean_loss(aggregate)
    require_finite(setting.run.algorithm, loss, state.round)
    for name, reason in skipped.items():
        log.warning("round %d, %s: %s", state.round, name, reason)
    screened, clipped = (int(aggregate.metrics.get(name, 0)) for name in ("screened", "clipped"))
    secret = setting.run.options.privacy is not None
    clients = setting.run.options.cohort if secret else gathered.clients
    return Info(state.round, loss, examples, clients, validation, seconds, screened, clipped, {} if secret else skipped, gathered.staleness)


def _judge(job: Job, setting: Setting, members: Members, state: TrainState) -> tuple[TrainState, float | None, dict[str, str]]:
    """Keep the best strategy on the validation clients, as the engine does; a look that a site misses is left out."""
    options = setting.run.options
    if not options.validate_every or not registry.sites(members.registry, "validation"):
        return unjudged(state), None, {}
    if not looks(options, state.round):
        return state, None, {}
    loss, missing = closing.validate(setting, members, state, job.options.patience)
    return (state if loss is None else judged(state, loss)), loss, missing


def deliver(job: Job, setting: Setting, members: Members, state: TrainState) -> Outcome:
    """Ship the strategy: to the disk here, and to every site that has not confirmed it yet."""
    shipped = state if state.best_round else unjudged(state)
    strategy = _strategy(setting, members, shipped)
    strategy.save(job.out / STRATEGY)
    delivered, failed = closing.deliver(job.out, setting, members, strategy, job.options.patience)
    return Outcome(strategy, state.round, delivered, failed)


def _strategy(setting: Setting, members: Members, state: TrainState) -> Strategy:
    run = setting.run
    training = [client for client in members.registry.values() if client.role == "train"]
    return Strategy(
        spec=run.spec,
        meta=state.best,
        schema=run.federation.schema.to_json(),
        provenance={
            "data": run.federation.name,
            "experiment": setting.experiment,
            "sites": len(registry.sites(members.registry)),
            "training_clients": len(training),
            "seed": run.seed,
            "rounds": state.round,
            "best_round": state.best_round,
            "versions": versions(),
        },
        figures={"validation_loss": state.best_loss} if state.best_loss != float("inf") else {},
        codec=run.algorithm.down.name,
    )


def _status(job: Job, stage: str, **facts: object) -> None:
    storage.write_json(job.out / STATUS, {"stage": stage, "experiment": job.plan.config.name, **facts, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
