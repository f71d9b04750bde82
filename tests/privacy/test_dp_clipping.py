"""Clipping: what one client can change is bounded, to the last bit."""

from __future__ import annotations

import math

import pytest
import torch

from metabayfl import random
from metabayfl.errors import ConfigError
from metabayfl.privacy import clipping
from metabayfl.types import Tree


def update(length: float, numbers: int = 5000) -> Tree:
    draw = random.normal(random.key(3), (numbers,))
    return {"z": {"a": length * draw[:3000] / draw.norm(), "b": length * draw[3000:] / draw.norm()}, "head": torch.zeros(2)}


@pytest.mark.parametrize("length", [1e-6, 0.999, 1.0, 1.0001, 7.3, 1e20])
def test_no_message_is_longer_than_the_bound_and_short_ones_stay_as_they_are(length: float) -> None:
    given = update(length)
    clipped = clipping.clip(given, 1.0)
    assert float(clipping.norm(clipped)) <= 1.0
    assert float(clipping.norm(clipped)) == pytest.approx(min(length, 1.0), rel=2e-6)
    if length < 0.9999:
        assert torch.equal(clipped["z"]["a"], given["z"]["a"])
    assert torch.allclose(clipped["z"]["b"] * length, given["z"]["b"] * min(length, 1.0), rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_message_without_a_norm_becomes_zero(bad: float) -> None:
    given = update(1.0)
    given["z"]["a"][7] = bad
    assert float(clipping.norm(clipping.clip(given, 1.0))) == 0.0


def test_clipping_runs_under_vmap_as_one_by_one() -> None:
    stacked = {"w": random.normal(random.key(1), (4, 50))}
    together = torch.func.vmap(lambda one: clipping.clip(one, 2.0))(stacked)
    each = torch.stack([clipping.clip({"w": row}, 2.0)["w"] for row in stacked["w"]])
    torch.testing.assert_close(together["w"], each, rtol=0, atol=0)


def test_blocks_have_bounds_of_their_own_and_a_common_sensitivity() -> None:
    given = update(10.0)
    given["head"] = torch.tensor([30.0, 40.0])
    clipped = clipping.clip_blocks(given, {"z": 3.0, "head": 4.0})
    assert float(clipping.norm(clipped["z"])) == pytest.approx(3.0, rel=2e-6)
    assert float(clipping.norm(clipped)) <= clipping.sensitivity({"z": 3.0, "head": 4.0}) == 5.0
    with pytest.raises(ConfigError, match="name each of them once"):
        clipping.clip_blocks(given, {"z": 3.0})


def test_the_bound_follows_a_quantile_of_the_norms() -> None:
    norms = torch.exp(random.normal(random.key(5), (4000,), torch.float64))
    bound = torch.tensor(50.0, dtype=torch.float64)
    for _ in range(200):
        share = (norms <= bound).double().mean()
        bound = clipping.next_bound(bound, share, quantile=0.3, rate=0.2)
    assert float((norms <= bound).double().mean()) == pytest.approx(0.3, abs=0.01)
    assert clipping.next_bound(torch.tensor(2.0), torch.tensor(0.8), quantile=0.3, rate=0.2).item() == pytest.approx(2.0 * math.exp(-0.1))


def test_update_and_indicator_cost_what_one_gaussian_costs() -> None:
    """Two Gaussians of multipliers z_1 and z_2 on one client are one of (z_1^-2 + z_2^-2)^(-1/2); the indicator's sensitivity is 1/2."""
    z, noise = 1.3, 6.0
    update_z = clipping.update_multiplier(z, noise)
    assert (update_z**-2 + (noise / 0.5) ** -2) ** -0.5 == pytest.approx(z, rel=1e-12)
    with pytest.raises(ConfigError, match="raise it"):
        clipping.update_multiplier(2.0, 1.0)
