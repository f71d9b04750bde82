"""The split of sampled probabilities, and the thresholds above which a person looks."""

from __future__ import annotations

import math

import pytest
import torch

from metabayfl import random
from metabayfl.errors import ConfigError, DataError
from metabayfl.uncertainty import refer, sampled_split, threshold_for_share


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


def test_a_case_of_weight_two_counts_twice() -> None:
    scores, weight = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 2.0])
    repeated = torch.tensor([3.0, 1.0, 2.0, 2.0])
    for share in (0.0, 0.2, 0.25, 0.5, 0.75, 1.0):
        assert threshold_for_share(scores, share, weight) == threshold_for_share(repeated, share)


def test_a_score_that_is_no_number_is_referred() -> None:
    assert refer(torch.tensor([math.nan, 0.1]), 0.5).tolist() == [True, False]


def test_bad_input_says_what_was_expected() -> None:
    with pytest.raises(ConfigError, match=r"share 1.5: expected a number from 0 to 1"):
        threshold_for_share(torch.ones(2), 1.5)
    with pytest.raises(DataError, match="expected one number and weight for each of some cases"):
        threshold_for_share(torch.ones(0), 0.5)
    with pytest.raises(DataError, match="one number and weight for each"):
        threshold_for_share(torch.ones(2), 0.5, torch.ones(3))
