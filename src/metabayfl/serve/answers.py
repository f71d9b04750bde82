"""From predictions to JSON, and from predictions with known answers to feedback."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import special, stats

from metabayfl.data.raw import Array
from metabayfl.data.schema import Schema
from metabayfl.personal import PersonalModel
from metabayfl.presentation import PersonalPrediction
from metabayfl.serve.feedback import Feedback
from metabayfl.serve.history import Sums
from metabayfl.types import RegressionPrediction


class Assessed(NamedTuple):
    """What a model says of samples whose labels it has not learned from, ``(n,)`` each."""

    confidence: Array
    correct: Array
    log_probability: Array


def items(prediction: PersonalPrediction) -> list[dict[str, Any]]:
    """One JSON object a row."""
    names = prediction.classes
    columns: dict[str, list[Any]] = {"label": prediction.label.tolist()}
    if prediction.probabilities is not None:
        columns["probabilities"] = [dict(zip(names, row, strict=True)) for row in prediction.probabilities.tolist()]
    else:
        columns["label"] = _named(names, prediction.label)
    for part in ("total", "aleatoric", "epistemic"):
        values = getattr(prediction, part)
        columns[part] = values.tolist() if values.ndim == 1 else _named(names, values)
    if prediction.interval is not None:
        columns["interval"] = _named(names, prediction.interval)
    if prediction.sets is not None:
        columns["set"] = [list(names) for names in prediction.sets]
    columns |= {"novel": prediction.novel.tolist(), "refer": prediction.refer.tolist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def sums(schema: Schema, prediction: PersonalPrediction) -> Sums:
    """What a prediction adds to the history; variances are in training variances, the mean over the targets."""
    parts = (sum(_scalar(schema, getattr(prediction, part)).tolist()) for part in ("total", "aleatoric", "epistemic"))  # of one row, mostly
    return Sums(len(prediction.refer), sum(prediction.refer.tolist()), sum(prediction.novel.tolist()), *parts)


def assess(model: PersonalModel, x: Any, y: Array) -> tuple[PersonalPrediction, Assessed]:
    """Predictions for labelled samples, and how they compare with the labels."""
    prediction = model.predict(x)
    if prediction.probabilities is not None:
        truth = model.schema.encode_targets(y)
        each = prediction.probabilities[np.arange(len(truth)), truth].astype(np.float64)
        correct = (prediction.probabilities.argmax(-1) == truth).astype(np.float64)
        return prediction, Assessed(prediction.probabilities.max(-1).astype(np.float64), correct, np.log(np.maximum(each, 1e-38)))
    return prediction, _intervals(model, x, y)


def _intervals(model: PersonalModel, x: Any, y: Array) -> Assessed:
    """For Student-t predictives: the level ``|2 F(y) - 1|`` of the smallest central interval that holds the truth, and the density there."""
    with torch.no_grad():
        raw = model.prepared.answer(model.prepared.constants, torch.from_numpy(model.schema.encode(x)))
    assert isinstance(raw, RegressionPrediction)
    mean, scale, dof = (part.double().numpy() for part in (raw.mean, raw.scale, raw.dof))
    away = (model.schema.encode_targets(y).astype(np.float64) - mean) / scale
    gaussian = np.isinf(dof)
    finite = np.where(gaussian, 1.0, dof)
    level = np.abs(2 * np.where(gaussian, special.ndtr(away), special.stdtr(finite, away)) - 1)
    density = np.where(gaussian, stats.norm.logpdf(away), stats.t.logpdf(away, finite)) - np.log(scale)
    return Assessed(level.mean(-1), (level <= 0.9).mean(-1), density.mean(-1))


def feedback(client: str, version: int, now: float, y: Array, schema: Schema, found: tuple[PersonalPrediction, Assessed]) -> list[Feedback]:
    """Rows for the table of feedback."""
    prediction, assessed = found
    parts = [_scalar(schema, getattr(prediction, part)).tolist() for part in ("total", "aleatoric", "epistemic")]
    each = zip(y.tolist(), prediction.label.tolist(), *(part.tolist() for part in assessed), *parts, prediction.refer.tolist(), strict=True)
    return [Feedback(client, now, version, *row) for row in each]


def finite(value: float) -> float | None:
    """A number for JSON, which has no infinity."""
    return value if math.isfinite(value) else None


def when(seconds: float) -> str:
    """A time in UTC.

    Example:
        >>> when(0.0)
        '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _named(names: tuple[str, ...], values: Array) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]


def _scalar(schema: Schema, values: Array) -> Array:
    return values if values.ndim == 1 else np.asarray((values / np.asarray(schema.target_scale) ** 2).mean(-1))
