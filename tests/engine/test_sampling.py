"""Samplers: distinct clients, the promised probabilities, and cohorts that differ."""

from __future__ import annotations

import numpy as np
import pytest

from metabayfl.data import Clients, Federation, in_memory
from metabayfl.engine.sampling import SAMPLERS, diverse, size_weighted


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_cohorts_are_distinct_seeded_and_never_larger_than_the_population(name: str, federation: Federation) -> None:
    sample = SAMPLERS[name](federation.train)
    first, again = (sample(np.random.default_rng(3), 5) for _ in range(2))
    assert len(set(first.tolist())) == len(first)
    assert len(first) == 5 or name == "poisson"
    np.testing.assert_array_equal(first, again)
    assert sorted(sample(np.random.default_rng(0), 100).tolist()) == list(range(8))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_only_clients_that_are_there_are_chosen(name: str, federation: Federation) -> None:
    sample, pool = SAMPLERS[name](federation.train), np.array([1, 4, 6])
    chosen = [sample(np.random.default_rng(seed), 2, pool) for seed in range(50)]
    assert {int(position) for positions in chosen for position in positions} == {1, 4, 6}
    assert name == "poisson" or all(len({*positions}) == 2 for positions in chosen)
    for seed in range(5):
        np.testing.assert_array_equal(sample(np.random.default_rng(seed), 5), sample(np.random.default_rng(seed), 5, np.arange(8)))


def test_nobodys_poisson_probability_depends_on_who_is_there(federation: Federation) -> None:
    sampler = SAMPLERS["poisson"](federation.train)
    counts = [len(sampler(np.random.default_rng(seed), 2, np.array([3]))) for seed in range(4000)]
    assert abs(np.mean(counts) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


def test_size_weighted_prefers_in_proportion(federation: Federation) -> None:
    sample, rng = size_weighted(federation.train), np.random.default_rng(0)
    counts = np.bincount([sample(rng, 1)[0] for _ in range(4000)], minlength=8) / 4000
    np.testing.assert_allclose(counts, federation.train.sizes / federation.train.sizes.sum(), atol=0.025)


def _one_class_clients(labels: list[int]) -> Clients:
    data = [(np.zeros((4, 1), np.float32), np.full(4, label, np.int64)) for label in labels]
    return in_memory([str(i) for i in range(len(labels))], data, [4] * len(labels))


def test_diverse_takes_one_of_each_kind_before_a_second() -> None:
    labels = [0] * 10 + [1] + [2]
    sample = diverse(_one_class_clients(labels))
    for seed in range(20):
        assert {labels[position] for position in sample(np.random.default_rng(seed), 3)} == {0, 1, 2}


def test_diverse_works_on_regression_targets() -> None:
    data = [(np.zeros((4, 1), np.float32), np.full((4, 1), value, np.float32)) for value in (0.0, 0.0, 0.0, 9.0)]
    sample = diverse(in_memory(list("abcd"), data, [4] * 4))
    assert all(3 in sample(np.random.default_rng(seed), 2) for seed in range(20))


def test_poisson_cohorts_have_the_asked_size_on_average_and_may_be_empty(federation: Federation) -> None:
    sampler = SAMPLERS["poisson"](federation.train)
    sizes = [len(sampler(np.random.default_rng(seed), 2)) for seed in range(2000)]
    assert abs(np.mean(sizes) - 2.0) < 4 * np.sqrt(8 * 0.25 * 0.75 / 2000)
    assert min(sizes) == 0
