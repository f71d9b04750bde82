"""A prediction as a person reads it: names, units, prediction sets, and the decision whether somebody should look."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metabayfl.calibration import class_sets, interval_half_width, score, strangeness
from metabayfl.data.schema import Schema
from metabayfl.types import ClassPrediction, Prediction, RegressionPrediction
from metabayfl.uncertainty import refer

Array = NDArray[Any]


@dataclass(frozen=True)
class PersonalPrediction:
    """What a client's model says of ``n`` inputs, as NumPy arrays.

    Attributes:
        label: the most probable class name ``(n,)``, or the mean in the target's unit ``(n, R)``.
        probabilities: ``(n, K)`` in the order of ``classes``; None in regression.
        classes: class names, or target names.
        total: entropy in nats ``(n,)``, or predictive variance in squared units ``(n, R)``.
        aleatoric: the part that more samples would not remove.
        epistemic: the part that they would.
        interval: ``(n, R, 2)`` interval of the wanted coverage in the target's unit; None in classification.
        sets: for each input the classes that may be true, of the wanted coverage, likeliest first; None in regression. An empty one means that even
            the likeliest class is less probable than the truth usually is.
        guaranteed: whether sets or intervals have their coverage from cases with known answers; else there were too few, and it is the model's word.
        novel: ``(n,)`` True where the input is unlike anything known: always referred, and any class may be true.
        refer: ``(n,)`` True where a person should look: novel, or less certain than the threshold allows.
        threshold: the uncertainty above which a case is referred: nats, or the mean over targets of the standardised predictive variance.
    """

    label: Array
    probabilities: Array | None
    classes: tuple[str, ...]
    total: Array
    aleatoric: Array
    epistemic: Array
    interval: Array | None
    sets: tuple[tuple[str, ...], ...] | None
    guaranteed: bool
    novel: Array
    refer: Array
    threshold: float

    @property
    def referred(self) -> int:
        """How many cases to refer."""
        return int(self.refer.sum())


class Decision(NamedTuple):
    """The limits that turn a prediction into a decision."""

    limits: Tensor  # of conformity, per class or target
    coverage: float
    threshold: float  # of total uncertainty
    novelty: float  # of epistemic uncertainty


def present(schema: Schema, prediction: Prediction, decision: Decision) -> PersonalPrediction:
    """The prediction of ``n`` inputs in the client's words."""
    if isinstance(prediction, ClassPrediction):
        return _of_classes(schema, prediction, decision)
    return _of_numbers(schema, prediction, decision)


def _judged(prediction: Prediction, decision: Decision) -> tuple[bool, Array, Array]:
    """Whether the limits carry a guarantee, which inputs are novel ``(n,)``, and which a person should see ``(n,)``."""
    novel = strangeness(prediction) > decision.novelty
    seen_by_a_person = refer(score(prediction), decision.threshold) | novel
    return all(map(math.isfinite, decision.limits.tolist())), novel.numpy(), seen_by_a_person.numpy()


def _of_classes(schema: Schema, prediction: ClassPrediction, decision: Decision) -> PersonalPrediction:
    guaranteed, novel, referred = _judged(prediction, decision)
    probs, total, aleatoric, epistemic = (part.numpy() for part in prediction)
    kept = class_sets(prediction, decision.limits, decision.coverage).numpy() | novel[:, None]
    return PersonalPrediction(
        label=schema.decode_targets(probs.argmax(-1)),
        probabilities=probs,
        classes=schema.classes,
        total=total,
        aleatoric=aleatoric,
        epistemic=epistemic,
        interval=None,
        sets=_names(schema, probs, kept),
        guaranteed=guaranteed,
        novel=novel,
        refer=referred,
        threshold=decision.threshold,
    )


def _of_numbers(schema: Schema, prediction: RegressionPrediction, decision: Decision) -> PersonalPrediction:
    guaranteed, novel, referred = _judged(prediction, decision)
    unit = np.asarray(schema.target_scale)
    mean = schema.decode_targets(prediction.mean.numpy())
    half = interval_half_width(prediction, decision.limits, decision.coverage).numpy() * unit
    total, aleatoric, epistemic = (part.numpy() * unit**2 for part in (prediction.total, prediction.aleatoric, prediction.epistemic))
    return PersonalPrediction(
        label=mean,
        probabilities=None,
        classes=schema.targets,
        total=total,
        aleatoric=aleatoric,
        epistemic=epistemic,
        interval=np.stack([mean - half, mean + half], -1),
        sets=None,
        guaranteed=guaranteed,
        novel=novel,
        refer=referred,
        threshold=decision.threshold,
    )


def _names(schema: Schema, probs: Array, kept: Array) -> tuple[tuple[str, ...], ...]:
    """Class names of each set, likeliest first."""
    order = np.argsort(-probs, axis=-1, kind="stable").tolist()
    return tuple(tuple(schema.classes[at] for at in row if inside[at]) for row, inside in zip(order, kept.tolist(), strict=True))
