"""What a site does with a request: a function of its file, its folder and the request alone.

A request that comes again gets the reply that was given, from the disk. What goes wrong is told to the site's own log in full; the server hears only
what kind of thing it was, since messages about data quote them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metabayfl import random, tree_file
from metabayfl.data.fit import deviations, survey
from metabayfl.engine import cohort, tasks
from metabayfl.engine.rounds import round_key, validation_key
from metabayfl.errors import ArtifactError, DataError, FederationError, MetabayflError, SchemaError, StorageError
from metabayfl.evaluation.validation import validation_sums
from metabayfl.flower import agreement, delivery, records, store
from metabayfl.flower.plan import Plan, experiment, from_json, prepared
from metabayfl.flower.records import Header, Record, record, refusal
from metabayfl.flower.site_data import Local, Site, check_schema, encoded, read
from metabayfl.study import Run
from metabayfl.types import Message, Tree

log = logging.getLogger(__name__)

_KEPT = ("train",)
"""Phases that are answered once: the same request again gets the same reply. The others only look at the site's file, or write the same again."""


class Asked(NamedTuple):
    """A request, understood."""

    site: Site
    plan: Plan
    local: Local
    request: Record


def answer(site: Site, request: Record) -> Record:
    """The reply to one request: the one on the disk, a new one, or a refusal; never an exception for what can go wrong in use."""
    try:
        return _answer(site, request)
    except MetabayflError as error:
        log.error("site %s, %s of round %d: %s", site.name, request.header.phase, request.header.round, error)
        return refusal(request.header, *_told(error))


def _answer(site: Site, request: Record) -> Record:
    agreed = _understood(request)
    digest = records.digest(request)
    kept = store.kept_reply(site.folder, request.header, digest) if request.header.phase in _KEPT else None
    if kept is not None:
        return kept
    local = read(site, agreed)
    for note in local.notes:
        log.info("site %s: %s", site.name, note)
    reply = _ANSWERS[request.header.phase](Asked(site, agreed, local, request))
    if request.header.phase in _KEPT:
        store.keep_reply(site.folder, digest, reply)
    return reply


def _understood(request: Record) -> Plan:
    """The plan that the request carries.

    Raises:
        FederationError: for another version of metabayfl, or a request that contradicts itself.
    """
    header = request.header
    own = Header("", "", 0)
    if (header.protocol, header.version) != (own.protocol, own.version):
        raise FederationError(
            f"the server runs metabayfl {header.version} (protocol {header.protocol}), this site {own.version} ({own.protocol}): install the same"
        )
    if header.phase not in _ANSWERS or header.round < 0:
        raise FederationError(f"a request of phase {header.phase!r} in round {header.round}: this site knows {', '.join(_ANSWERS)}")
    agreed = from_json(request.body.get("plan"))
    if header.experiment != experiment(agreed):
        raise FederationError("a request is headed by another experiment than its plan's: both ends must run the same metabayfl")
    return agreed


_TOLD: tuple[tuple[type[MetabayflError], str, str], ...] = (
    (StorageError, "storage", "the site could not write to its disk; its log says where"),
    (SchemaError, "data", "the site's data do not fit the federation's schema; its log says what differs"),
    (DataError, "data", "the site's data cannot be used with this plan; its log says why"),
)


def _told(error: MetabayflError) -> tuple[str, str]:
    """What the server may hear of an error: only those about messages hold nothing of the site's data."""
    if isinstance(error, FederationError):
        return "request", str(error)
    return next(((code, text) for kind, code, text in _TOLD if isinstance(error, kind)), ("site", "the site could not answer; its log says why"))


def _survey(asked: Asked) -> Record:
    if not asked.local.train:
        return record(asked.request.header, {"site": asked.site.name, "rows": 0})
    body, arrays = agreement.survey_message(survey(asked.local.raw, _training_rows(asked.local)))
    return record(asked.request.header, {"site": asked.site.name, **body}, arrays)


def _training_rows(local: Local) -> Any:
    return np.concatenate([member.rows for member in local.train])


def _deviate(asked: Asked) -> Record:
    about = agreement.read_centres(asked.request.arrays)
    return record(asked.request.header, {}, agreement.deviation_message(deviations(asked.local.raw, _training_rows(asked.local), about)))


def _enrol(asked: Asked) -> Record:
    """Who is here and with how many samples, once the data were seen to fit."""
    run, local = _run(asked), asked.local
    check_schema(local, run.federation.schema)
    groups = (("train", local.train), ("validation", local.validation))
    others = {member.id for _, members in groups for member in members}
    rows = [[member.id, name, len(member.rows)] for name, members in groups for member in members]
    rows += [[member.id, "heldout", len(member.rows)] for member in local.everyone if member.id not in others]
    return record(asked.request.header, {"site": asked.site.name, "clients": rows}, counts={"clients": len(rows)})


