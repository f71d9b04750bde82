"""The guard of client-level privacy: bounded before the sum, hidden after it, and nothing else is seen."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.errors import ConfigError, PrivacyError, QuorumError
from metabayfl.privacy import options as privacy_options
from metabayfl.privacy.accounting import Plan, epsilon
from metabayfl.privacy.client_level import client_level, headroom, noise_share, require_shares, round_to_grid
from metabayfl.privacy.clipping import norm, update_multiplier
from metabayfl.privacy.distributed import Grid, rounded_norm
from metabayfl.privacy.options import PrivacyOptions, granularity
from metabayfl.privacy.secure_aggregation.fixed_point import decode, encode, encoding, levels
from metabayfl.privacy.words import seeded
from metabayfl.types import Aggregate, Message, Tree

KEY = random.key(0)
PLAN = Plan(clients=100, cohort=50, noise_multiplier=2.0)


def message(length: float, weight: float = 20.0) -> Message:
    draw = random.normal(random.key(3), (300,))
    return Message({"z": length * draw / draw.norm(), "head": torch.zeros(3)}, torch.tensor(weight), {"loss": torch.tensor(7.0)})


def aggregate(numbers: int = 20_000, **metrics: torch.Tensor) -> Aggregate:
    return Aggregate({"z": torch.ones(numbers), "head": torch.ones(3)}, torch.tensor(47.0), metrics)


def test_a_clients_half_bounds_the_update_counts_it_once_and_keeps_the_metrics() -> None:
    guard = client_level(PrivacyOptions(clip=0.5), PLAN)
    sent = guard.client(guard.begin({}), message(3.0), KEY)
    assert float(norm(sent.update)) == pytest.approx(0.5, rel=1e-5)
    assert float(norm(sent.update)) <= 0.5
    assert sent.weight == 1.0
    assert sent.metrics == {}


@pytest.mark.parametrize("options", [PrivacyOptions(), PrivacyOptions(quantile=0.5), PrivacyOptions(mechanism="skellam")])
def test_a_client_without_an_example_says_nothing(options: PrivacyOptions) -> None:
    plan = privacy_options.plan(dataclasses.replace(options, noise_multiplier=2.0), clients=100, cohort=50, sampling="poisson", rounds=1, numbers=303)
    guard = client_level(options, plan)
    sent = guard.client(guard.begin({}), message(3.0, weight=0.0), KEY)
    assert sent.weight == 0.0
    assert float(norm(sent.update)) == 0.0
    assert float(sum(sent.metrics.values(), torch.zeros(()))) == 0.0


def test_the_servers_half_adds_noise_of_the_multiplier_times_the_bound_over_the_cohort() -> None:
    guard = client_level(PrivacyOptions(clip=0.5), PLAN)
    _, seen = guard.server({}, aggregate(), KEY)
    added = seen.update["z"] - 1.0
    assert float(added.std()) == pytest.approx(2.0 * 0.5 / 50, rel=0.02)
    assert abs(float(added.mean())) < 4 * 0.02 / math.sqrt(20_000)
    assert seen.weight == 50.0
    assert seen.metrics == {}


def test_bounds_by_block_share_one_noise_of_their_common_sensitivity() -> None:
    guard = client_level(PrivacyOptions(clip={"z": 0.3, "head": 0.4}), PLAN)
    sent = guard.client({}, message(3.0)._replace(update={"z": torch.ones(300), "head": torch.ones(3)}), KEY)
    assert [float(leaf.norm()) for leaf in tree.leaves(sent.update)] == pytest.approx([0.3, 0.4], rel=1e-5)
    _, seen = guard.server({}, aggregate(), KEY)
    assert float((seen.update["z"] - 1.0).std()) == pytest.approx(2.0 * 0.5 / 50, rel=0.02)


def test_seeded_noise_repeats_and_secure_noise_never_does() -> None:
    def run(source: Any) -> torch.Tensor:
        guard = client_level(PrivacyOptions(source=source), PLAN)
        return torch.cat(tree.leaves(guard.server({}, aggregate(10), KEY)[1].update))

    assert torch.equal(run("seeded"), run("seeded"))
    assert not torch.equal(run("secure"), run("secure"))


def test_an_empty_cohort_still_releases_noise() -> None:
    """If nobody came the release must not tell."""
    for options in (PrivacyOptions(), PrivacyOptions(quantile=0.5)):
        guard = client_level(options, PLAN)
        nobody = Aggregate({"z": torch.zeros(100)}, torch.zeros(()), {})
        _, seen = guard.server(guard.begin({}), nobody, KEY)
        assert float(seen.update["z"].std()) > 0.02
        assert seen.weight == 50.0


def test_adaptive_clipping_finds_the_quantile_and_pays_for_it_out_of_the_same_budget() -> None:
    options = PrivacyOptions(clip=10.0, quantile=0.5)
    plan = Plan(1000, 500, 1.0)
    guard = client_level(options, plan)
    state = guard.begin({})
    lengths = torch.exp(0.5 * random.normal(random.key(4), (500,)))
    for number in range(60):
        sent = [guard.client(state, message(float(length)), KEY) for length in lengths[:100]]
        below = 5.0 * torch.stack([one.metrics["below"] for one in sent]).sum()
        before = state
        state, seen = guard.server(state, aggregate(1000, below=below), random.fold(KEY, number))
        assert all(float(norm(one.update)) <= float(before["clip"]) for one in sent[:3])
    assert float(state["clip"]) == pytest.approx(float(lengths[:100].median()), rel=0.15)
    assert seen.metrics == {}
    spread = update_multiplier(1.0, 25.0) * float(before["clip"]) / 500
    assert float((seen.update["z"] - 1.0).std()) == pytest.approx(spread, rel=0.1)


def test_the_guard_runs_under_vmap_as_one_by_one() -> None:
    stacked = Message({"z": random.normal(KEY, (4, 30))}, torch.tensor([3.0, 0.0, 1.0, 9.0]), {})
    keys = random.keys(KEY, 4)
    for options in (PrivacyOptions(noise_multiplier=1.0), PrivacyOptions(quantile=0.5), PrivacyOptions(mechanism="skellam", noise_multiplier=1.0)):
        grid = Grid(4096.0, 30, 3) if options.mechanism == "skellam" else None
        guard = client_level(options, Plan(10, 4, 1.0, "poisson", options.mechanism, "rdp", grid))
        state = guard.begin({})
        together = torch.func.vmap(lambda one, key, guard=guard, state=state: guard.client(state, one, key))(stacked, keys)
        for row in range(4):
            alone = guard.client(state, Message({"z": stacked.update["z"][row]}, stacked.weight[row], {}), keys[row])
            torch.testing.assert_close(together.update["z"][row], alone.update["z"])


def test_rounding_to_the_grid_is_unbiased_within_bounds_and_exact_in_float32() -> None:
    update, step = message(1.0).update, 2.0**-6
    grid = Grid(64.0, 303, 10)
    rounded = [round_to_grid(update, step, grid, random.fold(KEY, draw)) for draw in range(400)]
    assert max(float(norm(one)) for one in rounded) <= rounded_norm(grid) * step
    flat = torch.stack([torch.cat(tree.leaves(one)) for one in rounded]) / step
    assert torch.equal(flat, flat.round())
    error = flat.mean(0) * step - torch.cat(tree.leaves(update))
    assert float(error.abs().max()) < 4.5 * step * 0.5 / math.sqrt(400)


def test_where_no_rounding_fits_the_numbers_are_cut_towards_zero() -> None:
    update: Tree = {"z": torch.full((400,), 0.5)}
    cut = round_to_grid(update, 1.0, Grid(0.1, 400, 1, beta=0.999), KEY)
    assert float(cut["z"].abs().max()) == 0.0


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
def test_the_simulated_sum_of_shares_is_distributed_as_the_devices_shares_are(mechanism: Any) -> None:
    options = PrivacyOptions(mechanism=mechanism, noise_multiplier=1.0, clip=1.0, steps=256)
    plan = privacy_options.plan(options, clients=100, cohort=20, sampling="fixed", rounds=1, numbers=4000)
    assert plan.grid is not None
    assert plan.grid.shares == 14
    guard, step = client_level(options, plan), granularity(options)
    shares = [noise_share(options, plan, seeded(random.fold(KEY, device))) for device in range(20)]
    assert max(int(abs(share).max()) for share in shares) < headroom(plan)
    _, seen = guard.server({}, Aggregate({"z": torch.zeros(4000)}, torch.tensor(20.0), {}), KEY)
    expected = math.sqrt(20 / 14) / 20  # 14 shares make the noise multiplier
    assert float(seen.update["z"].std()) == pytest.approx(expected, rel=0.05)
    assert float(sum(shares).std()) * step / 20 == pytest.approx(expected, rel=0.05)


def test_secure_aggregation_carries_a_message_on_the_grid_and_its_noise_exactly() -> None:
    options = PrivacyOptions(mechanism="skellam", noise_multiplier=1.0, clip=0.7)
    plan = privacy_options.plan(options, clients=100, cohort=20, sampling="fixed", rounds=1, numbers=303)
    step, sent = granularity(options), client_level(options, plan).client({}, message(3.0), KEY)
    how = encoding(sent.update, {"z": step * levels(16), "head": step * levels(16)}, bits=16, cohort=20, noise=headroom(plan))
    shares = [noise_share(options, plan, seeded(random.fold(KEY, device))) for device in range(20)]
    total = sum((encode(how, sent.update, np.full(303, 0.999), share) for share in shares), np.zeros(303, np.uint64))
    decoded = decode(how, total, tree.to(sent.update, torch.float64))
    flat = torch.cat([20 * sent.update["head"].double(), 20 * sent.update["z"].double()])  # an encoding goes by name
    assert torch.equal(torch.cat([decoded["head"], decoded["z"]]), flat + step * torch.from_numpy(np.sum(shares, 0)))


def test_a_sum_with_too_few_shares_of_noise_is_not_released() -> None:
    options = PrivacyOptions(mechanism="skellam", noise_multiplier=1.0)
    plan = privacy_options.plan(options, clients=100, cohort=20, sampling="fixed", rounds=1, numbers=10)
    guard = client_level(options, plan)
    with pytest.raises(QuorumError, match="counts on the noise of 14"):
        guard.server({}, Aggregate({"z": torch.zeros(10)}, torch.tensor(13.0), {}), KEY)
    with pytest.raises(PrivacyError, match="no grid"):
        noise_share(options, PLAN, seeded(KEY))
    assert plan.grid is not None
    require_shares(14, plan.grid)


def test_the_plan_finds_the_noise_that_the_budget_needs() -> None:
    pytest.importorskip("dp_accounting")
    found = privacy_options.plan(PrivacyOptions(epsilon=2.0), clients=100, cohort=50, sampling="poisson", rounds=10, numbers=303)
    assert found.accountant == "pld"
    assert 1.98 < epsilon(found, 10, 1e-5) <= 2.0
    fixed = privacy_options.plan(PrivacyOptions(noise_multiplier=3.0), clients=100, cohort=50, sampling="fixed", rounds=10, numbers=303)
    assert (fixed.accountant, fixed.noise_multiplier) == ("rdp", 3.0)


@pytest.mark.parametrize("wrong", [
    {"epsilon": 0.0}, {"epsilon": math.inf}, {"delta": 0.0}, {"clip": 0.0}, {"clip": {}}, {"clip": {"z": -1.0}}, {"noise_multiplier": -1.0},
    {"quantile": 1.0},
    {"steps": 0}, {"answering": 0.0}, {"quantile": 0.5, "clip": {"z": 1.0}}, {"quantile": 0.5, "mechanism": "skellam"},
    {"mechanism": "skellam", "clip": {"z": 1.0}}, {"clip": math.nan},
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PrivacyOptions(**wrong)
