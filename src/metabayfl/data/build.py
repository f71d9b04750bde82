"""From options to a federation: load, make clients, split, check, fit the schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metabayfl.data.checks import check_features, check_labels, screen
from metabayfl.data.draws import generator, sizes
from metabayfl.data.federation import Federation, Member, clients, fingerprint
from metabayfl.data.fit import fit_schema
from metabayfl.data.options import DataOptions, bounds
from metabayfl.data.partition import Want, dirichlet, iid, shards
from metabayfl.data.pool import kept_rows
from metabayfl.data.raw import Array, Raw, RawArrays, RawTable, count, take
from metabayfl.data.schema import Schema
from metabayfl.data.sources import load
from metabayfl.data.sources.tables import from_frame
from metabayfl.data.split import Groups, choose, testing_member, training_member
from metabayfl.errors import ConfigError, DataError, SchemaError

_SYNTHETIC_TESTS = 100


def build_federation(options: DataOptions, seed: int = 0, *, data: Any = None, base: Path | None = None) -> Federation:
    """The one way to a federation.

    Args:
        options: the ``[data]`` table.
        seed: decides the partition, the split, and the support rows.
        data: rows in memory instead of a file: :class:`RawArrays` (:func:`from_arrays`), :class:`RawTable` or a pandas data frame.
        base: folder that relative paths are looked up from; the working directory unless given.

    Returns:
        Training, validation and held-out clients, disjoint, whose rows are encoded when read; the schema is fitted on training clients alone.

    Raises:
        DataError: if the data cannot become that federation; the message says what to do.
        ConfigError: for options that contradict each other.

    Example:
        >>> options = DataOptions(source="digits", heldout_clients=4, validation_clients=2, support=20)
        >>> federation = build_federation(options, seed=0)
        >>> len(federation.train.ids), federation.schema.input_shape, federation.heldout.support.tolist()
        (8, (1, 8, 8), [20, 20, 20, 20])
        >>> federation.train.read(0)[0].dtype
        dtype('float32')
    """
    raw = _raw(options, data, base or Path.cwd())
    rows = kept_rows(raw.flag, count(raw), options)
    if not len(rows):
        raise DataError(f"{raw.name} has no row to use: is the file empty, or every row flagged?")
    check_features(raw, rows)
    groups, notes = (_natural if options.partition == "natural" else _synthetic)(raw, rows, options, seed)
    others = (*groups.validation, *groups.heldout)
    check_labels(raw, groups.train, others)
    schema = fit_schema(raw, groups.train, options.unseen)
    _check_categories(raw, schema, others)
    name = options.name or raw.name
    train, validation, heldout = (clients(raw, schema, group) for group in groups)
    return Federation(name, train, validation, heldout, schema, fingerprint(raw, groups), (*raw.notes, *notes))


def _raw(options: DataOptions, data: Any, base: Path) -> Raw:
    if data is None:
        return load(options, base)
    return data if isinstance(data, RawArrays | RawTable) else from_frame(data, options, "table")


def _natural(raw: Raw, rows: Array, options: DataOptions, seed: int) -> tuple[Groups, tuple[str, ...]]:
    if raw.client is None:
        known = f" Its columns: {', '.join(raw.columns)}." if isinstance(raw, RawTable) else ""
        raise DataError(f"{raw.name} has no client column: set client, or partition to 'iid', 'dirichlet' or 'shards' for synthetic clients.{known}")
    codes = raw.client.codes[rows]
    missing = int(np.sum(codes < 0))
    if missing:
        raise DataError(f"{raw.name}: {missing} of {len(rows)} rows have no client. Leave these rows out or name their client.")
    by_client = np.split(rows[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes, minlength=len(raw.client.names)))[:-1])
    given = {name: own for name, own in zip(raw.client.names, by_client, strict=True) if len(own)}
    kept, notes = screen(given, raw, min_samples=options.min_samples, min_classes=options.min_classes, drop=options.drop_small_clients)
    ids = choose(list(kept), _flagged(raw, kept, options), options, seed)
    train = tuple(training_member(name, kept[name], options, seed) for name in ids.train)
    tests = (tuple(testing_member(name, kept[name], options, seed) for name in group) for group in (ids.validation, ids.heldout))
    return Groups(train, *tests), notes


def _flagged(raw: Raw, groups: dict[str, Array], options: DataOptions) -> list[str]:
    """Clients that are to be held out because their rows carry the flag."""
    if raw.flag is None or options.flag_use != "heldout":
        return []
    mixed = [name for name, rows in groups.items() if len(np.unique(raw.flag[rows])) > 1]
    if mixed:
        raise DataError(
            f"flag {options.flag!r} is true in some rows and false in others of {len(mixed)} clients, such as {mixed[0]!r}; "
            "with flag_use = 'heldout' a client is held out whole. Set flag_use to 'exclude' or 'only'."
        )
    return [name for name, rows in groups.items() if raw.flag[rows[0]]]


def _synthetic(raw: Raw, rows: Array, options: DataOptions, seed: int) -> tuple[Groups, tuple[str, ...]]:
    """Deal the pool out; the first clients are for training, the next for validation, the last held out."""
    train, validation, heldout = _numbers(options)
    rng = generator(seed, "partition")
    own = sizes(train, *options.samples, options.size_law, options.size_skew, rng)
    smallest, largest = _support_bounds(options)
    support = rng.integers(smallest, largest + 1, validation + heldout)
    wants = [Want(int(n), 0) for n in own] + [Want(int(n), options.test_samples or _SYNTHETIC_TESTS) for n in support]
    dealt = _deal(raw, rows, wants, options, rng)
    digits = len(str(len(wants) - 1))
    members = [Member(f"client-{i:0{digits}d}", rows[part], want.support) for i, (part, want) in enumerate(zip(dealt, wants, strict=True))]
    smallest_classes = min(options.min_classes, bounds(options.classes_per_client)[0]) if options.partition == "shards" else options.min_classes
    screen({member.id: member.rows for member in members}, raw, min_samples=1, min_classes=smallest_classes, drop=False)
    return Groups(tuple(members[:train]), tuple(members[train : train + validation]), tuple(members[train + validation :])), ()


def _numbers(options: DataOptions) -> tuple[int, int, int]:
    train = options.train_clients
    fifth = max(1, round(train / 5))
    given = (train, *(fifth if value is None else value for value in (options.validation_clients, options.heldout_clients)))
    if not train or any(isinstance(value, float) for value in given):
        raise ConfigError(
            f"data.train_clients, validation_clients, heldout_clients = {given}: "
            "synthetic partitions need numbers of clients, with at least one to train."
        )
    return int(given[0]), int(given[1]), int(given[2])


def _support_bounds(options: DataOptions) -> tuple[int, int]:
    if isinstance(options.support, float):
        raise ConfigError(f"data.support = {options.support}: synthetic clients need a number of rows, or [smallest, largest]")
    return bounds(options.support)


def _deal(raw: Raw, rows: Array, wants: Sequence[Want], options: DataOptions, rng: np.random.Generator) -> list[Array]:
    if options.partition == "iid":
        return iid(len(rows), wants, rng)
    if raw.y.kind == "regression":
        raise DataError(f"partition {options.partition!r} deals out classes, but {raw.name} has a regression target: use 'iid' or 'natural'.")
    present, codes = np.unique(raw.y.values[rows], return_inverse=True)
    names = [raw.y.labels[code] for code in present]
    if options.partition == "dirichlet":
        return dirichlet(codes, names, wants, options.alpha, rng, min_classes=options.min_classes)
    return shards(codes, names, wants, bounds(options.classes_per_client), rng)


def _check_categories(raw: Raw, schema: Schema, members: Sequence[Member]) -> None:
    """Where unknown categories are an error, find them now and not in the middle of a run."""
    if isinstance(raw, RawArrays) or all(feature.unseen or feature.kind == "numeric" for feature in schema.features):
        return
    for member in members:
        try:
            schema.encode(take(raw, member.rows), scale_limit=np.inf)
        except SchemaError as error:
            raise DataError(f"client {member.id!r}: {error} Set unseen = 'column' to allow it.") from error
