"""What a server may be told about hostile clients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from metabayfl.errors import ConfigError


@dataclass(frozen=True)
class DefenceOptions:
    """How the messages of a cohort are screened, bounded and combined.

    Attributes:
        combine: a name in :data:`metabayfl.aggregators.defence.ROBUST_COMBINES`, which counts every client that has an example once; or ``mean``,
            the run's own weighting after screening and bounds.
        share: assumed share of hostile clients in a cohort, from 0 and below 0.5. Cohorts are drawn at random, so assume more than their share of the
            population: with 20 hostile clients among 100, 40 % or more are in 11 % of the cohorts of 10, and in 2 % of those of 20.
        mixing: every message first becomes the mean of its nearest ones (nearest-neighbour mixing).
        smoothing: of the geometric median: shorter distances count as this. Under secure aggregation no less than a thousandth of ``clip``, so that
            the rounding stays small.
        bucket: messages are first averaged in random groups of so many; 1 for none.
        size_bound: a client is screened if its message is more than so many times as large as the cohort's median, over all leaves
            (:func:`metabayfl.aggregators.comparison.sizes`); 0 for no bound.
        against: a client is screened if its message reaches further than this against the mean of the others, in sizes as above
            (:func:`metabayfl.aggregators.comparison.against`), as long as they are not more than ``share``; 0 for no such check.
        alike: clients are screened whose messages are nearer to each other than this share of the cohort's median distance, as long as they are not
            more than ``share`` (:func:`metabayfl.aggregators.comparison.copies`); 0 for no such check.
        memory: what is held against a client is remembered, and so much of it is kept each time it takes part: a client with a bad record is screened
            (:func:`metabayfl.aggregators.defence.build_combine`); 0 for no memory.
        leaf_bound: the norm of a message's leaf is scaled down to this multiple of the cohort's lower quartile of that leaf's norms; 0 for no bound.
        bounds: the norm of a message's top-level block, by name, is scaled down to this, in the update's unit.
        screen: messages with NaN, infinite or absurd numbers count as if they had not come.
        max_examples: a client that says it has more examples than this is screened.
    """

    combine: str = "mean"
    share: float = 0.2
    mixing: bool = False
    smoothing: float = 1e-6
    bucket: int = 1
    size_bound: float = 0.0
    against: float = 0.0
    alike: float = 0.0
    memory: float = 0.0
    leaf_bound: float = 0.0
    bounds: Mapping[str, float] = field(default_factory=dict)
    screen: bool = True
    max_examples: float = 1e6

    def __post_init__(self) -> None:
        if not 0.0 <= self.share < 0.5:
            raise ConfigError(f"share of hostile clients is {self.share}, expected from 0 and below 0.5: no combine withstands a majority")
        if self.bucket < 1:
            raise ConfigError(f"bucket is {self.bucket}, expected 1 (none) or more messages in a group")
        for name in ("size_bound", "against", "leaf_bound"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 (none) or a multiple of what is usual in the cohort, such as 2")
        for name in ("alike", "memory"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected from 0 (none) to 1")
        if not self.max_examples > 0:
            raise ConfigError(f"max_examples is {self.max_examples}, expected above 0")
        for name, bound in self.bounds.items():
            if not 0 < bound < math.inf:
                raise ConfigError(f"the bound of block {name!r} is {bound}, expected a norm above 0")
        for name in ("size_bound", "against", "alike", "memory"):
            if getattr(self, name) and not self.screen:
                raise ConfigError(f"{name} is {getattr(self, name)}, but screen is off: it says who is screened")
        if self.combine == "mean" and (self.mixing or self.bucket > 1):
            raise ConfigError(
                "mixing and bucket prepare messages for a robust combine, but combine is 'mean': choose another, such as 'trimmed_mean'"
            )
