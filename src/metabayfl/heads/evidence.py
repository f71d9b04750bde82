"""Shrinkage by evidence: how far a client trusts the strategy's prior is decided on the client, by its own leave-one-out likelihood.

Over a small grid of factors (u, v) on the prior's two strengths, each posterior is weighted by the softmax of its summed leave-one-out log
predictive on the support, and the predictives are mixed. No bytes and no training; it repairs a strategy that meets another population than it was
trained on. A grid of one point is the plain head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.heads.head import Head
from metabayfl.types import Key, RegressionPrediction, Tree

Out = TypeVar("Out")


def grid(u: Sequence[float], v: Sequence[float], like: Tensor) -> Tree:
    """All pairs as ``{"u": (G,), "v": (G,)}``, in the type and on the device of ``like``."""
    pairs = torch.tensor([(one, other) for one in u for other in v], dtype=like.dtype, device=like.device)
    return {"u": pairs[:, 0], "v": pairs[:, 1]}


def weigh(head: Head, prior: Tree, statistics: Tree, memory: Tree, points: Tree) -> Tree:
    """The evidence ``{"u": (G,), "v": (G,), "weight": (G,)}`` of the grid points on a client's memory, each sample as its weight says.

    Without a single sample there is no evidence, and the points nearest to the strategy as it was trained (u = v = 1) share the weight.
    """

    def total(u: Tensor, v: Tensor) -> Tensor:
        return torch.sum(head.leave_one_out(head.scaled(prior, u, v), statistics, memory) * memory["mask"])

    evidence = torch.func.vmap(total)(points["u"], points["v"])
    distance = torch.log(points["u"]) ** 2 + torch.log(points["v"]) ** 2
    nearest = torch.where(distance <= distance.min(), 0.0, -torch.inf).to(evidence.dtype)
    return {**points, "weight": torch.softmax(torch.where(memory["mask"].sum() > 0, evidence, nearest), 0)}


def over(evidence: Tree, fn: Callable[[Tensor, Tensor], Out]) -> Out:
    """``fn(u, v)`` at every grid point, stacked along a leading axis ``G``."""
    out: Out = torch.func.vmap(fn)(evidence["u"], evidence["v"])
    return out


def draw(evidence: Tree, samples: int, key: Key) -> tuple[Tensor, Tensor]:
    """``S`` grid points ``(u, v)`` drawn by weight; systematic (one uniform, evenly spaced), so that the shares are as even as they can be."""
    weight = evidence["weight"]
    steps = torch.arange(samples, dtype=weight.dtype, device=weight.device)
    at = (steps + random.uniform(key, (), weight.dtype)) / samples
    index = (torch.cumsum(weight, 0) < at.unsqueeze(-1)).sum(-1).clamp(max=len(weight) - 1)
    return torch.index_select(evidence["u"], 0, index), torch.index_select(evidence["v"], 0, index)


def mix_classes(weight: Tensor, log_probs: Tensor) -> Tensor:
    """Mixed class probabilities ``(N, K)`` of predictives ``(G, N, K)``."""
    mixed: Tensor = (weight.unsqueeze(0) @ log_probs.exp().flatten(1)).view(log_probs.shape[1:])  # tensordot's product without its Python
    return mixed


def mix_students(weight: Tensor, each: RegressionPrediction) -> RegressionPrediction:
    """One Student-t with the mean and the variance of a mixture of Student-t of equal degrees of freedom, fields ``(G, N, R)``.

    The components' disagreement about the mean counts as epistemic: more samples would settle it.
    """

    def average(values: Tensor) -> Tensor:
        mixed: Tensor = torch.tensordot(weight, values, dims=1)
        return mixed

    mean, aleatoric = average(each.mean), average(each.aleatoric)
    epistemic = average(each.epistemic + (each.mean - mean) ** 2)
    total, dof = aleatoric + epistemic, average(each.dof)
    return RegressionPrediction(mean, torch.sqrt(total * (dof - 2.0) / dof), dof, total, aleatoric, epistemic)
