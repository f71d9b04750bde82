"""Client-level differential privacy as a guard: the client half bounds what one client can change, the server half hides it.

What leaves the guard is all that anyone may see of a round: the noised mean, the cohort size as it was planned, and no metrics. A cohort's true size
and its mean loss would tell of single clients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import random, tree
from metabayfl.errors import PrivacyError, QuorumError
from metabayfl.privacy import noise
from metabayfl.privacy.accounting import Plan
from metabayfl.privacy.clipping import below, clip, clip_blocks, next_bound, sensitivity, update_multiplier
from metabayfl.privacy.distributed import Grid, rounded_norm, share_variance
from metabayfl.privacy.options import PrivacyOptions, granularity
from metabayfl.privacy.words import Words, secure, seeded
from metabayfl.types import Aggregate, Guard, Key, Message, Tree

NAME = "client_level"

TRIES = 32
"""Roundings that a client draws at most: each is kept with probability 0.39 or more, and after the last the numbers are cut towards zero."""


def client_level(options: PrivacyOptions, plan: Plan, noise_by: Literal["server", "clients"] = "server") -> Guard:
    """The guard that makes a training private as ``plan`` accounts for it.

    It goes with a combine that divides the sum by the planned cohort, whoever answered: the mean's sensitivity is then the bound over the cohort.

    Args:
        options: bounds, adaptation and where noise comes from.
        plan: cohort and noise multiplier.
        noise_by: ``clients`` where each adds its :func:`noise_share` to what it hands to secure aggregation (a discrete mechanism): the guard then
            adds none.
    """
    if options.mechanism != "gaussian":
        return _distributed(options, plan, noise_by)
    return _adaptive(options, plan) if options.quantile else _central(options, plan)


def start(options: PrivacyOptions) -> Tree:
    """The guard's state before the first round: the bound where it adapts."""
    return {"clip": torch.tensor(sensitivity(options.clip), dtype=torch.float64)} if options.quantile else {}


def _central(options: PrivacyOptions, plan: Plan) -> Guard:
    """Fixed clipping and Gaussian noise of deviation ``z S / n`` on the mean (McMahan et al. 2018, Algorithm 1)."""
    deviation = loudness(options, plan) * sensitivity(options.clip) / plan.cohort

    def client(state: Tree, message: Message, key: Key) -> Message:
        return _bounded(message, lambda update: _clipped(update, options.clip), {})

    def server(state: Tree, aggregate: Aggregate, key: Key) -> tuple[Tree, Aggregate]:
        return state, _noised(aggregate, plan, noise.gaussian(_words(options, key, "update"), deviation))

    return Guard(NAME, lambda meta: start(options), client, server)


def _adaptive(options: PrivacyOptions, plan: Plan) -> Guard:
    """The bound follows a quantile of the clients' norms (Andrew et al. 2021, Algorithm 1); the state is ``{"clip": ()}``."""
    deviation, multiplier = _counting_noise(options, plan), loudness(options, plan)

    def client(state: Tree, message: Message, key: Key) -> Message:
        shifted = (message.weight > 0) * (below(message.update, state["clip"]) - 0.5)  # so shifted, a client moves the sum by 1/2 at most
        return _bounded(message, lambda update: clip(update, state["clip"]), {"below": shifted})

    def server(state: Tree, aggregate: Aggregate, key: Key) -> tuple[Tree, Aggregate]:
        counted = aggregate.metrics.get("below", torch.zeros(()))  # nobody came, nothing was counted
        count = counted + noise.gaussian(_words(options, key, "below"), deviation)(()).to(counted)
        bound = next_bound(state["clip"], 0.5 + count / plan.cohort, quantile=options.quantile, rate=options.quantile_rate)
        spread = multiplier * float(state["clip"]) / plan.cohort
        return {"clip": bound.to(state["clip"])}, _noised(aggregate, plan, noise.gaussian(_words(options, key, "update"), spread))

    return Guard(NAME, lambda meta: start(options), client, server)


def _distributed(options: PrivacyOptions, plan: Plan, noise_by: str) -> Guard:
    """Clients round to a grid; the server half adds the noise that is :func:`noise_share` on every device of a deployment.

    A simulation draws all shares in one place, since nobody is there to hide them from: the sum has the same distribution.
    """
    grid, step = _grid_of(plan), granularity(options)
    variance = share_variance(grid, plan.noise_multiplier)

    def client(state: Tree, message: Message, key: Key) -> Message:
        return _bounded(message, lambda update: round_to_grid(clip(update, sensitivity(options.clip)), step, grid, random.fold(key, "round")), {})

    def server(state: Tree, aggregate: Aggregate, key: Key) -> tuple[Tree, Aggregate]:
        shares = int(aggregate.weight)
        require_shares(shares, grid)
        if noise_by == "clients":
            return state, _released(aggregate.update, aggregate, plan)
        words = _words(options, key, "update")
        return state, _noised(aggregate, plan, lambda shape: _summed_shares(options, words, variance, shares, shape) * (step / plan.cohort))

    return Guard(NAME, lambda meta: start(options), client, server)


