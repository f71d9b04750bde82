"""What is looked at before messages are combined: numbers that are none, sizes that nobody has, and norms that no honest message has.

What is absurd is decided for each client on its own; :func:`bound_leaves` compares it with the whole cohort
(:mod:`metabayfl.aggregators.comparison` tells who is screened for that).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.aggregators.rows import flat, norms, quarter
from metabayfl.errors import ConfigError
from metabayfl.types import Message, Tree

MOST_PER_EXAMPLE = 1e6
"""No metric of an honest client is larger than this times its examples: a loss of so many nats each."""


def faulty(messages: Message, max_examples: float) -> Tensor:
    """Which clients sent something that no honest one sends: NaN or infinity, a negative or absurd number of examples, an absurd metric.

    Args:
        messages: a stack, leading axis ``C``.
        max_examples: the most examples that a client may claim.

    Returns:
        bool ``(C,)``.
    """
    weight = messages.weight
    fine = torch.isfinite(weight) & (weight >= 0) & (weight <= max_examples)
    for leaf in tree.leaves(messages.update):
        fine = fine & torch.isfinite(flat(leaf)).all(1)
    for value in messages.metrics.values():
        fine = fine & (value.abs() <= MOST_PER_EXAMPLE * weight.clamp(min=1.0))  # false for NaN
    return ~fine


def screen(messages: Message, out: Tensor) -> Message:
    """Messages of which those in ``out``, bool ``(C,)``, say nothing: update, weight and metrics are 0."""

    def kept(leaf: Tensor) -> Tensor:
        return torch.where(out.view(-1, *[1] * (leaf.ndim - 1)), torch.zeros_like(leaf), leaf)

    metrics = {name: kept(value) for name, value in messages.metrics.items()}
    return Message(tree.map(kept, messages.update), kept(messages.weight), metrics)


def _shrunk(leaf: Tensor, norm: Tensor, limit: Tensor | float) -> Tensor:
    """``leaf`` times ``min(1, limit / norm)`` for each client; one of infinite norm becomes 0."""
    factor = torch.clamp(limit / norm.clamp(min=torch.finfo(norm.dtype).tiny), max=1.0)
    return leaf * factor.view(-1, *[1] * (leaf.ndim - 1)).to(leaf.dtype)


def bound_blocks(messages: Message, bounds: Mapping[str, float]) -> Message:
    """Scale each client's top-level blocks down to their bounds.

    Args:
        messages: a stack, leading axis ``C``.
        bounds: norm by the name of a block, in the update's unit; blocks that are not named stay.

    Raises:
        ConfigError: if the update has no such block.
    """
    for name in bounds:
        if name not in messages.update:
            raise ConfigError(f"the strategy has no block {name!r} to bound: its blocks are {', '.join(messages.update)}")

    def bounded(name: str, block: Tree | Tensor) -> Tree | Tensor:
        if name not in bounds:
            return block
        own = block if isinstance(block, dict) else {"": block}
        norm = torch.stack([norms(leaf) for leaf in tree.leaves(own)]).norm(dim=0)
        shrunk = tree.map(lambda leaf: _shrunk(leaf, norm, bounds[name]), own)
        return shrunk if isinstance(block, dict) else shrunk[""]

    return messages._replace(update={name: bounded(name, block) for name, block in messages.update.items()})


def bound_leaves(messages: Message, multiple: float, counted: Tensor) -> Message:
    """Scale each leaf down to ``multiple`` times the lower quartile of the cohort's norms of that leaf.

    The lower quartile and not the median, since a bound can only shrink: most of a cohort may then be hostile before one of them raises it.

    Args:
        messages: a stack of the whole cohort, leading axis ``C``.
        multiple: of the quartile.
        counted: bool ``(C,)``, the clients whose norms the quartile is over: those that have an example and were not screened.
    """

    def bounded(leaf: Tensor) -> Tensor:
        norm = norms(leaf)
        return _shrunk(leaf, norm, multiple * quarter(norm[counted]))

    return messages._replace(update=tree.map(bounded, messages.update)) if counted.any() else messages
