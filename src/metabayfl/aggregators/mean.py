"""Means over clients: only sums are needed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.aggregators.combine import Combine
from metabayfl.types import Aggregate, Message, Tree


def _over_clients(weight: Tensor, leaf: Tensor) -> Tensor:
    if len(leaf) == 1:  # a wide model's: a product of a number and a matrix is no matrix product
        return leaf[0] * weight[0].to(leaf.dtype)
    total: Tensor = torch.tensordot(weight.to(leaf.dtype), leaf, dims=1)
    return total


def _mean(name: str, weights: Callable[[Tensor], Tensor]) -> Combine:
    def partial(messages: Message) -> Tree:
        weight = weights(messages.weight)
        update = tree.map(lambda leaf: _over_clients(weight, leaf), messages.update)
        return {"update": update, "weight": weight.sum(), "metrics": {key: value.sum(0) for key, value in messages.metrics.items()}}

    def finish(total: Tree) -> Aggregate:
        weight = torch.clamp(total["weight"], min=1e-12)
        mean = tree.map(lambda leaf: leaf / weight, total["update"])  # not times 1 / weight: that would be rounded to the weight's float32
        return Aggregate(mean, total["weight"], total["metrics"])

    return Combine(name, "sum", weights, partial, finish, linear=True)


def weighted_mean() -> Combine:
    """``sum_c weight_c update_c / sum_c weight_c``: FedAvg's, weight = examples (McMahan et al. 2017, Algorithm 1)."""
    return _mean("examples", lambda examples: examples)


def fixed_mean(count: float) -> Combine:
    """``sum_c update_c / count`` over clients that have an example, whoever came: a client more or less moves it by ``|update_c| / count`` at most.

    That is the sensitivity that differential privacy needs (DP-FedAvg, McMahan et al. 2018, equation 1, the estimator with a fixed denominator).

    Args:
        count: how many clients a round expects, sampling rate times population.
    """
    mean = uniform_mean()

    def finish(total: Tree) -> Aggregate:
        update = tree.map(lambda leaf: leaf / count, total["update"])
        return Aggregate(update, total["weight"], total["metrics"])

    return mean._replace(name="fixed", finish=finish)


def uniform_mean() -> Combine:
    """Every client that has an example counts the same."""
    return _mean("uniform", lambda examples: (examples > 0).to(examples.dtype))
