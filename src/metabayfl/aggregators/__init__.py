"""Combines: how the messages of a cohort become one aggregate."""

from __future__ import annotations

from collections.abc import Callable

from metabayfl.aggregators.combine import Combine
from metabayfl.aggregators.defence import DEFENCES, ROBUST_COMBINES, build_combine, require_cohort
from metabayfl.aggregators.mean import fixed_mean, uniform_mean, weighted_mean
from metabayfl.aggregators.options import DefenceOptions

__all__ = [
    "COMBINES",
    "DEFENCES",
    "ROBUST_COMBINES",
    "Combine",
    "DefenceOptions",
    "build_combine",
    "fixed_mean",
    "require_cohort",
    "uniform_mean",
    "weighted_mean",
]

COMBINES: dict[str, Callable[[], Combine]] = {"examples": weighted_mean, "uniform": uniform_mean}
"""Message weightings by name."""
