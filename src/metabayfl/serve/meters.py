"""What Prometheus reads. No client's name is a label: there may be many, and the page on one client shows its own figures."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from metabayfl.serve.answers import Assessed
from metabayfl.serve.history import Sums

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

MEMORY = 0.99
"""Weight of the past in the running calibration drift at every label: it looks back over about a hundred."""


class Meters(NamedTuple):
    """One registry a server."""

    registry: CollectorRegistry
    seconds: Histogram  # by endpoint
    requests: Counter  # by endpoint and status
    predictions: Counter
    referred: Counter
    novel: Counter
    updates: Counter  # by kind: personalize, update, label
    labels: Counter
    gap: Gauge  # the running mean of confidence less accuracy
    drift: Gauge  # its size
    clients: Gauge
    waiting: Gauge
    unkept: Counter


def build() -> Meters:
    """Fresh meters; in Prometheus the referral share is ``rate(metabayfl_referred_total[5m]) / rate(metabayfl_predictions_total[5m])``."""
    registry = CollectorRegistry()
    return Meters(
        registry,
        Histogram("metabayfl_request_seconds", "Time to answer, by endpoint", ["endpoint"], buckets=_SECONDS, registry=registry),
        Counter("metabayfl_requests", "Requests, by endpoint and status", ["endpoint", "status"], registry=registry),
        Counter("metabayfl_predictions", "Rows predicted", registry=registry),
        Counter("metabayfl_referred", "Rows referred to a person", registry=registry),
        Counter("metabayfl_novel", "Rows unlike anything known", registry=registry),
        Counter("metabayfl_updates", "Changes to posteriors, by kind", ["kind"], registry=registry),
        Counter("metabayfl_labels", "Labelled samples learned from", registry=registry),
        Gauge("metabayfl_calibration_gap", "Running mean of confidence less accuracy on labels, before they are learned", registry=registry),
        Gauge("metabayfl_calibration_drift", "Size of the running calibration gap", registry=registry),
        Gauge("metabayfl_clients", "Clients with a posterior", registry=registry),
        Gauge("metabayfl_cases_waiting", "Referred cases that wait for a label", registry=registry),
        Counter("metabayfl_unkept", "Referred cases and history that could not be written down", registry=registry),
    )


def predicted(meters: Meters, sums: Sums) -> None:
    """Count a prediction."""
    meters.predictions.inc(sums.predictions)
    meters.referred.inc(sums.referred)
    meters.novel.inc(sums.novel)


def learned(meters: Meters, kind: str, count: int) -> None:
    """Count an update of so many samples."""
    meters.updates.labels(kind).inc()
    meters.labels.inc(count)


def drifted(meters: Meters, gap: float, assessed: Assessed, nominal: float | None) -> float:
    """The calibration gap, moved on with every label, and shown.

    Args:
        meters: the server's.
        gap: the gap before.
        assessed: predictions against the labels.
        nominal: what ``correct`` should be on average where confidence is no probability of it (regression: 0.9).
    """
    for confidence, correct in zip(assessed.confidence.tolist(), assessed.correct.tolist(), strict=True):
        gap = MEMORY * gap + (1 - MEMORY) * ((confidence if nominal is None else nominal) - correct)
    meters.gap.set(gap)
    meters.drift.set(abs(gap))
    return gap
