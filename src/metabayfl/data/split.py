"""Which clients are for training, validation and held out, and which rows of a client it adapts on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metabayfl.data.draws import generator
from metabayfl.data.federation import Member
from metabayfl.data.options import DataOptions, bounds
from metabayfl.data.raw import Array
from metabayfl.errors import DataError

_DEFAULT_SHARE = 0.15


class Groups(NamedTuple):
    """Three disjoint groups."""

    train: tuple[Member, ...]
    validation: tuple[Member, ...]
    heldout: tuple[Member, ...]


class _Ids(NamedTuple):
    train: list[str]
    validation: list[str]
    heldout: list[str]


def choose(ids: Sequence[str], flagged: Sequence[str], options: DataOptions, seed: int) -> _Ids:
    """Natural clients to groups: named ones first, flagged ones held out, the others at random.

    Args:
        ids: all clients, in order.
        flagged: those whose rows carry the flag, where that means held out.
        options: the split.
        seed: decides the random part.

    Raises:
        DataError: for an unknown name, a client in two groups, or more clients wanted than there are.
    """
    fixed_heldout, fixed_validation = _named(ids, [*options.heldout_ids, *flagged], options.validation_ids)
    order = [str(name) for name in generator(seed, "split").permutation(np.array(ids, dtype=object))]
    free = [name for name in order if name not in fixed_heldout | fixed_validation]
    heldout = _group(order, fixed_heldout, free, options.heldout_clients, len(ids), "heldout_clients")
    free = [name for name in free if name not in heldout]
    validation = _group(order, fixed_validation, free, options.validation_clients, len(ids), "validation_clients")
    free = [name for name in free if name not in validation]
    train = free[: _wanted(options.train_clients, len(ids))] if options.train_clients else free
    if not train or (options.train_clients and len(train) < _wanted(options.train_clients, len(ids))):
        raise _too_few(len(ids), options, len(validation), len(heldout))
    place = {name: i for i, name in enumerate(ids)}
    return _Ids(*(sorted(group, key=place.__getitem__) for group in (train, validation, heldout)))


def _named(ids: Sequence[str], heldout: Sequence[str], validation: Sequence[str]) -> tuple[set[str], set[str]]:
    known = set(ids)
    for name in (*heldout, *validation):
        if name not in known:
            near = difflib.get_close_matches(name, ids, n=3, cutoff=0.5) or list(ids)[:10]
            raise DataError(f"the split names client {name!r}, but it is not among the {len(ids)} clients, such as {', '.join(near)}.")
    both = set(heldout) & set(validation)
    if both:
        raise DataError(f"clients in both validation and held-out groups: {', '.join(sorted(both))}. Name each in one of them.")
    return set(heldout), set(validation)


def _group(order: list[str], fixed: set[str], free: list[str], wanted: int | float | None, total: int, what: str) -> list[str]:
    """The clients of one group: the fixed ones, cut to a number that was asked for, or else the first free ones."""
    pool = [name for name in order if name in fixed] if fixed else free
    number = len(pool) if fixed and wanted is None else _wanted(_DEFAULT_SHARE if wanted is None else wanted, total)
    if number > len(pool):
        named = "named or flagged for it" if fixed else "left"
        raise DataError(f"{what} wants {number} clients, but only {len(pool)} of {total} are {named}. Want fewer, or bring more clients.")
    return pool[:number]


def _wanted(value: int | float, total: int) -> int:
    """A share of the clients is at least one of them."""
    return value if isinstance(value, int) else max(1, round(value * total))


def _too_few(total: int, options: DataOptions, validation: int, heldout: int) -> DataError:
    train = options.train_clients or "at least one"
    return DataError(
        f"the split wants {train} training, {validation} validation and {heldout} held-out clients, but there are {total} clients. "
        "Want fewer, or bring more clients."
    )


def training_member(name: str, rows: Array, options: DataOptions, seed: int) -> Member:
    """A training client: all rows, or ``max_samples`` of them at random in their order."""
    kept = _some(rows, options.max_samples or len(rows), generator(seed, "rows", name))
    return Member(name, kept, len(kept))


def testing_member(name: str, rows: Array, options: DataOptions, seed: int) -> Member:
    """A validation or held-out client: support rows first, then its test rows.

    Raises:
        DataError: if no row would be left to test on.
    """
    rng = generator(seed, "rows", name)
    shuffled = rows if options.support_order == "first" else rng.permutation(rows)
    support = _support(options, len(rows), rng)
    if support >= len(rows):
        raise DataError(
            f"client {name!r} has {len(rows)} rows, but {support} of them are to be support and at least one is to be tested: "
            f"lower support, or drop such clients with drop_small_clients = true and min_samples = {support + 1}."
        )
    caps = (options.test_samples, max(1, options.max_samples - support) if options.max_samples else 0, len(rows))
    most = min(value for value in caps if value)
    return Member(name, np.concatenate([shuffled[:support], _some(shuffled[support:], most, rng)]), support)


def _support(options: DataOptions, rows: int, rng: np.random.Generator) -> int:
    """How many support rows; of a range, what leaves a test row."""
    if isinstance(options.support, float):
        return min(max(1, round(options.support * rows)), rows - 1)
    smallest, largest = bounds(options.support)
    drawn = int(rng.integers(smallest, largest + 1))
    return min(drawn, max(smallest, rows - 1))


def _some(rows: Array, most: int, rng: np.random.Generator) -> Array:
    """At most ``most`` rows at random, in their order."""
    return rows if len(rows) <= most else rows[np.sort(rng.permutation(len(rows))[:most])]
