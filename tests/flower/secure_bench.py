"""One round under secure aggregation between a server and sites that are called directly, with whatever may go wrong on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hospitals import config

from metabayfl.data import Schema
from metabayfl.engine import pipeline, private
from metabayfl.engine.rounds import TrainState, begin
from metabayfl.flower import registry, round_secure, site, store
from metabayfl.flower.acceptance import template
from metabayfl.flower.network import Ask, Replies
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import experiment, plan, prepared, to_json
from metabayfl.flower.records import Record
from metabayfl.flower.registry import Registry
from metabayfl.flower.round import Gathered, Setting, drive
from metabayfl.flower.round_secure import FILE, Secret, secret_of
from metabayfl.flower.site_secure import Seat
from metabayfl.privacy.secure_aggregation import ServerState, server
from metabayfl.privacy.secure_aggregation import records as states
from metabayfl.tree_file import load_tree

EXTRA = "secure.clip = 5.0\nsecure.dropouts = 0.3"

GeometricMedian = EXTRA + '\ndefence.combine = "geometric_median"\ndefence.smoothing = 1e-3'

Answer = Callable[[str, Record], Record]
"""A site's name and a request -> its reply; raises ``Killed`` where nothing comes back."""


class Killed(BaseException):
    """A process is gone."""


class Bench(NamedTuple):
    """A server and its sites between two rounds."""

    secret: Secret
    registry: Registry
    state: TrainState
    sites: dict[str, Site]

    @property
    def experiment(self) -> str:
        return self.secret.setting.experiment


def bench(folder: Path, sites: list[Site], schema: Schema, extra: str = EXTRA, **options: int) -> Bench:
    """A bench over the four hospitals that train."""
    agreed = plan(config(folder, algorithm="fedavg", extra=extra), "fedavg", 0, 0.0, schema)
    run, there = prepared(agreed, folder), {own.name: own for own in sites if own.name in ("h0", "h1", "h2", "h3")}
    known: Registry = {}
    for name in there:
        known = registry.with_site(known, name, [registry.Client(name, name, "train", 14)])
    state = begin(run.algorithm, run.options, 0)
    steps = private.guarded(pipeline.build(run.options), run.options, len(known), state.server.meta)
    given = {"quorum": 1, "retries": 0} | options
    setting = Setting(run, to_json(agreed), experiment(agreed), template(run), **given)
    return Bench(secret_of(setting, steps, len(known), state, folder / "server"), known, state, there)


def straight(on: Bench, name: str, request: Record) -> Record:
    return site.answer(on.sites[name], request)


def play(on: Bench, answer: Answer | None = None, drop: Mapping[str, Set[str]] | None = None, seen: list[Record] | None = None) -> Gathered:
    """A round, or what is left of one.

    Args:
        on: the bench.
        answer: in the place of the sites' own answers.
        drop: by phase, sites that do not answer it.
        seen: takes every record that travels.
    """
    ask = partial(straight, on) if answer is None else answer

    def exchange(wanted: Ask) -> Replies:
        found, failed = dict[str, Record](), dict[str, str]()
        for name, request in wanted.requests.items():
            if name in (drop or {}).get(request.header.phase, set()):
                failed[name] = "no reply"
                continue
            found[name] = ask(name, request)
            if seen is not None:
                seen.extend([request, found[name]])
        return Replies(found, failed)

    return drive(round_secure.in_secret(on.secret, on.registry, on.state), exchange)


def kept(on: Bench) -> ServerState:
    """The server's state of the protocol on its disk."""
    return server.from_bytes(load_tree(on.secret.out / FILE, kind="secure round")[0]["protocol"].numpy().tobytes())


def seat(on: Bench, name: str) -> Seat:
    """What a site has on its disk."""
    return states.from_bytes(Seat, store.seat_path(on.sites[name].folder, on.experiment).read_bytes())


def sealed(message: Record) -> bytes:
    """The protocol's own message in a record."""
    return message.arrays["message"].numpy().tobytes()
