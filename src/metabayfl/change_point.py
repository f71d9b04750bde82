"""An alarm for a change in one client's stream: the global strategy begins to explain its labelled cases better than its own posterior does.

Each case brings the log ratio of two predictive densities that were made before its label was used::

    r_t = log p_alternative(y_t | x_t) - log p_personal(y_t | x_t)

If labels come from the personal predictive, ``E[exp r_t]`` is 1 whatever the input and the past. So the Shiryaev-Roberts sum

    M_t = (M_{t-1} + 1) exp(r_t)    M_0 = 0

is an e-detector: ``E[M_T] <= E[T]`` at every stopping time, and the alarm ``M_t >= A`` rings by mistake only once in ``A`` cases on average, or less
often. The CUSUM ``C_t = max(C_{t-1}, 0) + r_t`` in place of ``log M_t`` has the same guarantee and is never higher; the place where it last left 0 is
the likeliest start of the change. After a change the delay is close to ``log(A) / KL``, where KL is the mean of ``r_t`` over the new cases.

A client's labels have slips, and one label that the personal model held for impossible must not ring. So the alternative is compared with a personal
predictive in which a share of the cases is the alternative's: no case counts more than ``log(1/slip)``.

References:
    Shin, Ramdas, Rinaldo 2022, "E-detectors: a nonparametric framework for sequential change detection", arXiv 2203.03532. Page 1954, "Continuous
    inspection schemes", for the CUSUM; Shiryaev 1963 and Roberts 1966 for the sum.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabayfl.errors import ConfigError, DataError
from metabayfl.losses import prediction_nll
from metabayfl.types import Prediction

SLIP = 0.05
"""Share of the cases whose labels the personal model need not explain."""


class Change(NamedTuple):
    """What the detector carries from case to case, all finite.

    It stops where it rings: evidence, CUSUM and start then stay what they were, and only ``cases`` goes on, until a new one is begun.
    """

    run_length: float = 1000.0  # A: cases between false alarms, on average at least
    cases: int = 0  # seen
    evidence: float = 0.0  # log(1 + M_t), in nats
    cusum: float = 0.0  # max(C_t, 0), in nats
    start: int = 0  # cases before the likeliest start of a change


NO_CHANGE = Change()
"""A detector of run length 1,000 before its first case."""


def begin(run_length: float = 1000.0) -> Change:
    """A detector before its first case.

    Args:
        run_length: ``A``, how many cases lie between false alarms, on average at least.

    Raises:
        ConfigError: if ``run_length`` is not finite and at least 1.
    """
    if not (math.isfinite(run_length) and run_length >= 1):
        raise ConfigError(f"run_length {run_length}: expected a finite number of cases, at least 1")
    return Change(float(run_length))


def restore(value: Any) -> Change:
    """The detector from its five numbers, as a file gives them.

    Raises:
        DataError: if they are not those of a detector.
    """
    fits = isinstance(value, (list, tuple)) and [type(item) for item in value] == [float, int, float, float, int]
    if not fits or not all(math.isfinite(item) and item >= 0 for item in value) or value[0] < 1 or value[4] > value[1]:
        raise DataError(f"{value!r} is no state of a change detector: expected run_length, cases, evidence, cusum and start")
    return Change(*value)


def rings(change: Change) -> bool:
    """Whether ``M_t`` has reached ``A``."""
    return change.evidence >= math.log1p(change.run_length)


def step(change: Change, log_ratio: float) -> Change:
    """The detector after one more case.

    Args:
        change: before it.
        log_ratio: ``log p_alternative - log p_personal`` at the label, from predictives that were made before it.

    Raises:
        DataError: if the ratio is not finite.

    Example:
        >>> change = step(step(begin(), -1.0), 2.0)
        >>> change.start, change.cusum, round(math.expm1(change.evidence), 3) == round((math.exp(-1) + 1) * math.exp(2), 3)
        (1, 2.0, True)
    """
    if not math.isfinite(log_ratio):
        raise DataError(f"log ratio {log_ratio} of two predictive densities: expected a finite number; clip probabilities away from 0")
    cases = change.cases + 1
    if rings(change):
        return change._replace(cases=cases)
    at = change.evidence + log_ratio  # log M_t
    cusum = max(change.cusum + log_ratio, 0.0)
    start = change.start if cusum > 0 else cases
    return Change(change.run_length, cases, max(at, 0.0) + math.log1p(math.exp(-abs(at))), cusum, start)


def log_ratio(log_alternative: Tensor, log_personal: Tensor, slip: float = SLIP) -> Tensor:
    """``log p_alternative - log((1 - slip) p_personal + slip p_alternative)``, at most ``-log(slip)``.

    ``E[exp r]`` is 1 under that mixture and, since ``exp r`` is concave in the plain ratio, at most 1 under the personal predictive.

    Args:
        log_alternative: ``(N,)`` log densities of the labels.
        log_personal: ``(N,)``.
        slip: between 0 and 1.

    Example:
        >>> bool(log_ratio(torch.tensor(-1.0), torch.tensor(-99.0)) <= -math.log(SLIP))
        True
    """
    mixed = torch.logaddexp(math.log1p(-slip) + log_personal, math.log(slip) + log_alternative)
    return log_alternative - mixed


def follow(change: Change, personal: Prediction, alternative: Prediction, y: Tensor) -> Change:
    """The detector after labelled cases, in their order.

    Args:
        change: before them.
        personal: what the client's posterior predicted before it saw these labels, ``n`` rows.
        alternative: what the strategy without any of the client's samples predicts for the same rows.
        y: the encoded labels, ``(n,)`` classes or ``(n, R)`` targets.

    Raises:
        DataError: if a prediction is not finite.
    """
    for ratio in log_ratio(-prediction_nll(alternative, y).double(), -prediction_nll(personal, y).double()).tolist():
        change = step(change, ratio)
    return change
