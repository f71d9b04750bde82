"""What a private training will cost and how loud its noise will be, all of it known before the first round."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from metabayfl.privacy.accounting import Plan, affordable_rounds, epsilon
from metabayfl.privacy.client_level import headroom, loudness
from metabayfl.privacy.clipping import sensitivity
from metabayfl.privacy.distributed import Grid, share_variance
from metabayfl.privacy.options import PrivacyOptions, granularity

LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Trainings that a forecast compares, in units of the planned one."""


class Cost(NamedTuple):
    """``epsilon`` of a number of rounds by each accountant."""

    rounds: int
    pld: float | None  # None where there is no such account
    rdp: float


class Share(NamedTuple):
    """What one client adds under secure aggregation, in steps of the grid."""

    counted_on: int  # clients whose noise must be in a sum that is released
    deviation: float
    step: float  # the grid's, in units of the update
    headroom: int  # what the encoding leaves free for it


class Forecast(NamedTuple):
    """A plan and what follows from it."""

    options: PrivacyOptions
    plan: Plan
    rounds: int
    numbers: int  # D, in one message
    bound: float  # on the Euclidean norm of one client's message
    deviation: float  # of the noise on each number of the mean
    costs: tuple[Cost, ...]  # by the number of rounds
    affordable: int  # rounds, of those planned
    share: Share | None  # None where the server adds the noise


def forecast(options: PrivacyOptions, plan: Plan, *, rounds: int, numbers: int) -> Forecast:
    """The forecast of a training.

    Args:
        options: what was asked for.
        plan: from :func:`metabayfl.privacy.options.plan`.
        rounds: planned, from 1.
        numbers: ``D``, how many numbers a message has.

    Example:
        >>> found = forecast(PrivacyOptions(), Plan(700, 300, 2.0, accountant="rdp"), rounds=40, numbers=10_000)
        >>> [(cost.rounds, round(cost.rdp, 1)) for cost in found.costs], round(found.deviation, 5), found.affordable
        ([(10, 3.8), (20, 5.3), (40, 7.7), (80, 11.3), (160, 17.7)], 0.00667, 40)
    """
    lengths = sorted({max(1, round(length * rounds)) for length in LENGTHS})
    bound = sensitivity(options.clip)
    return Forecast(
        options=options,
        plan=plan,
        rounds=rounds,
        numbers=numbers,
        bound=bound,
        deviation=loudness(options, plan) * bound / plan.cohort,
        costs=tuple(_cost(plan, number, options.delta) for number in lengths),
        affordable=affordable_rounds(plan, options.epsilon, options.delta, rounds),
        share=None if plan.grid is None else _share(options, plan, plan.grid),
    )


def _cost(plan: Plan, rounds: int, delta: float) -> Cost:
    pld = epsilon(plan, rounds, delta) if plan.accountant == "pld" else None
    return Cost(rounds, pld, epsilon(replace(plan, accountant="rdp"), rounds, delta))


def _share(options: PrivacyOptions, plan: Plan, grid: Grid) -> Share:
    deviation = math.sqrt(share_variance(grid, plan.noise_multiplier))
    return Share(grid.shares, deviation, granularity(options), headroom(plan))
