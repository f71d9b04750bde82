"""From kept scores to the numbers of ``summary.json``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from metabayfl.errors import DataError
from metabayfl.evaluation import metrics, regression
from metabayfl.evaluation.scores import ClassScores, HeldOut, RegressionScores, class_scores, has_epistemic, novelty, regression_scores

Figure = float | None
"""A number, or None where it has no value: JSON has neither NaN nor infinity."""


def figure(value: float | None) -> Figure:
    """``value`` as JSON can hold it.

    Example:
        >>> figure(float("inf")), figure(0.5)
        (None, 0.5)
    """
    return None if value is None or not math.isfinite(value) else float(value)


def summarise(held: HeldOut) -> dict[str, Figure]:
    """The issue's keys for one algorithm and seed.

    Test samples are pooled, each counting once, but for the keys that speak of clients: ``ece_worst_client``, ``accuracy_worst_decile`` and
    ``auroc_unseen`` (mean over clients that have examples of both sorts; its score is the epistemic uncertainty where the algorithm has one,
    else the total). ``accuracy_at_80_coverage`` refers the 20 % of highest total uncertainty. Regression figures are in the targets' units.

    Raises:
        DataError: if no client was scored.
    """
    if not held.clients:
        raise DataError(f"{held.algorithm!r} has no scored client: evaluate on at least one.")
    found = _classification(class_scores(held)) if held.kind == "classification" else _regression(regression_scores(held))
    return {name: figure(value) for name, value in found.items()}


def _classification(clients: list[ClassScores]) -> dict[str, Figure]:
    probs, y = (np.concatenate([getattr(scores, name) for scores in clients]) for name in ("probs", "y"))
    total = np.concatenate([scores.total for scores in clients])
    return {
        "accuracy": metrics.accuracy(probs, y),
        "nll": metrics.nll(probs, y),
        "brier": metrics.brier(probs, y),
        "ece": metrics.ece(probs, y),
        "ece_worst_client": max(metrics.ece(scores.probs, scores.y) for scores in clients),
        "accuracy_worst_decile": metrics.worst_decile([metrics.accuracy(scores.probs, scores.y) for scores in clients]),
        "auroc_unseen": auroc_unseen(clients),
        "accuracy_at_80_coverage": metrics.accuracy_at_coverage(metrics.right(probs, y), total, 0.8),
    }


def auroc_unseen(clients: list[ClassScores]) -> Figure:
    """Mean over clients of the AUROC with which uncertainty tells never-seen classes from seen ones; None where no client has both."""
    epistemic = has_epistemic(clients)
    values = [metrics.auroc(*novelty(scores, epistemic=epistemic)) for scores in clients]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _regression(clients: list[RegressionScores]) -> dict[str, Figure]:
    y, mean, scale, dof = (np.concatenate([getattr(scores, name) for scores in clients]) for name in ("y", "mean", "scale", "dof"))
    return {
        "rmse": regression.rmse(mean, y),
        "nll": regression.nll(mean, scale, dof, y),
        "crps": float(regression.crps(mean, scale, dof, y).mean()),
        "coverage_90": regression.coverage(mean, scale, dof, y, 0.9),
    }


def over_seeds(seeds: Sequence[Mapping[str, Figure]]) -> dict[str, Any]:
    """``{"mean": {key: number}, "sd": {key: number}, "per_seed": [figures of each seed, in order]}``.

    The standard deviation has ``n - 1`` below the line and is 0 for one seed. A key that some seed has no value for has none here either: a
    mean over fewer seeds than its neighbours' could not be compared with them.

    Example:
        >>> over_seeds([{"nll": 1.0}, {"nll": 3.0}])["mean"]
        {'nll': 2.0}
    """
    names = list(dict.fromkeys(name for row in seeds for name in row))
    columns = {name: [row.get(name) for row in seeds] for name in names}
    return {
        "mean": {name: _over(statistics.fmean, values) for name, values in columns.items()},
        "sd": {name: _over(_sd, values) for name, values in columns.items()},
        "per_seed": [dict(row) for row in seeds],
    }


def _over(combine: Any, values: Iterable[Figure]) -> Figure:
    known = [figure(value) for value in values]
    return None if not known or None in known else figure(combine(known))


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
