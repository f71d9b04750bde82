"""The e-detector: exact expectations, run length without a change, delay after one, and hostile numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from metabayfl.change_point import SLIP, Change, begin, follow, log_ratio, rings, step
from metabayfl.errors import ConfigError, DataError
from metabayfl.types import ClassPrediction, RegressionPrediction

PERSONAL, ALTERNATIVE = 0.8, 0.3


def run(ratios: list[float], run_length: float = 1e12) -> Change:
    change = begin(run_length)
    for ratio in ratios:
        change = step(change, ratio)
    return change


def gaussian_ratios(shift: float, mean: float, cases: int, seed: int) -> list[float]:
    """N(shift, 1) against N(0, 1) on cases from N(mean, 1)."""
    x = np.random.default_rng(seed).normal(mean, 1.0, cases)
    ratios: list[float] = (shift * x - shift**2 / 2).tolist()
    return ratios


def alarm_time(ratios: list[float], run_length: float, *, by_cusum: bool = False) -> int:
    change = begin(run_length)
    for at, ratio in enumerate(ratios, start=1):
        change = step(change, ratio)
        if change.cusum >= math.log(run_length) if by_cusum else rings(change):
            return at
    return len(ratios)


def test_the_sum_is_the_recursion_of_shiryaev_and_roberts() -> None:
    ratios = [0.3, -2.0, 1.5, 0.2, -0.4]
    explicit = sum(math.exp(sum(ratios[start:])) for start in range(len(ratios)))
    assert math.isclose(math.expm1(run(ratios).evidence), explicit, rel_tol=1e-12)


def test_the_cusum_is_the_best_start_and_remembers_it() -> None:
    ratios = [0.3, -2.0, 1.5, 0.2, -0.4]
    sums = [sum(ratios[start:]) for start in range(len(ratios))]
    change = run(ratios)
    assert math.isclose(change.cusum, max(sums))
    assert change.start == int(np.argmax(sums)) == 2
    assert change.cusum <= math.log(math.expm1(change.evidence))


@pytest.mark.parametrize("slip", [0.0, SLIP])
def test_under_the_null_the_sum_minus_time_is_a_martingale(slip: float) -> None:
    """Over all label sequences of a Bernoulli predictive, enumerated: E[M_t] = t under the null, below under the personal predictive."""
    null = (1 - slip) * PERSONAL + slip * ALTERNATIVE
    ratio = {1: math.log(ALTERNATIVE / null), 0: math.log((1 - ALTERNATIVE) / (1 - null))}
    given = log_ratio(*torch.tensor([[ALTERNATIVE, 1 - ALTERNATIVE], [PERSONAL, 1 - PERSONAL]], dtype=torch.float64).log(), slip or 1e-300)
    assert torch.allclose(given, torch.tensor([ratio[1], ratio[0]], dtype=torch.float64), rtol=1e-12)
    for law in (null, PERSONAL):
        expected = 0.0
        for labels in itertools.product((0, 1), repeat=8):
            chance = math.prod(law if label else 1 - law for label in labels)
            expected += chance * math.expm1(run([ratio[label] for label in labels]).evidence)
        assert math.isclose(expected, 8.0, rel_tol=1e-12) if law == null else expected < 8.0


@pytest.mark.parametrize("by_cusum", [False, True])
def test_without_a_change_the_average_run_length_is_at_least_the_promised(by_cusum: bool) -> None:
    promised = 40.0
    times = [alarm_time(gaussian_ratios(1.0, 0.0, 1500, seed), promised, by_cusum=by_cusum) for seed in range(400)]
    assert np.mean(times) >= promised


def test_after_a_change_the_delay_is_close_to_the_information_bound() -> None:
    shift, promised = 0.5, 1e6
    bound = math.log(promised) / (shift**2 / 2)
    delays = [alarm_time(gaussian_ratios(shift, shift, 1000, seed), promised) for seed in range(200)]
    assert 0.8 * bound < np.mean(delays) < 1.1 * bound


def test_the_likeliest_start_is_near_the_change() -> None:
    starts = [next_alarm(gaussian_ratios(1.0, 0.0, 100, seed) + gaussian_ratios(1.0, 1.0, 200, seed + 1000)).start for seed in range(50)]
    assert abs(float(np.median(starts)) - 100) <= 3


def next_alarm(ratios: list[float]) -> Change:
    change = begin(1e5)
    for ratio in ratios:
        change = step(change, ratio)
    assert rings(change)
    return change


def test_the_detector_stops_where_it_rings_and_goes_on_counting() -> None:
    rung = run([3.0, 3.0], run_length=10)
    assert rings(rung)
    later = step(step(rung, -50.0), -50.0)
    assert rings(later)
    assert later == rung._replace(cases=4)


def test_one_impossible_label_does_not_ring() -> None:
    impossible = log_ratio(torch.tensor([-0.1]), torch.tensor([-80.0]))
    assert float(impossible) <= -math.log(SLIP) + 1e-6
    assert not rings(run(impossible.tolist(), 1000))
    assert rings(run(impossible.tolist() * 3, 1000))


def test_predictions_of_both_kinds_are_followed() -> None:
    sure, unsure = torch.tensor([[0.9, 0.1]] * 2), torch.tensor([[0.5, 0.5]] * 2)
    zero = torch.zeros(2)
    y = torch.tensor([0, 1])
    change = follow(begin(), ClassPrediction(sure, zero, zero, zero), ClassPrediction(unsure, zero, zero, zero), y)
    assert math.isclose(change.cusum, math.log(0.5 / (0.95 * 0.1 + 0.05 * 0.5)), rel_tol=1e-6)
    assert (change.cases, change.start) == (2, 1)
    near, far = (
        RegressionPrediction(torch.full((2, 1), at), torch.ones(2, 1), torch.full((2, 1), math.inf), *[torch.ones(2, 1)] * 3) for at in (0.0, 5.0)
    )
    assert follow(begin(), far, near, torch.zeros(2, 1)).cusum > 5
    assert follow(begin(), near, far, torch.zeros(2, 1)).cusum == 0


def test_numbers_of_no_meaning_are_refused() -> None:
    with pytest.raises(ConfigError, match="run_length 0"):
        begin(0)
    with pytest.raises(ConfigError, match="run_length inf"):
        begin(math.inf)
    with pytest.raises(DataError, match="log ratio nan"):
        step(begin(), math.nan)
