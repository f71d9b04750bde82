"""Server optimisers as pairs of pure functions, and what an algorithm needs of them.

FedOpt (Reddi et al. 2021, arXiv 2003.00295, Algorithm 2) treats the cohort's mean pseudo-gradient as the gradient of a server optimiser; its
momenta live across rounds. Updates follow the paper: no bias correction in FedAdam, FedYogi and FedAdagrad, ``tau`` outside the root.
:func:`adam` is Kingma and Ba's with bias correction, for meta-gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.types import Aggregate, ServerState, Tree

Schedule = Callable[[Tensor], Tensor | float]
"""Round number (shape ``()``, from 0) to a factor on the rate."""

Rate = float | Mapping[str, float]
"""One rate, or one per top-level block of the tree (every block must be named)."""


class Optimizer(NamedTuple):
    """``init(params) -> state`` and ``update(gradient, state) -> (step, state)``; the server subtracts the step. States are trees."""

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree], tuple[Tree, Tree]]


def constant(step: Tensor) -> float:
    """No schedule."""
    return 1.0


def linear_tail(rounds: int, share: float = 0.4) -> Schedule:
    """1 until the last ``share`` of ``rounds``, then straight down to ``1 / (share * rounds)`` in the last round and after it.

    Example:
        >>> schedule = linear_tail(10, 0.4)
        >>> [round(float(schedule(torch.tensor(r))), 2) for r in (0, 5, 6, 9)]
        [1.0, 1.0, 1.0, 0.25]
    """
    length = max(share * rounds, 1.0)
    return lambda step: torch.clamp((rounds - step.double()) / length, min=1.0 / length, max=1.0)


def _rates(gradient: Tree, rate: Rate, factor: Tensor | float) -> Tree:
    """A tree of scalar rates in the structure of ``gradient``."""
    if not isinstance(rate, Mapping):
        factor = factor.double() if isinstance(factor, Tensor) else factor
        return tree.map(lambda leaf: torch.as_tensor(rate * factor, dtype=leaf.dtype, device=leaf.device), gradient)
    blocks = {name: block if isinstance(block, dict) else {"": block} for name, block in gradient.items()}
    scaled = {name: _rates(block, rate[name], factor) for name, block in blocks.items()}
    return {name: scaled[name] if isinstance(gradient[name], dict) else scaled[name][""] for name in gradient}


def _count(params: Tree) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=tree.leaves(params)[0].device)


def sgd(rate: Rate = 1.0, momentum: float = 0.0, schedule: Schedule = constant) -> Optimizer:
    """Plain descent, or heavy-ball momentum (FedAvgM, Hsu et al. 2019): ``v = momentum v + g``; step ``rate v``. FedAvg is ``sgd(1.0)``."""

    def init(params: Tree) -> Tree:
        state: Tree = {"count": _count(params)}
        return {**state, "velocity": tree.zeros_like(params)} if momentum else state

    def update(gradient: Tree, state: Tree) -> tuple[Tree, Tree]:
        new: Tree = {"count": state["count"] + 1}
        direction = gradient
        if momentum:
            direction = tree.map(lambda v, g: momentum * v + g, state["velocity"], gradient)
            new["velocity"] = direction
        return tree.map(torch.mul, direction, _rates(gradient, rate, schedule(state["count"]))), new

    return Optimizer(init, update)


def adam(rate: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, schedule: Schedule = constant) -> Optimizer:
    """Adam with bias correction (Kingma and Ba 2015, Algorithm 1)."""

    def init(params: Tree) -> Tree:
        return {"count": _count(params), "m": tree.zeros_like(params), "v": tree.zeros_like(params)}

    def update(gradient: Tree, state: Tree) -> tuple[Tree, Tree]:
        count = state["count"] + 1
        m = tree.map(lambda old, g: b1 * old + (1 - b1) * g, state["m"], gradient)
        v = tree.map(lambda old, g: b2 * old + (1 - b2) * g**2, state["v"], gradient)
        fix_m, fix_v = 1 - b1 ** count.double(), 1 - b2 ** count.double()  # in float32 1 - 0.999 is off by 1e-5
        direction = tree.map(lambda m_, v_: (m_ / fix_m.to(m_.dtype)) / (torch.sqrt(v_ / fix_v.to(v_.dtype)) + eps), m, v)
        step = tree.map(torch.mul, direction, _rates(gradient, rate, schedule(state["count"])))
        return step, {"count": count, "m": m, "v": v}

    return Optimizer(init, update)


def _adaptive(second: Callable[[Tensor, Tensor], Tensor], rate: Rate, b1: float, tau: float) -> Optimizer:
    """FedOpt's family: they differ in the second moment alone; it starts at ``tau^2`` as in the paper."""

    def init(params: Tree) -> Tree:
        start = tree.map(lambda leaf: torch.full_like(leaf, tau**2), params)
        return {"count": _count(params), "m": tree.zeros_like(params), "v": start}

    def update(gradient: Tree, state: Tree) -> tuple[Tree, Tree]:
        m = tree.map(lambda old, g: b1 * old + (1 - b1) * g, state["m"], gradient)
        v = tree.map(second, state["v"], gradient)
        direction = tree.map(lambda m_, v_: m_ / (torch.sqrt(v_) + tau), m, v)
        return tree.map(torch.mul, direction, _rates(gradient, rate, 1.0)), {"count": state["count"] + 1, "m": m, "v": v}

    return Optimizer(init, update)


def fed_adam(rate: Rate, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3) -> Optimizer:
    """FedAdam: ``v = b2 v + (1 - b2) g^2`` (Algorithm 2, line for FedAdam)."""
    return _adaptive(lambda v, g: b2 * v + (1 - b2) * g**2, rate, b1, tau)


def fed_yogi(rate: Rate, b1: float = 0.9, b2: float = 0.99, tau: float = 1e-3) -> Optimizer:
    """FedYogi: ``v = v - (1 - b2) g^2 sign(v - g^2)``."""
    return _adaptive(lambda v, g: v - (1 - b2) * g**2 * torch.sign(v - g**2), rate, b1, tau)


def fed_adagrad(rate: Rate, b1: float = 0.0, tau: float = 1e-3) -> Optimizer:
    """FedAdagrad: ``v = v + g^2``; the paper uses no first momentum."""
    return _adaptive(lambda v, g: v + g**2, rate, b1, tau)


def server(optimizer: Optimizer) -> tuple[Callable[[Tree], ServerState], Callable[[ServerState, Aggregate], ServerState]]:
    """The ``begin`` and ``server`` functions of an algorithm whose server descends along the aggregate with ``optimizer``."""

    def begin(meta: Tree) -> ServerState:
        return ServerState(meta, optimizer.init(meta))

    def update(state: ServerState, aggregate: Aggregate) -> ServerState:
        step, inner = optimizer.update(aggregate.update, state.optimizer)
        return ServerState(tree.subtract(state.meta, step), inner)

    return begin, update
