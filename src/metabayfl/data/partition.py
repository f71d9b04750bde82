"""Synthetic clients: rows of one pool dealt out without using any twice.

iid; Dirichlet class proportions (Hsu, Qi, Brown 2019, arXiv 1909.06335, section 2); a few classes a client ("shards", after McMahan et al.
2017, section 3). A client's test rows follow the same class proportions as its support rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metabayfl.data.raw import Array
from metabayfl.errors import DataError

_TRIES = 1000
_ADVICE = "Take fewer clients, smaller samples or test_samples, or more rows (max_rows)."


class Want(NamedTuple):
    """How many rows a client is to get."""

    support: int
    test: int


class _Share(NamedTuple):
    """How many rows of each class a client is to get, each ``(K,)``."""

    support: Array
    test: Array


def iid(rows: int, wants: Sequence[Want], rng: np.random.Generator) -> list[Array]:
    """Rows at random.

    Args:
        rows: size of the pool.
        wants: one per client.

    Returns:
        Per client its positions in the pool, support first.

    Raises:
        DataError: if the pool is too small.
    """
    ends = np.cumsum([want.support + want.test for want in wants])
    if ends[-1] > rows:
        raise DataError(f"the pool is too small: {len(wants)} clients want {ends[-1]} rows, it has {rows}. {_ADVICE}")
    return np.split(rng.permutation(rows)[: ends[-1]], ends[:-1])


def dirichlet(
    codes: Array, names: Sequence[str], wants: Sequence[Want], alpha: float, rng: np.random.Generator, *, min_classes: int = 1
) -> list[Array]:
    """Class proportions ``p ~ Dirichlet(alpha, ..., alpha)`` per client, its rows multinomial with ``p``.

    Args:
        codes: ``(N,)`` class of each row of the pool.
        names: of the ``K`` classes.
        wants: one per client.
        alpha: concentration.
        min_classes: proportions whose support draw has fewer classes are drawn again.

    Raises:
        DataError: if a class runs out, or proportions with ``min_classes`` classes are too rare.
    """

    def share(want: Want) -> _Share:
        for _ in range(_TRIES):
            p = rng.dirichlet(np.full(len(names), alpha))
            support = rng.multinomial(want.support, p)
            if np.count_nonzero(support) >= min_classes:
                return _Share(support, rng.multinomial(want.test, p))
        given = f"{_TRIES} draws with alpha = {alpha} gave no client of {want.support} rows with {min_classes} classes"
        raise DataError(f"{given}: raise alpha or samples, or lower min_classes.")

    return _deal(codes, names, [share(want) for want in wants], rng)


def shards(codes: Array, names: Sequence[str], wants: Sequence[Want], per_client: tuple[int, int], rng: np.random.Generator) -> list[Array]:
    """``k`` classes a client, ``k`` uniform on ``per_client``, the classes at random and in equal parts (the remainder at random).

    Raises:
        DataError: if a class runs out or there are fewer classes than a client is to have.
    """
    smallest, largest = per_client
    if largest > len(names):
        raise DataError(f"classes_per_client = {largest}, but the pool has {len(names)} classes: {', '.join(names)}.")

    def share(want: Want) -> _Share:
        chosen = rng.permutation(len(names))[: rng.integers(smallest, largest + 1)]
        return _Share(_evenly(want.support, chosen, len(names), rng), _evenly(want.test, chosen, len(names), rng))

    return _deal(codes, names, [share(want) for want in wants], rng)


def _evenly(rows: int, chosen: Array, classes: int, rng: np.random.Generator) -> Array:
    out = np.zeros(classes, dtype=np.int64)
    out[chosen] = rows // len(chosen)
    out[rng.permutation(chosen)[: rows % len(chosen)]] += 1
    return out


def _deal(codes: Array, names: Sequence[str], shares: Sequence[_Share], rng: np.random.Generator) -> list[Array]:
    queues = [rng.permutation(np.flatnonzero(codes == k)) for k in range(len(names))]
    used = np.zeros(len(names), dtype=np.int64)
    out = []
    for client, share in enumerate(shares):
        middle, end = used + share.support, used + share.support + share.test
        _check_left(client, end - used, used, queues, names)
        parts = [[queue[a:b] for queue, a, b in zip(queues, start, stop, strict=True)] for start, stop in ((used, middle), (middle, end))]
        out.append(np.concatenate([rng.permutation(np.concatenate(part)) for part in parts]))
        used = end
    return out


def _check_left(client: int, wanted: Array, used: Array, queues: Sequence[Array], names: Sequence[str]) -> None:
    for name, queue, more, start in zip(names, queues, wanted, used, strict=True):
        if more > len(queue) - start:
            left = len(queue) - start
            raise DataError(f"the pool is too small: client {client} wants {more} rows of class {name!r}, {left} of {len(queue)} are left. {_ADVICE}")