def loudness(options: PrivacyOptions, plan: Plan) -> float:
    """The deviation of the noise on each number of the sum over the bound, when all who were planned answer.

    It is the plan's noise multiplier, and more where bounds adapt, since counting costs a part of the budget, and where the noise comes from the
    clients, since that of some is not counted on.
    """
    if options.quantile:
        return update_multiplier(plan.noise_multiplier, _counting_noise(options, plan))
    return plan.noise_multiplier * math.sqrt(1.0 if plan.grid is None else plan.cohort / plan.grid.shares)


def _counting_noise(options: PrivacyOptions, plan: Plan) -> float:
    return options.indicator_noise or max(plan.cohort / 20.0, plan.noise_multiplier)


def noise_share(options: PrivacyOptions, plan: Plan, words: Words) -> NDArray[np.int64]:
    """One device's share of the noise in grid steps, ``(D,)``: what secure aggregation's encoding adds to the device's numbers.

    The guard's client half puts those numbers on the grid of :func:`metabayfl.privacy.options.granularity`, so an encoding with that step keeps them.

    Args:
        options: of a discrete mechanism.
        plan: the plan that all devices agreed on.
        words: the device's own secret stream, :func:`metabayfl.privacy.words.secure`.
    """
    grid = _grid_of(plan)
    draw = noise.integral(_integral(options), words, share_variance(grid, plan.noise_multiplier))
    drawn: NDArray[np.int64] = draw((grid.numbers,)).numpy()
    return drawn


def headroom(plan: Plan) -> int:
    """Grid steps that a share stays within, but for one share in 10^20: what an encoding must leave free."""
    return math.ceil(12.0 * math.sqrt(share_variance(_grid_of(plan), plan.noise_multiplier))) + 64


def require_shares(shares: int, grid: Grid) -> None:
    """Refuse a sum with too little noise.

    Raises:
        QuorumError: if fewer clients answered than the plan counts on.
    """
    if shares < grid.shares:
        raise QuorumError(f"{shares} clients answered, and the plan counts on the noise of {grid.shares}: the sum is not released; lower answering")


def round_to_grid(update: Tree, step: float, grid: Grid, key: Key) -> Tree:
    """Every number to one of its two neighbours on the grid, up with the probability of the fraction, until the norm is within bounds.

    Kairouz et al. 2021, Algorithm 1. The draws are made at once and the first that fits is taken, so that ``vmap`` carries it; should none fit, the
    numbers are cut towards zero, which cannot raise the norm.
    """
    flat = torch.cat([leaf.flatten().double() for leaf in tree.leaves(update)]) / step
    limit = rounded_norm(grid)
    chosen = torch.trunc(flat)
    found = torch.zeros((), dtype=torch.bool, device=flat.device)
    for attempt in range(TRIES):
        rounded = torch.floor(flat + random.uniform(random.fold(key, attempt), tuple(flat.shape), torch.float64))
        fits = ~found & (torch.linalg.vector_norm(rounded) <= limit)
        chosen, found = torch.where(fits, rounded, chosen), found | fits
    parts = torch.split(chosen, [leaf.numel() for leaf in tree.leaves(update)])
    return tree.like(update, [(part * step).view(leaf.shape).to(leaf) for part, leaf in zip(parts, tree.leaves(update), strict=True)])


def _summed_shares(options: PrivacyOptions, words: Words, variance: float, shares: int, shape: tuple[int, ...]) -> Tensor:
    if options.mechanism == "skellam":  # a sum of Skellam numbers is Skellam
        return noise.integral("skellam", words, shares * variance)(shape)
    draw = noise.integral("discrete_gaussian", words, variance)
    return torch.stack([draw(shape) for _ in range(shares)]).sum(0)


def _bounded(message: Message, bound: Callable[[Tree], Tree], metrics: Mapping[str, Tensor]) -> Message:
    """One vote of bounded length, or nothing from a client without an example."""
    answers = message.weight > 0
    update = tree.map(lambda leaf: torch.where(answers, leaf, torch.zeros_like(leaf)), bound(message.update))
    return Message(update, answers.to(message.weight.dtype), dict(metrics))


def _clipped(update: Tree, bound: float | dict[str, float]) -> Tree:
    return clip_blocks(update, bound) if isinstance(bound, dict) else clip(update, bound)


def _noised(aggregate: Aggregate, plan: Plan, draw: noise.Noise) -> Aggregate:
    return _released(tree.add(aggregate.update, noise.like(draw, aggregate.update)), aggregate, plan)


def _released(noisy: Tree, aggregate: Aggregate, plan: Plan) -> Aggregate:
    return Aggregate(noisy, torch.full_like(aggregate.weight, plan.cohort), {})


def _words(options: PrivacyOptions, key: Key, purpose: str) -> Words:
    return secure() if options.source == "secure" else seeded(random.fold(key, "privacy", purpose))


def _integral(options: PrivacyOptions) -> noise.Integral:
    return "skellam" if options.mechanism == "skellam" else "discrete_gaussian"


def _grid_of(plan: Plan) -> Grid:
    if plan.grid is None:
        raise PrivacyError(f"the plan has {plan.mechanism} noise and no grid: make it for a discrete mechanism")
    return plan.grid
