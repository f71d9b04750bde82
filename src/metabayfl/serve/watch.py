"""Alarms: functions of one client's feedback, posterior and history, asked when somebody looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

from metabayfl.serve.clients import Client
from metabayfl.serve.feedback import Feedback
from metabayfl.serve.history import Sums

LOOKED_AT = 200
"""Newest labels that alarms are made from."""

_FEWEST, _DEVIATIONS = 20, 3.0
_CHANCE = 1e-3


class Alarm(NamedTuple):
    """Something that a person should know."""

    kind: str  # calibration, drift, novelty
    message: str
    at: float | None  # seconds since 1970
    value: float | None


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


def novelty(day: Sums, rate: float) -> Alarm | None:
    """Whether more of a day's cases were called novel than chance explains, had each been so with probability ``rate``."""
    chance = float(stats.binom.sf(day.novel - 1, day.predictions, rate))
    if chance >= _CHANCE:
        return None
    share = day.novel / day.predictions
    message = f"{day.novel} of the last day's {day.predictions} cases are unlike anything known, {100 * rate:g} % were expected: label some of them"
    return Alarm("novelty", message, None, share)


def drift(since: float) -> Alarm:
    """What the ringing of the posterior's own change detector means."""
    message = "the strategy without this client's samples explains its newest labels better than its posterior: personalize anew from recent samples"
    return Alarm("drift", message, since, None)


def alarms(labels: Sequence[Feedback], kind: str, client: Client | None = None, day: Sums | None = None) -> list[Alarm]:
    """All alarms that a client's newest labels, its posterior and its last day's predictions give cause for."""
    found = [calibration(labels, kind)]
    if client is not None and client.drift is not None:
        found.append(drift(client.drift))
    if client is not None and day is not None:
        found.append(novelty(day, client.novelty_rate))
    return [alarm for alarm in found if alarm is not None]