def _run(asked: Asked) -> Run:
    return prepared(asked.plan, store.home(asked.site.folder, asked.request.header.experiment))


def _strategy(asked: Asked, run: Run) -> Tree:
    """The strategy as clients decode it."""
    data = asked.request.arrays.get("strategy", torch.zeros(0, dtype=torch.uint8))
    template = run.algorithm.init(random.key(0))
    try:
        meta = run.algorithm.down.decode(data.numpy().tobytes(), template)
        tree_file.require_finite(meta, "the strategy")
    except ArtifactError as error:
        raise FederationError(f"the server's strategy cannot be used: {error}") from error
    return meta


def _train(asked: Asked) -> Record:
    """The messages of this site's clients in the cohort; a client whose training fails is left out and named."""
    run = _run(asked)
    meta = cohort.by_columns(_strategy(asked, run))
    done: list[str] = []
    failed: dict[str, str] = {}
    arrays: dict[str, Tensor] = {}
    for name in _named(asked):
        try:
            own = _encoded_message(asked, run, meta, name)
        except ArtifactError as error:
            log.error("site %s, client %s in round %d: %s", asked.site.name, name, asked.request.header.round, error)
            failed[name] = "its training diverged; the site's log says where"
            continue
        arrays |= {f"{len(done)}/{part}": value for part, value in own.items()}
        done.append(name)
    return record(asked.request.header, {"clients": done, "failed": failed}, arrays, {"clients": len(done)})


def _named(asked: Asked) -> list[str]:
    """The clients that the request names; all must be this site's."""
    wanted, known = asked.request.body.get("cohort"), {member.id for member in asked.local.train}
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted) or len(set(wanted)) != len(wanted):
        raise FederationError("a request to train names no clients, or one of them twice")
    strange = [name for name in wanted if name not in known]
    if strange:
        raise FederationError(f"a request to train names {strange[0]!r}, which is no training client of this site: enrol again")
    return wanted


def _encoded_message(asked: Asked, run: Run, meta: Tree, name: str) -> dict[str, Tensor]:
    message, key = client_message(asked.local, run, meta, name, asked.request.header.round)
    tree_file.require_finite({"update": message.update, "weight": message.weight}, f"the message of client {name!r}")
    update = run.algorithm.up.encode(message.update, cohort.upload_key(key))
    metrics = {f"metrics/{metric}": value for metric, value in message.metrics.items()}
    return {"update": torch.frombuffer(bytearray(update), dtype=torch.uint8), "weight": message.weight, **metrics}


def client_message(local: Local, run: Run, meta: Tree, name: str, number: int) -> tuple[Message, Tensor]:
    """One client's message of a round, before it is encoded, and its key; the numbers are the engine's, one client at a time."""
    members = [member for member in local.train if member.id == name]
    own, position = encoded(local, run.federation.schema, members), np.zeros(1, np.int64)
    keys = tasks.client_keys(round_key(run.seed, number), own, position)
    block = tasks.block(own, position, keys, run.options.support_share, torch.device("cpu"), run.options.task_samples)
    with torch.no_grad():
        return cohort.one_message(run.algorithm, meta, block, 0), keys[0]


def _evaluate(asked: Asked) -> Record:
    """Summed loss of the validation clients and the number of samples."""
    run = _run(asked)
    own = encoded(asked.local, run.federation.schema, asked.local.validation)
    loss, samples = validation_sums(run.algorithm, _strategy(asked, run), own, validation_key(run.seed)) if own.ids else (0.0, 0.0)
    sums = {"loss": torch.tensor(loss, dtype=torch.float64), "samples": torch.tensor(samples, dtype=torch.float64)}
    return record(asked.request.header, {}, sums, {"clients": len(own.ids)})


def _personalize(asked: Asked) -> Record:
    """Write the strategy, and every client's own model and report; only their number goes back."""
    data = asked.request.arrays.get("strategy", torch.zeros(0, dtype=torch.uint8))
    folder = store.home(asked.site.folder, asked.request.header.experiment)
    written = delivery.deliver(folder, data.numpy().tobytes(), asked.plan, asked.local, lambda name: _client_folder(asked, name))
    return record(asked.request.header, {}, counts={"clients": written})


def _client_folder(asked: Asked, name: str) -> Path:
    return store.client_home(asked.site.folder, asked.request.header.experiment, name)


_ANSWERS: dict[str, Callable[[Asked], Record]] = dict(zip(records.PHASES, (_survey, _deviate, _enrol, _train, _evaluate, _personalize), strict=True))
