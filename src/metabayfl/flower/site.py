"""What a site does with a request: a function of its file, its folder and the request alone.

A request that comes again gets the reply that was given, from the disk. What goes wrong is told to the site's own log in full; the server hears only
what kind of thing it was, since messages about data quote them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metabayfl.config import train_options
from metabayfl.data.fit import deviations, survey
from metabayfl.engine.rounds import validation_key
from metabayfl.errors import DataError, FederationError, MetabayflError, SchemaError, StorageError
from metabayfl.evaluation.validation import validation_sums
from metabayfl.flower import agreement, delivery, records, site_secure, store
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import Plan, understood
from metabayfl.flower.records import SECURE, Header, Record, record, refusal
from metabayfl.flower.site_data import Local, check_schema, encoded, read
from metabayfl.flower.site_training import Asked, run_of, strategy_of, train

log = logging.getLogger(__name__)

_KEPT = ("train",)
"""Phases that are answered once: the same request again gets the same reply. The others only look at the site's file, or write the same again."""


def answer(site: Site, request: Record) -> Record:
    """The reply to one request: the one on the disk, a new one, or a refusal; never an exception for what can go wrong in use."""
    try:
        return _answer(site, request)
    except MetabayflError as error:
        log.error("site %s, %s of round %d: %s", site.name, request.header.phase, request.header.round, error)
        return refusal(request.header, *_told(error))


def _answer(site: Site, request: Record) -> Record:
    agreed = _understood(request)
    if site.secure_only and train_options(agreed.config, agreed.algorithm).secure is None:
        raise FederationError(
            f"site {site.name!r} takes part under secure aggregation alone (--secure-only), and the plan has none: set [train.secure]"
        )
    if request.header.phase in SECURE:
        return site_secure.answer(site, request, lambda: _asked(site, agreed, request))
    digest = records.digest(request)
    kept = store.kept_reply(site.folder, request.header, digest, _behind(agreed)) if request.header.phase in _KEPT else None
    if kept is not None:
        return kept
    reply = _ANSWERS[request.header.phase](_asked(site, agreed, request))
    if request.header.phase in _KEPT:
        store.keep_reply(site.folder, digest, reply)
    return reply


def _behind(agreed: Plan) -> int:
    """How much older than the newest a request may be: a server that was killed may have lost a round, and one without rounds repeats older ones."""
    options = train_options(agreed.config, agreed.algorithm).asynchronous
    return 1 if options is None else options.max_staleness + 1


def _asked(site: Site, agreed: Plan, request: Record) -> Asked:
    local = read(site, agreed)
    for note in local.notes:
        log.info("site %s: %s", site.name, note)
    return Asked(site, agreed, local, request)


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
    if header.phase not in records.PHASES or header.round < 0:
        raise FederationError(f"a request of phase {header.phase!r} in round {header.round}: this site knows {', '.join(records.PHASES)}")
    agreed, experiment = understood(request.body.get("plan"))
    if header.experiment != experiment:
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
    run, local = run_of(asked), asked.local
    check_schema(local, run.federation.schema)
    groups = (("train", local.train), ("validation", local.validation))
    others = {member.id for _, members in groups for member in members}
    rows = [[member.id, name, len(member.rows)] for name, members in groups for member in members]
    rows += [[member.id, "heldout", len(member.rows)] for member in local.everyone if member.id not in others]
    return record(asked.request.header, {"site": asked.site.name, "clients": rows}, counts={"clients": len(rows)})


def _evaluate(asked: Asked) -> Record:
    """Summed loss of the validation clients and the number of samples."""
    run = run_of(asked)
    own = encoded(asked.local, run.federation.schema, asked.local.validation)
    loss, samples = validation_sums(run.algorithm, strategy_of(asked, run), own, validation_key(run.seed)) if own.ids else (0.0, 0.0)
    sums = {"loss": torch.tensor(loss, dtype=torch.float64), "samples": torch.tensor(samples, dtype=torch.float64)}
    return record(asked.request.header, {}, sums, {"clients": len(own.ids)})


def _personalize(asked: Asked) -> Record:
    """Write the strategy, and every client's own model and report; only their number goes back."""
    data = asked.request.arrays.get("strategy", torch.zeros(0, dtype=torch.uint8))
    folder = store.home(asked.site.folder, asked.request.header.experiment)
    written = delivery.deliver(folder, data.numpy().tobytes(), asked.plan, asked.local, lambda name: _client_folder(asked, name))
    store.forget_secrets(asked.site.folder, asked.request.header.experiment)
    return record(asked.request.header, {}, counts={"clients": written})


def _client_folder(asked: Asked, name: str) -> Path:
    return store.client_home(asked.site.folder, asked.request.header.experiment, name)


_ANSWERS: dict[str, Callable[[Asked], Record]] = {
    "survey": _survey,
    "deviate": _deviate,
    "enrol": _enrol,
    "train": train,
    "evaluate": _evaluate,
    "personalize": _personalize,
}
