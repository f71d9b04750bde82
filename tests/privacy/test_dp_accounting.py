"""Accounts: dp-accounting's own figures, closed forms, and the papers' bounds against exact divergences."""

from __future__ import annotations

import builtins
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from metabayfl.errors import ConfigError
from metabayfl.privacy import accounting, distributed
from metabayfl.privacy.accounting import Plan, affordable_rounds, epsilon, noise_multiplier_for
from metabayfl.privacy.distributed import Grid

dp = pytest.importorskip("dp_accounting")
pld = pytest.importorskip("dp_accounting.pld")
rdp = pytest.importorskip("dp_accounting.rdp")

DELTA = 1e-5
ADD, REPLACE = dp.NeighboringRelation.ADD_OR_REMOVE_ONE, dp.NeighboringRelation.REPLACE_ONE


@pytest.mark.parametrize(("plan", "accountant", "event"), [
    (Plan(700, 350, 6.0), pld.PLDAccountant(ADD), dp.PoissonSampledDpEvent(0.5, dp.GaussianDpEvent(6.0))),
    (Plan(700, 350, 6.0, accountant="rdp"), rdp.RdpAccountant(None, ADD), dp.PoissonSampledDpEvent(0.5, dp.GaussianDpEvent(6.0))),
    (Plan(700, 700, 9.0, "all"), pld.PLDAccountant(ADD), dp.GaussianDpEvent(9.0)),
    (Plan(700, 100, 4.0, "fixed", accountant="rdp"), rdp.RdpAccountant(None, REPLACE),
     dp.SampledWithoutReplacementDpEvent(700, 100, dp.GaussianDpEvent(2.0))),
])  # fmt: skip
def test_epsilon_equals_dp_accounting(plan: Plan, accountant: Any, event: Any) -> None:
    assert epsilon(plan, 60, DELTA) == accountant.compose(dp.SelfComposedDpEvent(event, 60)).get_epsilon(DELTA)


def test_without_sampling_epsilon_solves_the_closed_form_of_the_gaussian_mechanism() -> None:
    """delta = Phi(m/2 - e/m) - exp(e) Phi(-m/2 - e/m) with m = sqrt(rounds) / z (Balle and Wang 2018, Theorem 8)."""
    found, m = epsilon(Plan(10, 10, 8.0, "all"), 49, DELTA), 7 / 8.0
    phi = stats.norm.cdf
    assert float(phi(m / 2 - found / m) - math.exp(found) * phi(-m / 2 - found / m)) == pytest.approx(DELTA, rel=2e-3)


def test_no_round_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon(Plan(10, 5, 1.0), 0, DELTA) == 0.0
    assert epsilon(Plan(10, 5, 0.0), 1, DELTA) == math.inf


def test_replacing_a_client_counts_the_noise_half() -> None:
    """A cohort of everybody, fixed, is the Gaussian mechanism of twice the sensitivity."""
    fixed = epsilon(Plan(50, 50, 8.0, "fixed", accountant="rdp"), 10, DELTA)
    assert fixed == pytest.approx(epsilon(Plan(50, 50, 4.0, "all", accountant="rdp"), 10, DELTA), rel=1e-12)


@pytest.mark.parametrize("plan", [Plan(700, 350, 1.0, accountant="rdp"), Plan(700, 350, 1.0, "poisson", "skellam", "rdp", Grid(4096.0, 7000, 200))])
def test_the_noise_multiplier_found_reaches_the_target_from_below(plan: Plan) -> None:
    multiplier = noise_multiplier_for(plan, 4.0, 50, DELTA)
    assert 3.98 < epsilon(dataclasses.replace(plan, noise_multiplier=multiplier), 50, DELTA) <= 4.0


def test_affordable_rounds_are_as_many_as_the_budget_bears() -> None:
    plan = Plan(700, 350, 4.0, accountant="rdp")
    rounds = affordable_rounds(plan, 3.0, DELTA, 500)
    assert epsilon(plan, rounds, DELTA) <= 3.0 < epsilon(plan, rounds + 1, DELTA)
    assert affordable_rounds(plan, 3.0, DELTA, rounds - 5) == rounds - 5
    assert affordable_rounds(plan, 0.01, DELTA, 500) == 0


@pytest.mark.parametrize("wrong", [
    {"cohort": 0}, {"cohort": 701}, {"sampling": "all"}, {"noise_multiplier": -1.0}, {"noise_multiplier": math.nan}, {"sampling": "fixed"},
    {"mechanism": "skellam"}, {"mechanism": "skellam", "accountant": "rdp"}, {"grid": Grid(1.0, 1, 1)},
])  # fmt: skip
def test_a_plan_that_nobody_can_account_for_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(Plan(700, 350, 1.0), **wrong)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta is"):
        epsilon(Plan(10, 5, 1.0), 1, delta)


def test_targets_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ConfigError, match="asks for no noise"):
        noise_multiplier_for(Plan(10, 5, 1.0), 0.0, 1, DELTA)
    hopeless = Plan(10, 10, 1.0, "all", "discrete_gaussian", "rdp", Grid(1e4, 10**9, 2, beta=0.0))
    with pytest.raises(ConfigError, match="no noise brings"):
        noise_multiplier_for(hopeless, 1e-4, 1, DELTA)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("dp_accounting"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"metabayfl\[privacy\]"):
        accounting.event(Plan(10, 5, 1.0))


def renyi(p: NDArray[np.float64], q: NDArray[np.float64], order: int) -> float:
    both = (p > 1e-290) & (q > 1e-290)
    return float(np.log(np.sum(np.exp(order * np.log(p[both]) - (order - 1) * np.log(q[both]))))) / (order - 1)


