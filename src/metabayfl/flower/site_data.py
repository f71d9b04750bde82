"""A site's own file as clients: read by the plan's options, cut into clients, and split into rows for training and rows to judge by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabayfl.data import Clients, DataOptions, RawArrays, Schema
from metabayfl.data.checks import check_features, screen
from metabayfl.data.draws import generator
from metabayfl.data.federation import Member, clients
from metabayfl.data.pool import kept_rows
from metabayfl.data.raw import Array, Labels, Raw, count, take
from metabayfl.data.sources import SOURCES, load
from metabayfl.data.split import testing_member, training_member
from metabayfl.errors import DataError, SchemaError
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import Plan, kept_out, role


class Local(NamedTuple):
    """A site's clients, before anything is encoded."""

    raw: Raw
    train: tuple[Member, ...]  # the rows that take part in training
    validation: tuple[Member, ...]  # support rows first
    everyone: tuple[Member, ...]  # all clients whatever their role, their own test rows last
    notes: tuple[str, ...]  # what was left out


def read(site: Site, agreed: Plan) -> Local:
    """The site's clients as the plan sees them.

    Raises:
        DataError: if the file cannot be read so, or no client has rows enough.
    """
    options = agreed.config.data
    raw = _raw(site, options)
    rows = kept_rows(raw.flag, count(raw), options)
    if not len(rows):
        raise DataError(f"{site.data} has no row to use: is the file empty, or every row flagged?")
    check_features(raw, rows)
    kept, notes = screen(_by_client(raw, rows), raw, min_samples=max(options.min_samples, 2), min_classes=options.min_classes, drop=True)
    if not kept:
        raise DataError(f"{site.data} has no client with {options.min_samples} rows of {options.min_classes} classes: {'; '.join(notes)}")
    train, others = [name for name in kept if role(options, name) == "train"], [name for name in kept if role(options, name) != "train"]
    own = {name: _training(name, kept[name], agreed) for name in train}
    tests = {name: testing_member(name, kept[name], options, agreed.seed) for name in others}
    fit = tuple(Member(name, own[name].rows[: own[name].support], own[name].support) for name in train)
    validation = tuple(tests[name] for name in others if role(options, name) == "validation")
    return Local(raw, fit, validation, tuple({**own, **tests}[name] for name in kept), (*raw.notes, *notes))


def _raw(site: Site, options: DataOptions) -> Raw:
    if not site.data.is_file():
        raise DataError(f"there is no file {site.data}: check the site's --data")
    source = site.data.suffix.removeprefix(".") if site.data.suffix in (".csv", ".parquet", ".npz") else options.source
    if source not in ("csv", "parquet", "npz") or source not in SOURCES:
        raise DataError(f"{site.data} ends in {site.data.suffix!r} and the config's source is {source!r}: sites read csv, parquet and npz files")
    own: dict[str, Any] = {"client": site.client_column, "client_per_file": source != "npz" and not site.client_column, "client_names": (site.name,)}
    raw = load(dataclasses.replace(options, source=source, path=str(site.data.resolve()), **own), Path.cwd())
    return raw if raw.client is not None else raw._replace(client=Labels(np.zeros(count(raw), np.int64), (site.name,)))


def _by_client(raw: Raw, rows: Array) -> dict[str, Array]:
    assert raw.client is not None, "every reader above names the clients"
    codes = raw.client.codes[rows]
    if (codes < 0).any():
        raise DataError(f"{raw.name}: {int((codes < 0).sum())} of {len(rows)} rows have no client. Leave these rows out or name their client.")
    return {name: rows[codes == code] for code, name in enumerate(raw.client.names) if (codes == code).any()}


def _training(name: str, rows: Array, agreed: Plan) -> Member:
    """A training client with its own test rows last; they never take part in training."""
    member = training_member(name, rows, agreed.config.data, agreed.seed)
    out = kept_out(agreed.test_share, len(member.rows), max(agreed.config.data.min_samples, 2))
    chosen = np.zeros(len(member.rows), bool)
    chosen[generator(agreed.seed, "own test", name).permutation(len(member.rows))[:out]] = True
    return Member(name, np.concatenate([member.rows[~chosen], member.rows[chosen]]), len(member.rows) - out)


def encoded(local: Local, schema: Schema, members: Sequence[Member]) -> Clients:
    """Some of the clients, in the order of their ids."""
    return clients(local.raw, schema, members)


def check_schema(local: Local, schema: Schema) -> None:
    """Refuse a file whose rows are something else than what the federation agreed on.

    Raises:
        SchemaError: names the feature or the target, what was given and what is expected.
    """
    raw = local.raw
    if raw.y.kind != schema.kind or (schema.form == "array") != isinstance(raw, RawArrays):
        given = f"{raw.y.kind} on {'arrays' if isinstance(raw, RawArrays) else 'a table'}"
        raise SchemaError(
            f"{raw.name} is a {given}, but the federation agreed on {schema.kind} on a {schema.form}: set kind and source in the config"
        )
    for member in local.everyone:
        schema.encode(take(raw, member.rows))
        schema.encode_targets(raw_targets(raw, member.rows))


def raw_targets(raw: Raw, rows: Array) -> Array:
    """Class names ``(n,)``, or numbers in their own unit ``(n, R)``."""
    return np.array(raw.y.labels, dtype=object)[raw.y.values[rows]] if raw.y.kind == "classification" else raw.y.values[rows]
