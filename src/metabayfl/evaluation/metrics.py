"""Metrics of class predictions: pure functions on numpy arrays of ``N`` examples.

Every share is from 0 to 1 and every loss in nats. Arithmetic is in float64 whatever the predictions came in, so that a mean over many
thousand examples does not depend on their order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metabayfl.errors import DataError

Array = NDArray[np.float64]

BINS = 15
"""Equal-width bins of the calibration error, unless said otherwise."""


class Reliability(NamedTuple):
    """What happened in each of ``B`` equal-width bins of confidence; the means of an empty bin are 0."""

    examples: Array  # (B,) how many
    confidence: Array  # (B,) mean probability of the predicted class
    accuracy: Array  # (B,) share of right predictions


def _floats(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


def _refuse_empty(values: Array, what: str) -> None:
    if len(values) == 0:
        raise DataError(f"{what} of 0 examples is undefined: give at least one example.")


def right(probs: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
    """Which predictions are right, ``(N,)``; of equal probabilities the first class is the prediction.

    Args:
        probs: class probabilities ``(N, K)``.
        y: true classes ``(N,)``.
    """
    hits: NDArray[np.bool_] = _floats(probs).argmax(-1) == np.asarray(y)
    return hits


def accuracy(probs: ArrayLike, y: ArrayLike) -> float:
    """Share of right predictions.

    Example:
        >>> accuracy([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], [0, 1, 1, 0])
        0.75
    """
    hits = right(probs, y)
    _refuse_empty(_floats(hits), "accuracy")
    return float(hits.mean())


def nll(probs: ArrayLike, y: ArrayLike) -> float:
    """Mean negative log probability of the true class, nats; a probability of 0 counts as float32's smallest normal number."""
    values = _floats(probs)
    _refuse_empty(values, "NLL")
    picked = values[np.arange(len(values)), np.asarray(y)]
    return float(-np.log(np.maximum(picked, np.finfo(np.float32).tiny)).mean())


def brier(probs: ArrayLike, y: ArrayLike) -> float:
    """Mean squared distance to the one-hot truth, summed over classes: from 0 to 2 (Brier 1950).

    Example:
        >>> brier([[1.0, 0.0], [0.5, 0.5]], [0, 1])
        0.25
    """
    values = _floats(probs)
    _refuse_empty(values, "Brier score")
    truth = np.eye(values.shape[1])[np.asarray(y)]
    return float(((values - truth) ** 2).sum(-1).mean())


def reliability(probs: ArrayLike, y: ArrayLike, bins: int = BINS) -> Reliability:
    """The reliability diagram's numbers. Bins are ``[b/B, (b+1)/B)``, as torchmetrics has them; confidence 1 belongs to the last."""
    values = _floats(probs)
    confidence, hits = values.max(-1), _floats(right(values, y))
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins).astype(np.float64)
    divisor = np.maximum(count, 1.0)
    return Reliability(count, np.bincount(index, confidence, bins) / divisor, np.bincount(index, hits, bins) / divisor)


def ece(probs: ArrayLike, y: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over the bins, weighted by count (Naeini et al. 2015).

    Example:
        >>> round(ece([[0.8, 0.2]] * 4, [0, 0, 0, 1]), 6)
        0.05
    """
    found = reliability(probs, y, bins)
    total = found.examples.sum()
    _refuse_empty(found.examples[: int(total)], "ECE")
    return float((found.examples * np.abs(found.accuracy - found.confidence)).sum() / total)


def auroc(positive: ArrayLike, negative: ArrayLike) -> float | None:
    """Probability that a positive scores above a negative, ties counting half (Mann and Whitney 1947); None where a group is empty.

    Example:
        >>> auroc([0.9, 0.5], [0.5, 0.1])
        0.875
    """
    high, low = _floats(positive), _floats(negative)
    if len(high) == 0 or len(low) == 0:
        return None
    low = np.sort(low)
    below = np.searchsorted(low, high, side="left")
    not_above = np.searchsorted(low, high, side="right")
    return float((below + not_above).sum() / (2.0 * len(high) * len(low)))


def _expected_hits(hits: Array, uncertainty: Array) -> Array:
    """Hits in order of rising uncertainty; among equal uncertainties each has the group's mean, the expectation of a random order."""
    groups, index = np.unique(uncertainty, return_inverse=True)
    means = np.bincount(index, hits, len(groups)) / np.bincount(index, minlength=len(groups))
    ordered: Array = means[np.sort(index)]
    return ordered


def coverage_curve(hits: ArrayLike, uncertainty: ArrayLike, coverage: ArrayLike) -> Array:
    """Accuracy of the cases kept when all but the least uncertain are referred to a person.

    Args:
        hits: right (1) or wrong (0), ``(N,)``.
        uncertainty: any score, higher is less sure, ``(N,)``.
        coverage: shares of cases kept, each above 0 and at most 1; at least one case is kept.

    Returns:
        One accuracy per share.

    Example:
        >>> coverage_curve([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], [0.5, 1.0]).tolist()
        [1.0, 0.5]
    """
    values = _floats(hits)
    _refuse_empty(values, "accuracy at coverage")
    running = np.cumsum(_expected_hits(values, _floats(uncertainty)))
    # rounding first: 0.8 * 35 is a hair above 28 in floating point and would keep 29
    kept = np.clip(np.ceil(np.round(_floats(coverage) * len(values), 9)).astype(int), 1, len(values))
    curve: Array = running[kept - 1] / kept
    return curve


def accuracy_at_coverage(hits: ArrayLike, uncertainty: ArrayLike, coverage: float = 0.8) -> float:
    """Accuracy of the ``coverage`` least uncertain cases (Geifman and El-Yaniv 2017, selective classification)."""
    return float(coverage_curve(hits, uncertainty, [coverage])[0])


def worst_decile(values: ArrayLike) -> float:
    """Mean of the lowest 10 % of the clients' values, at least one client.

    Example:
        >>> worst_decile([0.9] * 19 + [0.1])
        0.5
    """
    ordered = np.sort(_floats(values))
    _refuse_empty(ordered, "worst-decile mean")
    return float(ordered[: max(1, len(ordered) // 10)].mean())
