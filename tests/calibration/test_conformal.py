"""Thresholds against the definition, an independent library, and their guarantees, counted out."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from crepes import ConformalClassifier
from torch import Tensor

from metabayfl import random
from metabayfl.calibration.conformal import novelty_threshold, risk_threshold, set_threshold
from metabayfl.errors import ConfigError, DataError


def uniform(name: str, count: int) -> Tensor:
    return random.uniform(random.fold(random.key(3), name), (count,), torch.float64)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [9, 10, 19, 40])
def test_the_set_keeps_what_has_a_p_value_above_the_level(count: int, coverage: float) -> None:
    known = uniform("known", count)
    limit = set_threshold(known, coverage)
    for candidate in torch.cat([uniform("new", 200), known]):
        p_value = (int((known <= candidate).sum()) + 1) / (count + 1)
        assert bool(candidate >= limit) == (p_value > 1 - coverage + 1e-12)


@pytest.mark.parametrize("count", [5, 19, 50])
def test_sets_are_those_of_crepes(count: int) -> None:
    """crepes has nonconformities, high where strange, and p-values without smoothing."""
    known, candidates = uniform("known", count), uniform("probabilities", 300).reshape(100, 3)
    classifier = ConformalClassifier().fit(1 - known.numpy())
    theirs = classifier.predict_set(1 - candidates.numpy(), confidence=0.85, smoothing=False).astype(bool)
    assert np.array_equal((candidates >= set_threshold(known, 0.85)).numpy(), theirs)


@pytest.mark.parametrize("coverage", [0.5, 0.7, 0.8])
def test_the_coverage_over_all_orders_is_exact(coverage: float) -> None:
    """Of every arrangement of five distinct cases, the last as the new one, the truth is kept in the share ``ceil(5 c) / 5``."""
    kept = [float(order[-1]) >= set_threshold(torch.tensor(order[:-1]), coverage) for order in permutations([0.1, 0.3, 0.5, 0.7, 0.9])]
    assert sum(kept) / len(kept) == pytest.approx(math.ceil(5 * coverage - 1e-9) / 5)


def test_too_few_cases_keep_everything() -> None:
    assert set_threshold(torch.tensor([0.2, 0.4]), 0.9) == -math.inf
    assert set_threshold(torch.zeros(0), 0.5) == -math.inf
    assert novelty_threshold(torch.zeros(0), 0.02) == math.inf
    assert risk_threshold(torch.zeros(0), torch.zeros(0), 0.1) == -math.inf


def test_a_case_of_weight_two_is_two_cases() -> None:
    known, weight = torch.tensor([0.3, 0.1, 0.6]), torch.tensor([2.0, 1.0, 3.0])
    repeated = torch.tensor([0.3, 0.3, 0.1, 0.6, 0.6, 0.6])
    wrong = torch.tensor([1.0, 0.0, 1.0])
    for level in (0.3, 0.5, 0.7, 0.85):
        assert set_threshold(known, level, weight) == set_threshold(repeated, level)
        found = risk_threshold(known, wrong, 1 - level, weight)
        assert found == risk_threshold(repeated, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]), 1 - level)


def test_novelty_calls_at_most_the_share_of_ordinary_cases() -> None:
    known = uniform("known", 99)
    limit = novelty_threshold(known, 0.05)
    assert int((known > limit).sum()) == 4  # and the new one is the fifth of a hundred


@pytest.mark.parametrize("error", [0.05, 0.1, 0.3])
def test_the_risk_threshold_is_the_highest_that_holds(error: float) -> None:
    uncertainty = uniform("uncertainty", 200)
    wrong = (uniform("wrong", 200) < uncertainty).double()
    limit = risk_threshold(uncertainty, wrong, error)
    risk = {float(t): (float(wrong[uncertainty <= t].sum()) + 1) / 201 for t in uncertainty}
    assert risk[limit] <= error
    assert all(value > error for t, value in risk.items() if t > limit)


@pytest.mark.parametrize("error", [0.2, 0.4])
def test_the_risk_over_all_orders_is_at_most_the_error(error: float) -> None:
    """Six cases, the last as the new one: accepted and wrong in at most the promised share of all arrangements."""
    cases = [(0.1, 0.0), (0.2, 1.0), (0.3, 0.0), (0.4, 1.0), (0.5, 0.0), (0.6, 1.0)]
    bad = 0
    orders = list(permutations(cases))
    for order in orders:
        known = torch.tensor(order[:-1])
        limit = risk_threshold(known[:, 0], known[:, 1], error)
        bad += bool(torch.tensor(order[-1][0]) <= limit) and order[-1][1] == 1.0
    assert bad / len(orders) <= error


def test_a_risk_that_no_answer_runs_accepts_all() -> None:
    assert risk_threshold(torch.tensor([0.1, 0.5] * 10), torch.zeros(20), 0.1) == math.inf
    assert risk_threshold(torch.tensor([0.5] * 20), torch.ones(20), 0.1) == -math.inf


def test_bad_input_says_what_was_expected() -> None:
    with pytest.raises(ConfigError, match=r"coverage 1.0: expected a number between 0 and 1"):
        set_threshold(torch.ones(3), 1.0)
    with pytest.raises(ConfigError, match="error 0"):
        risk_threshold(torch.ones(3), torch.ones(3), 0.0)
    with pytest.raises(DataError, match="expected a number and a weight for each case"):
        set_threshold(torch.tensor([math.nan, 1.0]), 0.5)
    with pytest.raises(DataError, match="expected one for each"):
        risk_threshold(torch.ones(3), torch.ones(2), 0.5)
