"""Robust rules: closed forms, what must not change their answer, and how far hostile rows can move it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metabayfl import random
from metabayfl.aggregators import ROBUST_COMBINES, clipping, coordinates, geometric, krum, mixing
from metabayfl.aggregators.rows import middle

Rule = Callable[[Tensor, int], Tensor]
RULES: dict[str, Rule] = {
    **{name: robust.rule for name, robust in ROBUST_COMBINES.items()},
    "mixing, then trimmed mean": lambda x, f: coordinates.trimmed_mean(mixing.nearest_neighbour_mixing(x, f), f),
    "mixing, then median": lambda x, f: coordinates.median(mixing.nearest_neighbour_mixing(x, f), f),
}
AROUND_ZERO = {"geometric_median"}
"""Its first pass is around zero: with few passes it sees where that is."""


def points(count: int = 11, width: int = 5, seed: int = 3) -> Tensor:
    return random.normal(random.key(seed), (count, width), torch.float64) + 2.0


def test_median_of_three_points() -> None:
    given = torch.tensor([[1.0, 9.0], [2.0, -5.0], [100.0, 0.0]])
    assert coordinates.median(given, 1).tolist() == [2.0, 0.0]
    assert middle(torch.tensor([4.0, 1.0, 2.0, 100.0])).item() == 3.0


def test_trimmed_mean_by_hand() -> None:
    given = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-70.0, 6.0], [3.0, 3.0], [900.0, -4.0]])
    assert coordinates.trimmed_mean(given, 1).tolist() == [3.0, 1.0]
    assert coordinates.trimmed_mean(given, 2).tolist() == [3.0, 0.0]
    torch.testing.assert_close(coordinates.trimmed_mean(given, 0), given.mean(0))


def test_geometric_median_of_a_triangle_is_fermats_point() -> None:
    """For (0,0), (1,0), (0,1) it lies on the diagonal, where all sides are seen under 120 degrees: x = y = (3 - sqrt 3) / 6."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = geometric.geometric_median(corners + 5.0, 1, passes=200) - 5.0
    expected = (3 - math.sqrt(3)) / 6
    torch.testing.assert_close(found, torch.tensor([expected, expected], dtype=torch.float64), rtol=1e-8, atol=0.0)


def test_geometric_median_of_equal_points_is_that_point() -> None:
    torch.testing.assert_close(geometric.geometric_median(torch.full((4, 3), 7.0), 1), torch.full((3,), 7.0))


def test_krum_picks_the_middle_of_the_cluster() -> None:
    given = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [40.0], [41.0]])
    assert krum.krum(given, 2).item() == 2.0
    assert krum.multi_krum(given, 2).item() == 2.0  # the mean of 0 to 4


def test_centred_clipping_moves_by_the_radius_at_most() -> None:
    given = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    torch.testing.assert_close(clipping.clip_around(given, torch.zeros(2), 1.0, steps=1), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(clipping.clip_around(given, torch.zeros(2), 1.0, steps=9), torch.tensor([3.0, 4.0]))


def test_mixing_takes_the_nearest_rows() -> None:
    given = torch.tensor([[0.0], [1.0], [3.0], [1000.0]])
    torch.testing.assert_close(mixing.nearest_neighbour_mixing(given, 1), torch.tensor([[4 / 3], [4 / 3], [4 / 3], [1004 / 3]]))


def test_buckets_are_means_of_groups_that_hold_every_row_once() -> None:
    given = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
    found = mixing.bucketing(given, 2, random.key(0))
    assert found.shape == (3, 1)
    assert float(found[0] * 2 + found[1] * 2 + found[2]) == 31.0
    others = [mixing.bucketing(given, 2, random.key(seed)).tolist() for seed in range(1, 6)]
    assert any(other != found.tolist() for other in others)


@pytest.mark.parametrize("name", RULES)
def test_order_of_the_clients_changes_nothing(name: str) -> None:
    given, order = points(), torch.tensor([3, 0, 10, 7, 1, 9, 2, 8, 6, 4, 5])
    torch.testing.assert_close(RULES[name](given[order], 3), RULES[name](given, 3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(RULES) - AROUND_ZERO))
def test_a_common_shift_shifts_the_answer(name: str) -> None:
    given, shift = points(), torch.tensor([100.0, -20.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(RULES[name](given + shift, 3), RULES[name](given, 3) + shift, rtol=1e-10, atol=1e-10)


def test_the_geometric_median_shifts_once_it_has_converged() -> None:
    given, shift = points(), torch.tensor([100.0, -20.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    near, far = (geometric.geometric_median(rows, 3, passes=300) for rows in (given, given + shift))
    torch.testing.assert_close(far, near + shift, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("far", [1e12, -1e12])
def test_hostile_rows_far_away_leave_the_answer_among_honest_ones(name: str, far: float) -> None:
    """No further from the honest mean than three times the furthest honest row, with 3 of 11 hostile, alike or not."""
    honest = points(8)
    spread = torch.linspace(1.0, 2.0, 3, dtype=torch.float64).unsqueeze(1)
    for hostile in (torch.full((3, 5), far, dtype=torch.float64), far * spread.expand(3, 5), far * torch.eye(5, dtype=torch.float64)[:3]):
        found = RULES[name](torch.cat([hostile, honest]), 3)
        centre = honest.mean(0)
        assert (found - centre).norm() <= 3 * (honest - centre).norm(dim=1).max()


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "mixing, then trimmed mean"])
def test_rules_by_coordinate_stay_inside_the_honest_box(name: str) -> None:
    honest = points(8)
    found = RULES[name](torch.cat([honest, torch.full((3, 5), 1e12, dtype=torch.float64)]), 3)
    assert (found >= honest.min(0).values).all()
    assert (found <= honest.max(0).values).all()


@pytest.mark.parametrize("name", RULES)
def test_without_hostile_rows_equal_messages_are_the_answer(name: str) -> None:
    torch.testing.assert_close(RULES[name](torch.full((7, 3), -2.5), 2), torch.full((3,), -2.5))
