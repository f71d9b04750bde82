"""From clients of any size to padded, masked blocks that one vectorised call takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import random
from metabayfl.data.federation import Clients
from metabayfl.types import Batch, Key, Task, Tree


class Group(NamedTuple):
    """Clients that are treated alike: a whole cohort, or those of a buffer that are equally stale."""

    meta: Tree  # the strategy that they start from
    positions: NDArray[np.int64]  # (C,)
    keys: Tensor  # (C,)
    claim: float = 1.0  # number of examples that each claims, over the true one
    scale: float = 1.0  # what their updates are multiplied by when they arrive


class Block(NamedTuple):
    """Some clients of a cohort, padded to one shape: every tensor has a leading axis ``C``."""

    tasks: Task
    keys: Tensor  # (C,) the clients' keys of this round


def client_keys(key: Key, clients: Clients, positions: NDArray[np.int64]) -> Tensor:
    """A key per client from its id, never from its place in the cohort; shape ``(C,)``."""
    return random.fold(key, "client", names([clients.ids[position] for position in positions]).to(key.device))


def names(ids: Sequence[str]) -> Tensor:
    """The numbers that stand for clients' names, int64 ``(C,)``."""
    return torch.tensor([random.digest(id) for id in ids], dtype=torch.int64)


def support_sizes(sizes: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """How many of ``sizes`` samples are support: at least one on either side where a client has two or more.

    Example:
        >>> support_sizes(np.array([1, 2, 10]), 0.5).tolist()
        [1, 1, 5]
    """
    return np.where(sizes < 2, sizes, np.clip(np.rint(share * sizes), 1, np.maximum(sizes - 1, 1))).astype(np.int64)


def chunks(sizes: NDArray[np.int64], limit: int, call: int = 60) -> list[NDArray[np.int64]]:
    """Indices in chunks of like size, of at most ``limit`` clients each, for the least padded rows plus ``call`` rows for every chunk.

    Such chunks are runs of the clients in order of size, so the best cuts follow one client at a time from those of the larger ones. Single
    clients, which have no padding, keep their order, so that anyone can repeat their sum to the bit.

    Example:
        >>> [part.tolist() for part in chunks(np.array([20, 130, 114, 60, 5]), 100)]
        [[1, 2], [3], [0, 4]]
    """
    if limit == 1:
        return list(np.arange(len(sizes)).reshape(-1, 1))
    order = np.argsort(-sizes, kind="stable")
    ordered, count = sizes[order], len(order)
    # clients of one size stay together unless the limit parts them, so that only these places may be cuts
    places = np.append(np.union1d(np.flatnonzero(np.diff(ordered, prepend=-1)), np.arange(0, count, 1 if count > limit else count or 1)), count)
    heads, firsts = ordered[places[:-1]], np.searchsorted(places, places - limit)  # the first of a run is its largest
    cost, cut = np.zeros(len(places)), np.zeros(len(places), dtype=np.int64)
    for end in range(1, len(places)):
        run = slice(firsts[end], end)
        costs = cost[run] + heads[run] * (places[end] - places[run])
        cut[end] = firsts[end] + costs.argmin()
        cost[end] = costs.min() + call
    ends = [len(places) - 1]
    while ends[-1] > 0:
        ends.append(int(cut[ends[-1]]))
    return [order[places[begin] : places[end]] for end, begin in reversed(list(itertools.pairwise(ends)))]


def block(clients: Clients, positions: NDArray[np.int64], keys: Tensor, support_share: float, device: torch.device, most: int = 0) -> Block:
    """Read these clients, shuffle each by its key, take ``most`` samples (0: all), split them into support and query, pad and stack.

    The samples and the split are drawn anew every round, since the key holds the round.
    """
    data = [clients.read(int(position)) for position in positions]
    sizes = np.array([len(y) for _, y in data])
    orders = [order[: most or None] for order in _orders(keys, sizes)]
    supports = support_sizes(np.array([len(order) for order in orders]), support_share)
    near = [order[:cut] for order, cut in zip(orders, supports, strict=True)]
    far = [order[cut:] for order, cut in zip(orders, supports, strict=True)]
    first = np.cumsum(sizes) - sizes
    columns = [np.concatenate(column) for column in zip(*data, strict=True)]
    return Block(Task(_pad(columns, first, near, device), _pad(columns, first, far, device)), keys.to(device))


def _orders(keys: Tensor, sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    mask = torch.arange(int(sizes.max())) < torch.from_numpy(sizes).unsqueeze(1)
    shuffled = random.permutation(random.fold(keys.cpu(), "split"), mask)
    return [order[:size] for order, size in zip(shuffled.numpy(), sizes, strict=True)]


def _pad(columns: list[NDArray[np.generic]], first: NDArray[np.int64], rows: list[NDArray[np.int64]], device: torch.device) -> Batch:
    """The chosen rows of every client, whose own begin at ``first`` in the columns, and zeros after them."""
    sizes = np.array([len(index) for index in rows])
    real = np.arange(sizes.max()) < sizes[:, None]
    places = np.repeat(first, sizes) + np.concatenate(rows)
    x, y = (_spread(column[places], real) for column in columns)
    return Batch(*(torch.from_numpy(array).to(device) for array in (x, y, real.astype(np.float32))))


def _spread(rows: NDArray[np.generic], real: NDArray[np.bool_]) -> NDArray[np.generic]:
    """``rows`` where ``real`` is true, zeros elsewhere."""
    out = np.zeros((*real.shape, *rows.shape[1:]), rows.dtype)
    out[real] = rows
    return out
