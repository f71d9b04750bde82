"""A site's part of a training round: the messages of its clients in the cohort, in clear, or as they go into a masked sum."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metabayfl import random, tree_file
from metabayfl.engine import asynchronous, cohort, tasks
from metabayfl.engine.rounds import round_key
from metabayfl.errors import ArtifactError, FederationError
from metabayfl.flower import store
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import Plan, prepared
from metabayfl.flower.records import Record, as_array, record
from metabayfl.flower.site_data import Local, encoded
from metabayfl.study import Run
from metabayfl.types import Key, Message, Tree

log = logging.getLogger(__name__)

DIVERGED = "its training diverged; the site's log says where"


class Asked(NamedTuple):
    """A request, understood."""

    site: Site
    plan: Plan
    local: Local
    request: Record


def run_of(asked: Asked) -> Run:
    """The run that the request's plan describes."""
    return prepared(asked.plan, store.home(asked.site.folder, asked.request.header.experiment))


def strategy_of(asked: Asked, run: Run) -> Tree:
    """The strategy as clients decode it.

    Raises:
        FederationError: if it is damaged or not finite.
    """
    data = asked.request.arrays.get("strategy", torch.zeros(0, dtype=torch.uint8))
    template = run.algorithm.init(random.key(0))
    try:
        meta = run.algorithm.down.decode(data.numpy().tobytes(), template)
        tree_file.require_finite(meta, "the strategy")
    except ArtifactError as error:
        raise FederationError(f"the server's strategy cannot be used: {error}") from error
    return meta


def train(asked: Asked) -> Record:
    """The messages of this site's clients in the cohort; a client whose training fails is left out and named.

    Raises:
        FederationError: if the request cannot be followed, or the plan wants messages to be summed in secret.
    """
    run = run_of(asked)
    if run.options.secure is not None:
        raise FederationError("this federation agreed on secure aggregation: no message leaves this site in clear")
    meta = cohort.by_columns(strategy_of(asked, run))
    done: list[str] = []
    failed: dict[str, str] = {}
    arrays: dict[str, Tensor] = {}
    for name in named(asked):
        try:
            own = _encoded_message(asked, run, meta, name)
        except ArtifactError as error:
            log.error("site %s, client %s in round %d: %s", asked.site.name, name, asked.request.header.round, error)
            failed[name] = DIVERGED
            continue
        arrays |= {f"{len(done)}/{part}": value for part, value in own.items()}
        done.append(name)
    return record(asked.request.header, {"clients": done, "failed": failed}, arrays, {"clients": len(done)})


def named(asked: Asked) -> list[str]:
    """The clients that the request names; all must be this site's.

    Raises:
        FederationError: if they are not.
    """
    wanted, known = asked.request.body.get("cohort"), {member.id for member in asked.local.train}
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted) or len(set(wanted)) != len(wanted):
        raise FederationError("a request to train names no clients, or one of them twice")
    strange = [name for name in wanted if name not in known]
    if strange:
        raise FederationError(f"a request to train names {strange[0]!r}, which is no training client of this site: enrol again")
    return wanted


def _encoded_message(asked: Asked, run: Run, meta: Tree, name: str) -> dict[str, Tensor]:
    message, key = finite_message(asked, run, meta, name)
    update = run.algorithm.up.encode(message.update, cohort.upload_key(key))
    metrics = {f"metrics/{metric}": value for metric, value in message.metrics.items()}
    return {"update": as_array(update), "weight": message.weight, **metrics}


def finite_message(asked: Asked, run: Run, meta: Tree, name: str) -> tuple[Message, Tensor]:
    """:func:`client_message` of the request's round.

    Raises:
        ArtifactError: if a number of it is not finite.
        FederationError: if the request is not one of this plan's.
    """
    message, key = client_message(asked.local, run, meta, name, _key(asked, run))
    tree_file.require_finite({"update": message.update, "weight": message.weight}, f"the message of client {name!r}")
    return message, key


def _key(asked: Asked, run: Run) -> Key:
    """What all randomness of the request comes from: its round, or those asked later for the same step of a server that works without rounds."""
    wave = asked.request.body.get("wave", 0)
    if type(wave) is not int or wave < 0 or (wave and run.options.asynchronous is None):
        raise FederationError(f"a request to train is of wave {wave!r}, which this plan does not have: both ends must run the same metabayfl")
    return asynchronous.randomness(run.seed, asked.request.header.round, wave, round_key(run.seed, asked.request.header.round))[1]


def client_message(local: Local, run: Run, meta: Tree, name: str, key: Key) -> tuple[Message, Tensor]:
    """One client's message under a round's key, before it is encoded, and its own key; the numbers are the engine's, one client at a time."""
    members = [member for member in local.train if member.id == name]
    own, position = encoded(local, run.federation.schema, members), np.zeros(1, np.int64)
    keys = tasks.client_keys(key, own, position)
    block = tasks.block(own, position, keys, run.options.support_share, torch.device("cpu"), run.options.task_samples)
    with torch.no_grad():
        return cohort.one_message(run.algorithm, meta, block, 0), keys[0]
