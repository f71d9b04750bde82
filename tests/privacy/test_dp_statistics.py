"""Example-level privacy of sufficient statistics: sensitivity by search, a proper posterior, and the price."""

from __future__ import annotations

import math

import pytest
import torch

from metabayfl import random
from metabayfl.heads import remember
from metabayfl.heads.conjugate_classification import init, kappa, log_probs, posterior
from metabayfl.heads.conjugate_classification import statistics as sums
from metabayfl.privacy.accounting import Plan, epsilon
from metabayfl.privacy.sufficient_statistics import clipped_features, private_statistics, release_cost
from metabayfl.privacy.words import seeded
from metabayfl.types import Tree

BOUND = 3.0


def statistics(features: torch.Tensor, labels: torch.Tensor) -> Tree:
    return sums(remember(clipped_features(features, BOUND), labels, torch.ones(len(labels))), 4)


def weighted(one: Tree) -> torch.Tensor:
    return torch.cat([BOUND * one["count"], one["sum"].flatten()])


def test_no_example_moves_the_weighted_statistics_further_than_their_sensitivity() -> None:
    features, labels = 5.0 * random.normal(random.key(0), (40, 6)), torch.arange(40) % 4
    whole = weighted(statistics(features, labels))
    moved = [float((whole - weighted(statistics(features[keep], labels[keep]))).norm()) for at in range(40) if len(keep := _without(at, 40))]
    assert max(moved) <= BOUND * math.sqrt(2) * (1 + 1e-6)
    assert max(moved) == pytest.approx(BOUND * math.sqrt(2), rel=1e-4)


def _without(at: int, count: int) -> torch.Tensor:
    return torch.tensor([row for row in range(count) if row != at])


def test_features_are_clipped_row_by_row_and_bad_rows_vanish() -> None:
    given = torch.tensor([[3.0, 4.0], [0.3, 0.4], [math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(clipped_features(given, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))


def test_noise_has_the_deviations_that_the_account_assumes() -> None:
    many = {"count": torch.full((4000,), 1e4), "sum": torch.zeros(4000, 4)}
    noisy = private_statistics(many, BOUND, 2.0, seeded(random.key(1)))
    assert float((noisy["count"] - 1e4).std()) == pytest.approx(2.0 * math.sqrt(2), rel=0.05)
    assert float(noisy["sum"].std()) == pytest.approx(2.0 * BOUND * math.sqrt(2), rel=0.03)


@pytest.mark.parametrize("multiplier", [0.5, 5.0, 100.0])
def test_the_posterior_of_noisy_statistics_is_proper_and_its_means_are_within_reach(multiplier: float) -> None:
    features, labels = random.normal(random.key(2), (30, 6)), torch.arange(30) % 4
    noisy = private_statistics(statistics(features, labels), BOUND, multiplier, seeded(random.key(3)))
    prior = init(4, 6)
    after = posterior(prior, noisy)
    assert bool((after["kappa"] >= kappa(prior)).all())
    assert bool((after["a"] > 0).all())
    assert bool((after["mean"].norm(dim=-1) <= BOUND).all())
    assert bool(torch.isfinite(log_probs(after, features)).all())


def test_little_noise_leaves_the_statistics_as_they_are() -> None:
    features, labels = random.normal(random.key(2), (30, 6)), torch.arange(30) % 4
    exact = statistics(features, labels)
    near = private_statistics(exact, BOUND, 1e-6, seeded(random.key(4)))
    torch.testing.assert_close(near["sum"], exact["sum"], atol=1e-4, rtol=0)
    torch.testing.assert_close(near["count"], exact["count"], atol=1e-4, rtol=0)


def test_a_release_costs_one_gaussian() -> None:
    pytest.importorskip("dp_accounting")
    assert release_cost(4.0, 1e-5, 3) == epsilon(Plan(1, 1, 4.0, "all"), 3, 1e-5)
