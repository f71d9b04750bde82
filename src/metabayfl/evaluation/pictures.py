"""What the report's pictures need, as small plain JSON: counts, quantiles and curves instead of every prediction.

``figures.json`` is ``{algorithm: [one entry a seed]}``; an entry comes from :func:`payload`. Every number is finite.

Classification::

    reliability  {examples, confidence, accuracy}        each of 15 bins
    clients      {id, n, accuracy, nll, support}      a column each; n test samples, support is how many it adapted on
    classes      {name, test, shown}                  of each class: test samples of all clients, and clients whose support shows it
    uncertainty  {total | epistemic: {right | wrong | unseen: {n, quantiles}}}   nats; epistemic is null where the algorithm has none
    referral     {referred, accuracy}                 shares referred from 0 to 0.9

Regression::

    points       one for each target: {target, true, mean, low, high}   at most 200 test samples, 90 % intervals
    coverage     {nominal, observed}                  central intervals of 10 to 95 %
    clients      {id, n, rmse, nll, support}
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metabayfl.evaluation import metrics, regression
from metabayfl.evaluation.scores import ClassScores, HeldOut, RegressionScores, class_scores, has_epistemic, regression_scores

REFERRED = tuple(round(0.05 * step, 2) for step in range(19))
LEVELS = (*(round(0.1 * step, 1) for step in range(1, 10)), 0.95)
QUANTILES = 101
POINTS = 200


def payload(held: HeldOut) -> dict[str, Any]:
    """One algorithm's pictures for one seed (the module's docstring has the format)."""
    return _classification(class_scores(held), held.labels) if held.kind == "classification" else _regression(regression_scores(held), held.labels)


def _compact(values: NDArray[Any]) -> list[float]:
    """Six significant digits; what is not finite (a diverged algorithm) counts as 0, since JSON has no such number."""
    return [float(f"{value:.6g}") for value in np.nan_to_num(np.asarray(values, dtype=np.float64), posinf=0.0, neginf=0.0).ravel()]


def _classification(clients: list[ClassScores], labels: tuple[str, ...]) -> dict[str, Any]:
    probs, y, total = (np.concatenate([getattr(scores, name) for scores in clients]) for name in ("probs", "y", "total"))
    found = metrics.reliability(probs, y)
    curve = metrics.coverage_curve(metrics.right(probs, y), total, 1.0 - np.asarray(REFERRED))
    return {
        "reliability": {name: _compact(values) for name, values in found._asdict().items()},
        "clients": _clients(
            clients,
            accuracy=[metrics.accuracy(scores.probs, scores.y) for scores in clients],
            nll=[metrics.nll(scores.probs, scores.y) for scores in clients],
        ),
        "classes": {
            "name": list(labels),
            "test": np.bincount(y, minlength=len(labels)).tolist(),
            "shown": np.sum([scores.seen for scores in clients], axis=0).tolist(),
        },
        "uncertainty": {"total": _uncertainty(clients, "total"), "epistemic": _uncertainty(clients, "epistemic") if has_epistemic(clients) else None},
        "referral": {"referred": list(REFERRED), "accuracy": _compact(curve)},
    }


def _clients(clients: list[Any], **figures: list[float]) -> dict[str, Any]:
    columns = {name: _compact(np.asarray(values)) for name, values in figures.items()}
    return {
        "id": [scores.client for scores in clients],
        "n": [len(scores.y) for scores in clients],
        "support": [scores.support for scores in clients],
        **columns,
    }


def _uncertainty(clients: list[ClassScores], kind: str) -> dict[str, Any]:
    own = np.concatenate([getattr(scores, kind) for scores in clients])
    hits = np.concatenate([metrics.right(scores.probs, scores.y) for scores in clients])
    unseen = np.concatenate([getattr(scores, f"unseen_{kind}") for scores in clients])
    return {name: _quantiles(values) for name, values in {"right": own[hits], "wrong": own[~hits], "unseen": unseen}.items()}


def _quantiles(values: NDArray[np.float64]) -> dict[str, Any]:
    shape = np.quantile(values, np.linspace(0, 1, QUANTILES)) if len(values) else np.zeros(0)
    return {"n": len(values), "quantiles": _compact(shape)}


def _regression(clients: list[RegressionScores], targets: tuple[str, ...]) -> dict[str, Any]:
    y, mean, scale, dof = (np.concatenate([getattr(scores, name) for scores in clients]) for name in ("y", "mean", "scale", "dof"))
    observed = np.asarray([regression.coverage(mean, scale, dof, y, level) for level in LEVELS])
    return {
        "points": [_points(target, *(part[:, at] for part in (y, mean, scale, dof))) for at, target in enumerate(targets)],
        "coverage": {"nominal": list(LEVELS), "observed": _compact(observed)},
        "clients": _clients(
            clients,
            rmse=[regression.rmse(scores.mean, scores.y) for scores in clients],
            nll=[regression.nll(scores.mean, scores.scale, scores.dof, scores.y) for scores in clients],
        ),
    }


def _points(target: str, y: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64], dof: NDArray[np.float64]) -> dict[str, Any]:
    """Evenly spaced rows of the pooled test samples, so that every client is in the picture."""
    rows = np.unique(np.linspace(0, len(y) - 1, min(POINTS, len(y))).astype(int))
    half = regression.half_width(scale[rows], dof[rows], 0.9)
    columns = {"true": y[rows], "mean": mean[rows], "low": mean[rows] - half, "high": mean[rows] + half}
    return {"target": target, **{name: _compact(values) for name, values in columns.items()}}
