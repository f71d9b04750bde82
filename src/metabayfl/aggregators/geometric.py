"""The geometric median, the point of least summed distance to all rows, by the smoothed Weiszfeld algorithm.

Pass ``k`` weighs row ``x_c`` by ``b_c = 1 / max(|x_c - z|, smoothing)`` and moves to ``z + sum_c b_c (x_c - z) / sum_c b_c`` (Pillutla, Kakade,
Harchaoui 2022, "Robust aggregation for federated learning", algorithm 2). Every pass needs two sums over clients, so it composes with secure
aggregation; and what a client adds to them, ``b_c (x_c - z)`` and ``b_c``, has a norm of at most 1 and ``1 / smoothing``, whatever it sent.

The first pass is around zero, where no client has said anything: so a far message counts little from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.aggregators.combine import Combine
from metabayfl.aggregators.rows import one, rows
from metabayfl.errors import ConfigError
from metabayfl.types import Aggregate, Message, Tree

PASSES, SMOOTHING = 8, 1e-6


def _pull(matrix: Tensor, centre: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The two terms of every row: ``b (x - z)``, ``(C, P)``, and ``b``, ``(C,)``."""
    away = matrix - centre
    factor = 1.0 / away.norm(dim=1).clamp(min=smoothing)
    return factor.unsqueeze(1) * away, factor


def geometric_median(matrix: Tensor, hostile: int, passes: int = PASSES, smoothing: float = SMOOTHING) -> Tensor:
    """The geometric median after so many passes.

    Args:
        matrix: ``(C, P)``.
        hostile: how many rows may be hostile; the geometric median needs no such number.
        passes: Weiszfeld's passes.
        smoothing: distances below it count as this.

    Returns:
        ``(P,)``.
    """
    centre = torch.zeros_like(matrix[0])
    for _ in range(passes):
        pulls, factors = _pull(matrix, centre, smoothing)
        centre = centre + pulls.sum(0) / factors.sum()
    return centre


def by_sums(weights: Callable[[Tensor], Tensor], passes: int = PASSES, smoothing: float = SMOOTHING, centre: Tree | None = None) -> Combine:
    """The geometric median as a combine of ``passes`` passes over sums; ``around`` gives each next one.

    Args:
        weights: ``(C,)`` examples -> ``(C,)`` how much each client counts: its distance counts so many times.
        passes: how many passes over the clients.
        smoothing: distances below it count as this; not far below the rounding of the updates.
        centre: what the pass before found; zero if none.

    Raises:
        ConfigError: if ``passes`` or ``smoothing`` is out of range.
    """
    if passes < 1 or smoothing <= 0:
        raise ConfigError(f"the geometric median was given {passes} passes and smoothing {smoothing}, expected 1 or more and above 0")

    def partial(messages: Message) -> Tree:
        weight, matrix = weights(messages.weight), rows(messages.update)
        found = torch.zeros_like(matrix[0]) if centre is None else rows(tree.map(lambda leaf: leaf.unsqueeze(0), centre))[0]
        pulls, factors = _pull(matrix, found, smoothing)
        share = weight.to(matrix.dtype)
        metrics = {name: value.sum(0) for name, value in messages.metrics.items()}
        return {"update": one(share @ pulls, messages.update), "pull": share @ factors, "weight": weight.sum(), "metrics": metrics}

    def finish(total: Tree) -> Aggregate:
        sums: Tensor = total["pull" if "pull" in total else "weight"]  # an empty cohort has none
        pull = torch.clamp(sums, min=torch.finfo(sums.dtype).tiny)
        step = tree.map(lambda leaf: leaf / pull.to(leaf.dtype), total["update"])
        return Aggregate(step if centre is None else tree.add(centre, step), total["weight"], total["metrics"])

    def around(found: Tree) -> Combine:
        return by_sums(weights, passes, smoothing, found)

    return Combine("geometric_median", "sum", weights, partial, finish, passes, around)
