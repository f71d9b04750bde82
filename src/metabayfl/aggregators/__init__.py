"""Combines: how the messages of a cohort become one aggregate."""

from __future__ import annotations

from collections.abc import Callable

from metabayfl.aggregators.combine import Combine
from metabayfl.aggregators.mean import fixed_mean, uniform_mean, weighted_mean

__all__ = ["COMBINES", "Combine", "fixed_mean", "uniform_mean", "weighted_mean"]

COMBINES: dict[str, Callable[[], Combine]] = {"examples": weighted_mean, "uniform": uniform_mean}
"""Message weightings by name."""
