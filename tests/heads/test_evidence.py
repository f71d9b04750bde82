"""The evidence mixture: equal to the plain head at one point, and the repair of a prior that does not fit."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.heads import conjugate_classification, conjugate_regression, evidence, remember
from metabayfl.heads import conjugate_classification as classification
from metabayfl.heads.conjugate_classification import log_probs, posterior, scaled, statistics
from metabayfl.heads.conjugate_regression import posterior as regression_posterior
from metabayfl.heads.conjugate_regression import predictive
from metabayfl.heads.conjugate_regression import statistics as regression_statistics
from metabayfl.heads.head import predict
from metabayfl.losses import prediction_nll
from metabayfl.types import RegressionPrediction, Tree

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
ONES = torch.ones((), dtype=torch.float64)


def normal(name: str, *shape: int) -> Tensor:
    return random.normal(random.fold(random.key(13), name), shape, torch.float64)


def classes(count: int) -> tuple[Tree, Tensor, Tensor]:
    """A client whose class means are far from the strategy's, so that the right kappa is small; query features and labels."""
    labels = torch.arange(count + 200) % 3
    centres = 3 * normal("centres", 3, 4)
    features = centres[labels] + normal("features", count + 200, 4)
    return remember(features[:count], labels[:count], torch.ones(count).double()), features[count:], labels[count:]


def prior() -> Tree:
    return {**tree.to(classification(3, 4).init(random.key(0)), torch.float64), "log_t": torch.tensor(0.0).double()}


def test_one_point_is_the_plain_head() -> None:
    head = conjugate_classification(3, 4)
    kept, query, _ = classes(9)
    points = evidence.weigh(head, prior(), head.statistics(kept), kept, evidence.grid((1.0,), (1.0,), query))
    mixed = predict(head, prior(), head.statistics(kept), points, query, random.key(0))
    assert points["weight"].tolist() == [1.0]
    torch.testing.assert_close(mixed.probs, log_probs(posterior(prior(), statistics(kept, 3)), query).exp(), rtol=0, atol=1e-14)


def test_one_point_is_the_plain_regression_head() -> None:
    head = conjugate_regression(2, 3)
    kept = remember(normal("x", 7, 3), normal("y", 7, 2), torch.ones(7).double())
    start, query = tree.to(head.init(random.key(0)), torch.float64), normal("query", 4, 3)
    points = evidence.weigh(head, start, head.statistics(kept), kept, evidence.grid((1.0,), (1.0,), query))
    mixed = predict(head, start, head.statistics(kept), points, query, random.key(0))
    for one, other in zip(mixed, predictive(regression_posterior(start, regression_statistics(kept)), query), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_weights_are_the_softmax_of_the_summed_leave_one_out() -> None:
    head = conjugate_classification(3, 4)
    kept, query, _ = classes(9)
    points = evidence.weigh(head, prior(), head.statistics(kept), kept, evidence.grid((0.1, 1.0), (1.0, 3.0), query))
    assert list(zip(points["u"].tolist(), points["v"].tolist(), strict=True)) == [(0.1, 1.0), (0.1, 3.0), (1.0, 1.0), (1.0, 3.0)]
    sums = [head.leave_one_out(scaled(prior(), u, v), head.statistics(kept), kept).sum() for u, v in zip(points["u"], points["v"], strict=True)]
    torch.testing.assert_close(points["weight"], torch.softmax(torch.stack(sums), 0))


def test_repairs_a_prior_that_trusts_itself_too_much() -> None:
    head = conjugate_classification(3, 4)
    kept, query, labels = classes(12)
    stubborn = {**prior(), "k": torch.tensor(5.0).double()}
    sums = head.statistics(kept)
    points = evidence.weigh(head, stubborn, sums, kept, evidence.grid(GRID, (1.0,), query))
    repaired = predict(head, stubborn, sums, points, query, random.key(0)).probs
    plain = log_probs(posterior(stubborn, sums), query)
    rows = torch.arange(len(labels))
    assert float((points["weight"] * points["u"]).sum()) < 0.2
    assert float(-repaired[rows, labels].log().mean()) < 0.5 * float(-plain[rows, labels].mean())


def test_repairs_a_regression_prior_that_trusts_itself_too_much() -> None:
    head = conjugate_regression(1, 3)
    x = normal("x", 120, 3)
    y = x @ normal("weights", 3, 1) * 3 + 0.1 * normal("noise", 120, 1)
    kept = remember(x[:20], y[:20], torch.ones(20).double())
    stubborn = {**tree.to(head.init(random.key(0)), torch.float64), "log_lambda": torch.full((4,), 5.0).double()}
    sums = head.statistics(kept)
    losses = {}
    for name, grid in {"plain": (1.0,), "mixed": GRID}.items():
        points = evidence.weigh(head, stubborn, sums, kept, evidence.grid(grid, (1.0,), x))
        losses[name] = float(prediction_nll(predict(head, stubborn, sums, points, x[20:], random.key(0)), y[20:]).mean())
    assert losses["mixed"] < losses["plain"] - 0.5


def test_without_a_sample_the_strategy_is_taken_as_trained() -> None:
    head = conjugate_classification(3, 4)
    kept, query, _ = classes(4)
    nothing = {**remember(kept["features"], kept["y"], torch.zeros(4).double())}
    points = evidence.weigh(head, prior(), head.statistics(nothing), nothing, evidence.grid(GRID, GRID, query))
    chosen = points["weight"] > 0
    assert (points["u"][chosen].tolist(), points["v"][chosen].tolist(), points["weight"][chosen].tolist()) == ([1.0], [1.0], [1.0])


def test_draws_follow_the_weights_as_evenly_as_can_be() -> None:
    points = {**evidence.grid((1.0, 2.0, 3.0), (1.0,), ONES), "weight": torch.tensor([0.15, 0.6, 0.25]).double()}
    for seed in range(5):
        u, v = evidence.draw(points, 20, random.key(seed))
        assert [int((u == value).sum()) for value in (1.0, 2.0, 3.0)] == [3, 12, 5]
        assert bool((v == 1).all())


def test_mixed_student_has_the_mixture_s_moments() -> None:
    weight = torch.tensor([0.3, 0.7], dtype=torch.float64)
    mean = torch.tensor([1.0, -2.0]).double().view(2, 1, 1)
    dof = torch.full((2, 1, 1), 7.0).double()
    variance, share = torch.tensor([0.5, 2.0]).double().view(2, 1, 1), 0.25
    each = RegressionPrediction(mean, torch.sqrt(variance * 5 / 7), dof, variance, (1 - share) * variance, share * variance)
    out = evidence.mix_students(weight, each)
    expected_mean = 0.3 * 1.0 + 0.7 * -2.0
    expected_variance = 0.3 * (0.5 + 1.0**2) + 0.7 * (2.0 + 2.0**2) - expected_mean**2
    assert abs(out.mean.item() - expected_mean) < 1e-12
    assert abs(out.total.item() - expected_variance) < 1e-12
    assert abs(out.scale.item() ** 2 * 7 / 5 - expected_variance) < 1e-12
    assert abs(out.aleatoric.item() - 0.75 * (0.3 * 0.5 + 0.7 * 2.0)) < 1e-12
    torch.testing.assert_close(out.total, out.aleatoric + out.epistemic)
