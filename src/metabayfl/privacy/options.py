"""What a federation may be told about client-level privacy, and the plan that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from metabayfl.errors import ConfigError
from metabayfl.privacy.accounting import Accountant, Mechanism, Plan, Sampling, noise_multiplier_for
from metabayfl.privacy.clipping import sensitivity
from metabayfl.privacy.distributed import Grid


@dataclass(frozen=True)
class PrivacyOptions:
    """Client-level differential privacy of a training.

    Attributes:
        epsilon: the budget; training stops before it is exceeded.
        delta: the guarantee's other number; well below one over the number of clients.
        clip: bound on the Euclidean norm of a client's whole update, or one for each top-level block. Below the median norm is usual: what
            matters is the direction.
        noise_multiplier: the noise's standard deviation over the bound; 0 takes the least with which all rounds stay within the budget.
        sampling: how cohorts are drawn: ``poisson``, every client by itself, is the cheapest; ``fixed`` keeps their size, and the account then is
            of a client replaced by another.
        mechanism: ``gaussian`` noise on the server, or ``discrete_gaussian`` or ``skellam`` noise from every client under secure aggregation.
        source: where noise comes from: ``seeded`` repeats with the run's seed and protects nobody, ``secure`` is the operating system's
            generator.
        quantile: adaptive clipping: the bound follows the norm below which this share of the clients are; 0 keeps ``clip`` as it is.
        quantile_rate: how fast it follows.
        indicator_noise: noise on the number of clients below the bound; 0 takes a twentieth of the cohort (Andrew et al. 2021, section 3.1), and
            no less than the noise multiplier.
        steps: of a discrete mechanism: grid steps in the bound, at least; the granularity is a power of two.
        answering: of a discrete mechanism: share of the cohort whose noise must be in the sum; with fewer clients the round is not released.
    """

    epsilon: float = 8.0
    delta: float = 1e-5
    clip: float | dict[str, float] = 1.0
    noise_multiplier: float = 0.0
    sampling: Literal["poisson", "fixed"] = "poisson"
    mechanism: Mechanism = "gaussian"
    source: Literal["seeded", "secure"] = "seeded"
    quantile: float = 0.0
    quantile_rate: float = 0.2
    indicator_noise: float = 0.0
    steps: int = 4096
    answering: float = 0.7

    def __post_init__(self) -> None:
        bounds = self.clip.values() if isinstance(self.clip, dict) else [self.clip]
        for name, value in {"epsilon": self.epsilon, "the least of clip": min(bounds, default=0.0), "quantile_rate": self.quantile_rate}.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}, expected a number above 0")
        if not (0 < self.delta < 1 and 0 <= self.quantile < 1 and 0 < self.answering <= 1):
            raise ConfigError(
                f"delta, quantile and answering are {self.delta}, {self.quantile} and {self.answering}, expected shares such as 1e-5, 0.5 and 0.7"
            )
        if self.noise_multiplier < 0 or self.indicator_noise < 0 or self.steps < 1:
            raise ConfigError("noise_multiplier and indicator_noise are 0 or more, and steps is 1 or more: a given one is less")
        if (self.quantile or self.mechanism != "gaussian") and isinstance(self.clip, dict):
            raise ConfigError("bounds by block go with fixed clipping and Gaussian noise: give clip one number, or drop quantile and mechanism")
        if self.quantile and self.mechanism != "gaussian":
            raise ConfigError(f"adaptive clipping (quantile = {self.quantile}) goes with Gaussian noise alone: drop quantile, or the mechanism")


def granularity(options: PrivacyOptions) -> float:
    """``gamma``: the power of two with at least ``steps`` steps in the bound, so that multiples of it are exact in float32.

    Example:
        >>> granularity(PrivacyOptions(clip=1.0, steps=4096)) == 2.0**-12
        True
    """
    return float(2.0 ** math.floor(math.log2(sensitivity(options.clip) / options.steps)))


def plan(options: PrivacyOptions, *, clients: int, cohort: int, sampling: Sampling, rounds: int, numbers: int) -> Plan:
    """The plan of a whole training, with the noise multiplier found where none was given.

    Args:
        options: what was asked for.
        clients: training clients.
        cohort: clients a round, expected or exact.
        sampling: how they are drawn.
        rounds: that the budget should last for.
        numbers: ``D``, how many numbers a message has.
    """
    accountant: Accountant = "pld" if options.mechanism == "gaussian" and sampling != "fixed" else "rdp"
    grid = None if options.mechanism == "gaussian" else _grid(options, cohort, numbers)
    asked = Plan(clients, cohort, options.noise_multiplier, sampling, options.mechanism, accountant, grid)
    if options.noise_multiplier or not rounds:
        return asked
    return replace(asked, noise_multiplier=noise_multiplier_for(asked, options.epsilon, rounds, options.delta))


def _grid(options: PrivacyOptions, cohort: int, numbers: int) -> Grid:
    return Grid(sensitivity(options.clip) / granularity(options), numbers, math.ceil(options.answering * cohort))
