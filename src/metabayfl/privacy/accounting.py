"""What a plan costs in (epsilon, delta), before a single round is run; the arithmetic is dp-accounting's (extra ``privacy``).

The guarantee is for a client: whether it takes part at all, with everything that it has, changes the probability of any outcome by at most a factor
``e^epsilon``, up to ``delta``. What "takes part" means follows from how cohorts are sampled:

- ``poisson``: every client takes part in a round with probability ``cohort / clients``, on its own. Neighbours differ by one client more or less.
- ``all``: every client takes part in every round; the same neighbours.
- ``fixed``: a cohort of ``cohort`` clients, uniform without replacement. Neighbours differ by one client that is *replaced*, which moves a sum of
  clipped messages by up to twice the bound: the noise counts half (Wang, Balle and Kasiviswanathan 2019, Theorem 27, by Renyi divergences).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from metabayfl.errors import ConfigError
from metabayfl.privacy import distributed
from metabayfl.privacy.distributed import Grid

Sampling = Literal["poisson", "fixed", "all"]
Mechanism = Literal["gaussian", "discrete_gaussian", "skellam"]
Accountant = Literal["pld", "rdp"]


@dataclass(frozen=True)
class Plan:
    """One round of a private training, as the accountant sees it.

    Attributes:
        clients: training clients, all of them.
        cohort: how many take part in a round, expected (``poisson``) or exactly (``fixed``).
        noise_multiplier: ``z``, the noise's standard deviation over the clipping norm; of all the noise in the sum together.
        sampling: how cohorts are drawn.
        mechanism: ``gaussian`` noise on the server, or the sum of noise from every client.
        accountant: ``pld`` (privacy loss distributions, the tighter) for Gaussian noise with ``poisson`` or ``all``; ``rdp`` for everything.
        grid: what discrete noise is added to; None for ``gaussian``.
    """

    clients: int
    cohort: int
    noise_multiplier: float
    sampling: Sampling = "poisson"
    mechanism: Mechanism = "gaussian"
    accountant: Accountant = "pld"
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.cohort <= self.clients:
            raise ConfigError(f"the privacy plan has a cohort of {self.cohort} out of {self.clients} clients: choose 1 to {self.clients}")
        if self.sampling == "all" and self.cohort != self.clients:
            raise ConfigError(f"the privacy plan samples all {self.clients} clients, but its cohort is {self.cohort}: make them the same")
        if not self.noise_multiplier >= 0:
            raise ConfigError(f"noise_multiplier is {self.noise_multiplier}, expected 0 or more")
        if self.accountant == "pld" and (self.sampling == "fixed" or self.mechanism != "gaussian"):
            raise ConfigError(f"there is no pld account of {self.mechanism} noise with {self.sampling} sampling: choose the accountant 'rdp'")
        if (self.grid is None) != (self.mechanism == "gaussian"):
            raise ConfigError(
                f"the mechanism is {self.mechanism!r} and the grid {self.grid}: discrete noise needs a grid, and Gaussian noise has none"
            )


def epsilon(plan: Plan, rounds: int, delta: float) -> float:
    """The ``epsilon`` of that many rounds together; infinite without noise, and 0 for no round.

    Example:
        >>> round(epsilon(Plan(clients=700, cohort=70, noise_multiplier=1.0), rounds=100, delta=1e-5), 2)
        7.05

    Raises:
        ConfigError: if ``delta`` is not between 0 and 1, or dp-accounting is not installed.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta}, expected a probability above 0 and below 1, such as 1e-5")
    return 0.0 if rounds == 0 else _epsilon(plan, rounds, delta)


