"""All numbers of a client as one row, so that distances and orders are over the whole message."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.types import Tree


def rows(update: Tree) -> Tensor:
    """A stack of updates as a matrix ``(C, P)``; in float64 if a leaf is, else in float32.

    Example:
        >>> rows({"w": torch.ones(3, 2, 2), "b": torch.zeros(3)}).shape
        torch.Size([3, 5])
    """
    leaves = tree.leaves(update)
    kind = torch.float64 if any(leaf.dtype == torch.float64 for leaf in leaves) else torch.float32
    return torch.cat([flat(leaf).to(kind) for leaf in leaves], 1)


def flat(leaf: Tensor) -> Tensor:
    """A leaf of the stack, ``(C, ...)`` or ``(C,)``, as a matrix."""
    return leaf.reshape(len(leaf), -1)


def one(row: Tensor, stack: Tree) -> Tree:
    """A row ``(P,)`` as the update of one client, in the shapes and types of ``stack``, whose leaves have the clients' axis."""
    leaves = tree.leaves(stack)
    parts = row.split_with_sizes([leaf[0].numel() for leaf in leaves])
    return tree.like(stack, [part.view(leaf.shape[1:]).to(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)])


def middle(values: Tensor) -> Tensor:
    """The median along the first axis; of an even number the mean of the two in the middle."""
    ordered, count = values.sort(0).values, len(values)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def norms(leaf: Tensor) -> Tensor:
    """The Euclidean norm of each client's part of a leaf, ``(C,)``."""
    out: Tensor = flat(leaf).norm(dim=1)
    return out


def quarter(values: Tensor) -> Tensor:
    """The lower quartile of those above 0 in ``(C,)``, one of the values; 0 where there is none.

    Example:
        >>> quarter(torch.tensor([9.0, 0.0, 2.0, 4.0, 3.0, 8.0])), quarter(torch.zeros(3))
        (tensor(3.), tensor(0.))
    """
    ordered = values[values > 0].sort().values
    return ordered[(len(ordered) - 1) // 4] if len(ordered) else values.new_zeros(())


def distances(matrix: Tensor) -> Tensor:
    """Euclidean distances between all rows, ``(C, C)``: from differences, since squares of a far row would swallow those of the near ones."""
    return torch.cdist(matrix, matrix, compute_mode="donot_use_mm_for_euclid_dist")
