"""What an attack is, and who carries it out.

Hostile clients are the worst that a defence can be promised to withstand: they know all honest messages of the round and agree among themselves
(omniscient and colluding), and they are the same ones in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.errors import ConfigError
from metabayfl.types import Key, Kind, Message, Task, Tree


class Attack(NamedTuple):
    """What hostile clients change; honest clients' parts come back as they were. ``hostile`` is bool ``(C,)``."""

    name: str
    data: Callable[[Task, Tensor, Key], Task] | None = None  # stacked tasks, hostile, the round's key: before the clients compute
    messages: Callable[[Message, Tensor, Key], Message] | None = None  # stacked messages of the whole cohort: as the server decodes them


class Plan(NamedTuple):
    """What an attack's builder is told."""

    strength: float  # 0: the attack's own
    target: int  # class that a backdoor wants
    kind: Kind
    outputs: int  # K classes or R targets


@dataclass(frozen=True)
class AttackOptions:
    """A population of which some are hostile.

    Attributes:
        name: a name in :data:`metabayfl.attacks.ATTACKS`.
        share: share of the training clients that are hostile, from 0 to 1.
        strength: how strong, in the attack's own measure; 0 for its default.
        target: the class that a backdoor wants.
    """

    name: str
    share: float = 0.2
    strength: float = 0.0
    target: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError(f"share of hostile clients is {self.share}, expected from 0 to 1")
        if self.target < 0:
            raise ConfigError(f"target is {self.target}, expected the number of a class, from 0")


def hostile(ids: Sequence[str], share: float, key: Key) -> Tensor:
    """Which clients are hostile: ``round(share * n)`` of the whole population, chosen by their ids and the key; bool ``(n,)``.

    Example:
        >>> first = hostile(["a", "b", "c", "d", "e"], 0.4, random.key(0))
        >>> int(first.sum()), bool((hostile(["e", "d", "c", "b", "a"], 0.4, random.key(0)) == first.flip(0)).all())
        (2, True)
    """
    lots = random.fold(key, "hostile", torch.tensor([random.digest(name) for name in ids], dtype=torch.int64))
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    chosen[lots.argsort()[: round(share * len(ids))]] = True
    return chosen


def among(which: Tensor, leaf: Tensor) -> Tensor:
    """``which`` ``(C,)`` in a shape that broadcasts over ``leaf`` ``(C, ...)``."""
    return which.view(-1, *[1] * (leaf.ndim - 1))


def replaced(messages: Message, which: Tensor, update: Tree) -> Message:
    """Messages with another update (leaves ``(C, ...)`` or of one client) for the clients in ``which``."""

    def chosen(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(among(which, old), new.to(old.dtype), old)

    return messages._replace(update=tree.map(chosen, messages.update, update))


def boosted(messages: Message, which: Tensor, factor: float) -> Message:
    """Messages whose update is ``factor`` times as large for the clients in ``which``."""
    return replaced(messages, which, tree.scale(messages.update, factor))


def honest_mean(messages: Message, which: Tensor) -> Tree:
    """The plain mean update of the others that have an example; 0 where there is none."""
    honest = (~which & (messages.weight > 0)).to(messages.weight.dtype)

    def mean(leaf: Tensor) -> Tensor:
        total: Tensor = torch.tensordot(honest.to(leaf.dtype), leaf, dims=1)
        return total / honest.sum().clamp(min=1).to(leaf.dtype)

    return tree.map(mean, messages.update)


def honest_spread(messages: Message, which: Tensor) -> Tree:
    """The standard deviation of each number among the others that have an example (``n - 1`` below the line); 0 where there are fewer than two."""
    honest, mean = ~which & (messages.weight > 0), honest_mean(messages, which)
    count = (honest.sum() - 1).clamp(min=1)

    def spread(leaf: Tensor, centre: Tensor) -> Tensor:
        squares = torch.where(among(honest, leaf), (leaf - centre) ** 2, torch.zeros_like(leaf))
        return torch.sqrt(squares.sum(0) / count)

    return tree.map(spread, messages.update, mean)
