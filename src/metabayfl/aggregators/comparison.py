"""Who differs from the cohort as no honest client does: far larger, turned against the way so far, or a copy of another.

Leaves are of different kinds, and their numbers of different sizes: here every leaf counts alike. It is divided by its usual norm in the cohort, and
in :func:`against` and :func:`copies` none is longer than that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.aggregators.rows import distances, flat, middle, norms, quarter
from metabayfl.types import Message, Tree

TURNED = -0.2
"""Cosine below which a message points against the way so far. Honest clients that are unlike the others lie below 0, up to a fifth of them late in a
training, and leaving them out costs more than a turned client does; 3 % of them lie below this."""


def sizes(messages: Message, counted: Tensor) -> Tensor:
    """How large each message is beside the cohort's: the root mean square, over leaves, of its norm over the median norm; ``(C,)``.

    Leaves whose median norm is 0 do not count.

    A client whose labels are wrong does not fit the strategy, and its gradient is far larger than others': at rounds 30, 100 and 200 of Fashion-MNIST
    over Dirichlet clients, honest ones reached 1.9, 2.4 and 2.7, and those with flipped labels began at 4.8, 22 and 36.

    Args:
        messages: a stack of the whole cohort, leading axis ``C``, finite.
        counted: bool ``(C,)``, the clients that the median is over, at least one.
    """
    norm = torch.stack([norms(leaf) for leaf in tree.leaves(messages.update)], 1)  # (C, leaves)
    usual = middle(norm[counted])
    ratio = torch.where(usual > 0, norm / torch.where(usual > 0, usual, torch.ones_like(usual)), torch.zeros_like(norm))
    return ratio.square().sum(1).div((usual > 0).sum().clamp(min=1)).sqrt()


def against(messages: Message, counted: Tensor, history: Tree) -> Tensor:
    """Which clients' messages point against ``history``, the mean of the last rounds' aggregates; bool ``(C,)``.

    That is: their cosine with it, over all leaves, is below :data:`TURNED`. One round's honest messages disagree so much that a turned one does not
    stand out among ten; the mean of many rounds says where they go. Nobody does where more than half would: then it is history that is wrong.

    Args:
        messages: a stack of the whole cohort, leading axis ``C``, finite.
        counted: bool ``(C,)``, the clients that are compared, at least one.
        history: a tree of one update; zeros before the first round, which nothing is against.
    """
    lengths = _lengths(messages.update, counted)
    way = torch.cat([part.flatten() / length for part, length in zip(tree.leaves(history), lengths, strict=True)])
    found = counted & (torch.cosine_similarity(_balanced(messages.update, lengths), way.unsqueeze(0)) < TURNED)
    return found & bool(2 * found.sum() <= counted.sum())


def copies(messages: Message, counted: Tensor, share: float, most: int) -> Tensor:
    """Which clients' messages are nearly another's: nearer than ``share`` of the cohort's median distance; bool ``(C,)``.

    Clients that agree on what to send move the mean by their whole number in one direction; honest ones, and hostile ones that must not be alike,
    partly cancel. Nobody is a copy where more than ``most`` are: so many may be a kind of honest client.

    Args:
        messages: a stack of the whole cohort, leading axis ``C``, finite.
        counted: bool ``(C,)``, the clients that are compared, at least one.
        share: from 0 to 1.
        most: how many clients may be hostile.
    """
    apart = distances(_balanced(messages.update, _lengths(messages.update, counted)))
    pair = counted & counted.unsqueeze(1) & ~torch.eye(len(apart), dtype=torch.bool, device=apart.device)
    if not pair.any():
        return pair.any(1)
    found = (pair & (apart < share * middle(apart[pair]))).any(1)
    return found & bool(found.sum() <= most)


def _lengths(update: Tree, counted: Tensor) -> list[Tensor]:
    """The usual norm of each leaf: the lower quartile, as of bounds; infinity where a leaf is all zeros, so that it counts for nothing."""
    found = [quarter(norms(leaf)[counted]) for leaf in tree.leaves(update)]
    return [torch.where(length > 0, length, torch.full_like(length, torch.inf)) for length in found]


def _balanced(update: Tree, lengths: list[Tensor]) -> Tensor:
    """Messages as rows ``(C, P)`` in which no leaf is longer than 1."""
    parts = [flat(leaf) / length for leaf, length in zip(tree.leaves(update), lengths, strict=True)]
    return torch.cat([part / part.norm(dim=1, keepdim=True).clamp(min=1.0) for part in parts], 1)
