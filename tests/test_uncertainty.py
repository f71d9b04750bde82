"""The split of sampled probabilities, and the thresholds above which a person looks."""

from __future__ import annotations

import math

import pytest
import torch

from metabayfl import random
from metabayfl.errors import ConfigError, DataError
from metabayfl.uncertainty import refer, sampled_split, threshold_for_error, threshold_for_share


def test_split_keeps_the_probabilities_and_adds_up() -> None:
    samples = torch.softmax(random.normal(random.key(0), (7, 5, 3), torch.float64), -1)
    probs = torch.softmax(random.normal(random.key(1), (5, 3), torch.float64), -1)
    out = sampled_split(probs, samples)
    mean = samples.mean(0)
    assert torch.equal(out.probs, probs)
    torch.testing.assert_close(out.total, -(mean * mean.log()).sum(-1))
    torch.testing.assert_close(out.total, out.aleatoric + out.epistemic)
    assert bool((out.epistemic > 0).all())


def test_samples_that_agree_are_aleatoric_and_samples_that_contradict_epistemic() -> None:
    agree = torch.full((4, 1, 2), 0.5)
    contradict = torch.eye(2).repeat(2, 1).unsqueeze(1)
    probs = torch.full((1, 2), 0.5)
    assert torch.allclose(sampled_split(probs, agree).epistemic, torch.zeros(1), atol=1e-7)
    assert torch.allclose(sampled_split(probs, contradict).epistemic, torch.tensor([math.log(2)]))
    assert torch.allclose(sampled_split(probs, contradict).aleatoric, torch.zeros(1))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_share_refers_exactly_that_many_distinct_scores(share: float) -> None:
    scores = random.uniform(random.key(2), (50,))
    referred = refer(scores, threshold_for_share(scores, share))
    assert int(referred.sum()) == round(share * 50)
    assert not bool(referred.any()) or float(scores[referred].min()) >= float(scores[~referred].max() if share < 1 else 0)


def test_ties_refer_at_most_the_share() -> None:
    scores = torch.tensor([1.0, 1.0, 1.0, 2.0])
    assert refer(scores, threshold_for_share(scores, 0.5)).tolist() == [False, False, False, True]


def test_error_threshold_is_the_highest_that_holds() -> None:
    scores = random.uniform(random.key(3), (200,))
    wrong = random.uniform(random.key(4), (200,)) < scores
    threshold = threshold_for_error(scores, wrong, 0.2)
    rates = {float(t): float(wrong[scores <= t].double().mean()) for t in scores}
    assert rates[threshold] <= 0.2
    assert all(rate > 0.2 for t, rate in rates.items() if t > threshold)


def test_error_threshold_takes_equal_scores_together_and_may_refer_all() -> None:
    assert threshold_for_error(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0, 1, 1]), 0.4) == -math.inf
    assert refer(torch.tensor([0.0]), -math.inf).tolist() == [True]
    assert threshold_for_error(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0, 1, 0]), 0.4) == 2.0


def test_a_score_that_is_no_number_is_referred() -> None:
    assert refer(torch.tensor([math.nan, 0.1]), 0.5).tolist() == [True, False]


def test_bad_input_says_what_was_expected() -> None:
    with pytest.raises(ConfigError, match=r"share 1.5: expected a number from 0 to 1"):
        threshold_for_share(torch.ones(2), 1.5)
    with pytest.raises(DataError, match="at least one case"):
        threshold_for_share(torch.ones(0), 0.5)
    with pytest.raises(DataError, match="at least one case"):
        threshold_for_error(torch.tensor([math.nan]), torch.ones(1), 0.5)
    with pytest.raises(DataError, match="expected one for each"):
        threshold_for_error(torch.ones(2), torch.ones(3), 0.5)
