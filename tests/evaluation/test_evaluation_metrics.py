"""Class metrics against independent implementations and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import MulticlassCalibrationError

from metabayfl.errors import DataError
from metabayfl.evaluation import metrics


def predictions(seed: int, count: int = 500, classes: int = 5, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(count, classes))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = np.array([rng.choice(classes, p=0.5 * row + 0.5 / classes) for row in probs])
    return probs, y


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bins", [5, 15])
def test_ece_equals_torchmetrics(seed: int, bins: int) -> None:
    probs, y = predictions(seed, sharpness=0.5 + seed)
    theirs = MulticlassCalibrationError(num_classes=5, n_bins=bins, norm="l1")(torch.from_numpy(probs), torch.from_numpy(y))
    # torchmetrics keeps confidences in float32
    assert metrics.ece(probs.astype(np.float32), y, bins) == pytest.approx(float(theirs), abs=1e-6)


def test_ece_of_certain_predictions_is_the_error_rate() -> None:
    probs, y = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 1])
    theirs = MulticlassCalibrationError(num_classes=3, n_bins=15, norm="l1")(torch.from_numpy(probs), torch.from_numpy(y))
    assert metrics.ece(probs, y) == pytest.approx(0.25, abs=1e-12)
    assert float(theirs) == pytest.approx(0.25, abs=1e-12)


def test_a_calibrated_forecaster_has_a_small_ece() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(size=100_000)
    probs = np.stack([first, 1 - first], -1)
    y = (rng.uniform(size=len(first)) > first).astype(np.int64)
    assert metrics.ece(probs, y) < 0.01


def test_reliability_counts_every_prediction_once() -> None:
    probs, y = predictions(1)
    found = metrics.reliability(probs, y)
    assert found.examples.sum() == len(y)
    assert found.examples @ found.accuracy / len(y) == pytest.approx(metrics.accuracy(probs, y))
    assert found.examples @ found.confidence / len(y) == pytest.approx(probs.max(-1).mean())


def test_brier_by_its_formula() -> None:
    probs, y = predictions(2)
    by_hand = [sum((row[k] - (k == label)) ** 2 for k in range(5)) for row, label in zip(probs, y, strict=True)]
    assert metrics.brier(probs, y) == pytest.approx(np.mean(by_hand), abs=1e-14)


def test_nll_of_a_certain_error_is_finite() -> None:
    assert metrics.nll([[1.0, 0.0]], [0]) == 0.0
    assert metrics.nll([[1.0, 0.0]], [1]) == pytest.approx(-np.log(np.finfo(np.float32).tiny))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.lists(st.integers(0, 6), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_auroc_equals_scikit_learn_with_ties(positive: list[int], negative: list[int]) -> None:
    labels = [1] * len(positive) + [0] * len(negative)
    assert metrics.auroc(positive, negative) == pytest.approx(roc_auc_score(labels, positive + negative), abs=1e-12)


def test_auroc_without_a_group_has_no_value() -> None:
    assert metrics.auroc([], [1.0]) is None
    assert metrics.auroc([1.0], []) is None


def test_accuracy_at_coverage_keeps_the_least_uncertain() -> None:
    hits = [1, 1, 1, 0, 1, 0, 1, 1, 0, 0]
    uncertainty = list(range(10))
    assert metrics.accuracy_at_coverage(hits, uncertainty, 0.8) == pytest.approx(6 / 8)
    assert metrics.accuracy_at_coverage(hits, uncertainty, 1.0) == pytest.approx(0.6)
    assert metrics.accuracy_at_coverage(hits, uncertainty, 1e-6) == 1.0


def test_ties_in_uncertainty_count_as_a_random_order_would() -> None:
    hits, same = np.array([1, 1, 0, 0, 1, 0]), np.zeros(6)
    assert metrics.coverage_curve(hits, same, [0.2, 0.5, 1.0]) == pytest.approx([0.5, 0.5, 0.5])
    shuffled = np.random.default_rng(0).permutation(6)
    mixed = np.array([0, 0, 1, 1, 1, 2])
    assert metrics.coverage_curve(hits[shuffled], mixed[shuffled], [0.4, 0.7]) == pytest.approx(metrics.coverage_curve(hits, mixed, [0.4, 0.7]))


@pytest.mark.parametrize("count", [35, 45, 70, 110])
def test_shares_that_are_inexact_in_floating_point_keep_the_right_number(count: int) -> None:
    hits = np.zeros(count)
    hits[: count * 4 // 5] = 1
    assert metrics.accuracy_at_coverage(hits, np.arange(count), 0.8) == 1.0


@pytest.mark.parametrize("count, lowest", [(1, 1), (9, 1), (19, 1), (20, 2), (30, 3)])
def test_worst_decile_takes_at_least_one_client(count: int, lowest: int) -> None:
    values = np.random.default_rng(count).permutation(np.arange(count, dtype=float))
    assert metrics.worst_decile(values) == pytest.approx(np.arange(lowest).mean())


def test_metrics_take_torch_tensors() -> None:
    probs, y = predictions(3)
    assert metrics.ece(torch.from_numpy(probs), torch.from_numpy(y)) == metrics.ece(probs, y)


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.nll, metrics.brier, metrics.ece])
def test_no_example_is_an_error(metric: object) -> None:
    with pytest.raises(DataError, match="0 examples"):
        metric(np.zeros((0, 3)), np.zeros(0, np.int64))  # type: ignore[operator]
    with pytest.raises(DataError, match="0 examples"):
        metrics.accuracy_at_coverage([], [])
    with pytest.raises(DataError, match="0 examples"):
        metrics.worst_decile([])