@pytest.mark.parametrize("order", [2, 3, 8, 32])
@pytest.mark.parametrize(("variance", "shift"), [(40.0, 1), (40.0, 3), (400.0, 10), (4e4, 100)])
def test_the_skellam_bound_holds_and_is_near(order: int, variance: float, shift: int) -> None:
    reach = int(30 * math.sqrt(variance))
    mass = stats.skellam.pmf(np.arange(-reach, reach + 1), variance / 2, variance / 2)
    exact = renyi(mass[shift:], mass[:-shift], order)
    bound = distributed.skellam_curve(float(shift), float(shift), variance)(order)
    assert exact <= bound <= 1.6 * exact


@pytest.mark.parametrize("order", [2, 5, 20])
@pytest.mark.parametrize(("deviation", "shares", "shift"), [(0.5, 8, 1), (0.7, 3, 2), (1.0, 5, 1), (3.0, 20, 4)])
def test_the_bound_for_sums_of_discrete_gaussians_holds(order: int, deviation: float, shares: int, shift: int) -> None:
    k = np.arange(-200, 201)
    one = np.exp(-(k**2) / (2 * deviation**2))
    total = np.array([1.0])
    for _ in range(shares):
        total = np.convolve(total, one / one.sum())
    exact = renyi(total[shift:], total[:-shift], order)
    assert exact <= distributed.discrete_gaussian_curve(float(shift), float(shift), deviation, shares, 1)(order) * (1 + 1e-9)


def test_fine_sums_of_discrete_gaussians_cost_what_one_gaussian_costs() -> None:
    curve = distributed.discrete_gaussian_curve(100.0, 10.0, 4.0, 25, 1)
    assert curve(7) == pytest.approx(7 * (10.0 / 20.0) ** 2 / 2, rel=1e-9)
    with pytest.raises(ConfigError, match="finer grid"):
        distributed.discrete_gaussian_curve(1.0, 1.0, 0.4, 25, 1)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6])
def test_amplification_by_poisson_sampling_is_near_the_exact_one_of_the_gaussian(share: float) -> None:
    """Theorem 5 of Zhu and Wang exceeds the tight curve by at most log(3) / (alpha - 1) and a factor 1 + O(q)."""
    orders, bounds = distributed.sampled(lambda order: order / (2 * 2.0**2), "poisson", share)
    exact = rdp.RdpAccountant(orders, ADD).compose(dp.PoissonSampledDpEvent(share, dp.GaussianDpEvent(2.0))).rdp
    plain = np.array(orders) / 8
    assert (np.array(bounds) >= exact * (1 - 1e-9)).all()
    assert (np.array(bounds) <= np.minimum(plain, exact * (1 + 2 * share) + math.log(3) / (np.array(orders) - 1)) + 1e-12).all()


def test_amplification_without_replacement_is_dp_accountings_general_bound() -> None:
    """Beyond order 256 dp-accounting uses Theorem 9 of Wang et al. itself, below a tighter one for the Gaussian alone."""
    orders, bounds = distributed.sampled(lambda order: order / (2 * 5.0**2), "fixed", 0.02)
    event = dp.SampledWithoutReplacementDpEvent(1000, 20, dp.GaussianDpEvent(5.0))
    exact = rdp.RdpAccountant(orders, REPLACE).compose(event).rdp
    assert bounds[-1] == pytest.approx(exact[-1], rel=1e-9)
    assert (np.array(bounds) >= exact * (1 - 1e-9)).all()


def test_epsilon_of_a_discrete_plan_is_dp_accountings_conversion_of_the_papers_curve() -> None:
    """The fine-grid bound alpha s^2 / 2 + tau D is concentrated privacy, which dp-accounting knows by itself."""
    grid = Grid(4096.0, 7000, 200, beta=0.0)
    plan = Plan(300, 300, 5.0, "all", "discrete_gaussian", "rdp", grid)
    s = distributed.rounded_norm(grid) / (5.0 * grid.bound)
    account = rdp.RdpAccountant(distributed.ORDERS, ADD).compose(dp.SelfComposedDpEvent(dp.ZCDpEvent(s**2 / 2), 30))
    assert epsilon(plan, 30, DELTA) == pytest.approx(account.get_epsilon(DELTA), rel=1e-12)


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("sampling", ["poisson", "fixed", "all"])
def test_discrete_noise_costs_a_little_more_than_continuous_noise(mechanism: Any, sampling: Any) -> None:
    """With sampling the general theorems on amplification, which know nothing of the noise, cost up to two thirds more."""
    cohort, multiplier = (300, 8.0) if sampling == "all" else (30, 2.0)
    continuous = epsilon(Plan(300, cohort, multiplier, sampling, accountant="rdp"), 40, DELTA)
    discrete = epsilon(Plan(300, cohort, multiplier, sampling, mechanism, "rdp", Grid(4096.0, 7000, cohort)), 40, DELTA)
    assert continuous * 0.999 < discrete < (1.02 if sampling == "all" else 1.7) * continuous


def test_rounded_messages_have_the_papers_norm() -> None:
    c, d, beta = 50.0, 400, math.exp(-0.5)
    conditional = math.sqrt(c**2 + d / 4 + math.sqrt(2 * math.log(1 / beta)) * (c + math.sqrt(d) / 2))
    assert distributed.rounded_norm(Grid(c, d, 1, beta)) == pytest.approx(conditional)
    assert distributed.rounded_norm(Grid(c, d, 1, 0.0)) == c + 20.0
    with pytest.raises(ConfigError, match="no grid"):
        Grid(c, 0, 1)


def test_shares_of_noise_add_up_to_the_multiplier() -> None:
    grid = Grid(100.0, 10, 25)
    assert math.sqrt(25 * distributed.share_variance(grid, 1.5)) == pytest.approx(150.0)