@functools.lru_cache(maxsize=256)
def _epsilon(plan: Plan, rounds: int, delta: float) -> float:
    if plan.noise_multiplier == 0:
        return float("inf")
    library = _library()
    if plan.grid is not None:
        curve = distributed.curve(plan.mechanism, plan.grid, plan.noise_multiplier, replaced=plan.sampling == "fixed")
        orders, divergences = distributed.sampled(curve, plan.sampling, plan.cohort / plan.clients)
        return float(library.rdp.compute_epsilon(orders, [rounds * value for value in divergences], delta)[0])
    if plan.accountant == "pld" and plan.sampling == "poisson":
        nothing = library.pld.privacy_loss_distribution.identity()  # what dp-accounting's own accountant starts from: to the last bit
        composed = nothing.compose(_one_round(plan.noise_multiplier, plan.cohort / plan.clients).self_compose(rounds))
        return float(composed.get_epsilon_for_delta(delta))
    relation = library.NeighboringRelation.REPLACE_ONE if plan.sampling == "fixed" else library.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountants = {"pld": library.pld.PLDAccountant, "rdp": library.rdp.RdpAccountant}
    accountant = accountants[plan.accountant](neighboring_relation=relation)
    with _quietly():
        return float(accountant.compose(event(plan), rounds).get_epsilon(delta))


@functools.lru_cache(maxsize=64)
def _one_round(multiplier: float, share: float) -> Any:
    """The privacy loss distribution of one round, which takes seconds, while composing rounds of it takes none: an account asks for many."""
    library = _library()
    loss = library.pld.privacy_loss_distribution
    return loss.from_gaussian_mechanism(multiplier, sampling_prob=share, neighboring_relation=library.NeighboringRelation.ADD_OR_REMOVE_ONE)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without dp-accounting's warnings of orders that it leaves out where their series does not converge: the bound by the others holds."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def event(plan: Plan) -> Any:
    """One round of a plan with Gaussian noise as dp-accounting's ``DpEvent``."""
    library = _library()
    if plan.sampling == "fixed":
        return library.SampledWithoutReplacementDpEvent(plan.clients, plan.cohort, library.GaussianDpEvent(plan.noise_multiplier / 2))
    noise = library.GaussianDpEvent(plan.noise_multiplier)
    return noise if plan.sampling == "all" else library.PoissonSampledDpEvent(plan.cohort / plan.clients, noise)


def noise_multiplier_for(plan: Plan, target: float, rounds: int, delta: float) -> float:
    """The least noise multiplier with which ``rounds`` rounds of the plan cost at most ``target``; never below it, and at most 0.1 % above.

    Args:
        plan: its own noise multiplier plays no part.
        target: ``epsilon``, above 0.
        rounds: from 1.
        delta: as in :func:`epsilon`.

    Raises:
        ConfigError: if no noise up to 10,000 times the bound is enough.
    """
    if not target > 0 or rounds < 1:
        raise ConfigError(f"a target of epsilon {target} for {rounds} rounds asks for no noise multiplier: give both above 0")

    def costs(multiplier: float) -> float:
        return epsilon(replace(plan, noise_multiplier=multiplier), rounds, delta)

    low, stride = 1.0, 2.0
    if plan.accountant == "pld":  # slow where there is little noise: start from the other account, which asks for hardly more
        low, stride = noise_multiplier_for(replace(plan, accountant="rdp"), target, rounds, delta), 1.1
    high = low
    while costs(high) > target:
        low, high = high, stride * high
        if high > 1e4:
            raise ConfigError(f"no noise brings {rounds} rounds to epsilon {target} at delta {delta}: allow a larger epsilon, or a coarser beta")
    while costs(low) <= target and low > 0.01:
        low, high = low / stride, low
    while high > low * 1.001:
        middle = _between(low, high, costs(low) / target, target / max(costs(high), 1e-300))
        low, high = (middle, high) if costs(middle) > target else (low, middle)
    return high


def _between(low: float, high: float, above: float, below: float) -> float:
    """Where a power law through both ends, whose costs are so many times too much and too little, meets the target; kept off the ends.

    Costs are nearly a power law, and each takes seconds to compute.
    """
    share = math.log(above) / (math.log(above) + math.log(below)) if 1.0 < above < math.inf else 0.5
    return float(min(max(low * (high / low) ** share, low * 1.0005), high / 1.0005))


def affordable_rounds(plan: Plan, budget: float, delta: float, most: int) -> int:
    """How many rounds, up to ``most``, cost no more than the ``epsilon`` in ``budget`` together."""
    if epsilon(plan, most, delta) <= budget:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon(plan, middle, delta) <= budget else (low, middle)
    return low


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as error:
        raise ConfigError("to account for privacy, dp-accounting is needed: pip install 'metabayfl[privacy]'") from error
    return dp_accounting
