"""Alarms: functions of one client's feedback and history, asked when somebody looks. A new kind of alarm is one more function in ``WATCHES``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from metabayfl.serve.feedback import Feedback

LOOKED_AT = 200
"""Newest labels that alarms are made from."""

_FEWEST, _DEVIATIONS = 20, 3.0


class Alarm(NamedTuple):
    """Something that a person should know."""

    kind: str  # calibration, drift, novelty
    message: str
    at: float | None  # seconds since 1970
    value: float | None


Watch = Callable[[Sequence[Feedback], str], Alarm | None]
"""A client's newest feedback, the oldest of it first, and the kind of task."""


def calibration(labels: Sequence[Feedback], kind: str) -> Alarm | None:
    """Whether the newest answers are less often right than their confidence says, by more than chance explains.

    With confidences ``c_i`` the number of right answers has mean ``sum c_i`` and variance ``sum c_i (1 - c_i)``; three deviations below is an alarm.
    In regression every ``c_i`` is 0.9, the level of the interval.
    """
    if len(labels) < _FEWEST:
        return None
    expected = [item.confidence if kind == "classification" else 0.9 for item in labels]
    short = sum(expected) - sum(item.correct for item in labels)
    if short <= _DEVIATIONS * math.sqrt(sum(value * (1 - value) for value in expected)):
        return None
    gap = short / len(labels)
    message = f"of the newest {len(labels)} labelled answers {100 * gap:.0f} % fewer were right than their confidence said: look at the newest cases"
    return Alarm("calibration", message, labels[-1].made, gap)


WATCHES: tuple[Watch, ...] = (calibration,)


def alarms(labels: Sequence[Feedback], kind: str, drift: float | None = None) -> list[Alarm]:
    """All alarms that these labels give cause for; ``drift`` is since when the posterior's own change detector rings."""
    found = [watch(labels, kind) for watch in WATCHES]
    if drift is not None:
        message = (
            "the strategy without this client's samples explains its newest labels better than its posterior: personalize anew from recent samples"
        )
        found.append(Alarm("drift", message, drift, None))
    return [alarm for alarm in found if alarm is not None]
