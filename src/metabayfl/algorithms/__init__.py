"""Every algorithm, by name."""

from __future__ import annotations

from collections.abc import Callable

from metabayfl.types import Algorithm

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {}
