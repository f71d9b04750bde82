"""What is read: a client's state, cases, reliability, history and alarms, and the operator's overview. All in JSON's own types."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from metabayfl.serve import answers, cases, clients, feedback, history, learning, openapi, tokens, watch
from metabayfl.serve.cases import Case
from metabayfl.serve.feedback import Feedback
from metabayfl.serve.history import Sums
from metabayfl.serve.service import Service, minute, now

BINS = 15
"""Equal-width bins of the reliability diagram, as everywhere in the library."""

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Levels of central intervals in the reliability diagram of a regression."""

_POINTS = 500
_DAY = 24 * 60


def state(service: Service, client: str) -> dict[str, Any]:
    """The client's posterior, without its numbers.

    Raises:
        RequestError: 404 if there is none.
    """
    found = clients.find(service.viewer, client)
    if found is None:
        raise clients.missing(client)
    return learning.state(found)


def listed_cases(service: Service, client: str, *, waiting: bool, most: int) -> dict[str, Any]:
    """Referred cases that wait for a label, or those that have one."""
    found = cases.listed(service.viewer, client, waiting=waiting, most=most)
    return {"client": client, "waiting": cases.waiting(service.viewer).get(client, 0), "cases": [_case(item) for item in found]}


def reliability(service: Service, client: str, most: int) -> dict[str, Any]:
    """The reliability diagram of the newest labels."""
    labels, kind = feedback.newest(service.viewer, client, most), service.source.schema.kind
    confidence, correct = np.array([item.confidence for item in labels]), np.array([item.correct for item in labels])
    found = _bins(confidence, correct) if kind == "classification" else _levels(confidence)
    mean = {"accuracy": float(correct.mean()), "confidence": float(confidence.mean())} if labels else {"accuracy": None, "confidence": None}
    error = sum(item["count"] * abs(item["confidence"] - item["accuracy"]) for item in found if item["count"])
    weight = sum(item["count"] for item in found)
    return {"client": client, "kind": kind, "feedback": len(labels), "bins": found, "error": error / weight if weight else None, **mean}


def listed_feedback(service: Service, client: str, most: int) -> dict[str, Any]:
    """The newest labels with what was said before they came, the oldest of them first."""
    return {"client": client, "feedback": [_label(item) for item in feedback.newest(service.viewer, client, most)]}


def over_time(service: Service, client: str, minutes: int) -> dict[str, Any]:
    """Mean uncertainties of the predictions of the last minutes, in at most some hundred spans."""
    step = -(-minutes // _POINTS)
    found = history.points(service.viewer, client, minute(now()) - minutes, step)
    return {"client": client, "step_minutes": step, "points": [_point(at, sums) for at, sums in found]}


def alarms(service: Service, client: str, day: Sums | None = None) -> dict[str, Any]:
    """What a person should know of this client; ``day`` is what its predictions of a day add up to, where that is known already."""
    labels = feedback.newest(service.viewer, client, watch.LOOKED_AT)
    day = day or history.totals(service.viewer, minute(now()) - _DAY).get(client)
    raised = watch.alarms(labels, service.source.schema.kind, clients.find(service.viewer, client), day)
    found = [{**alarm._asdict(), "at": alarm.at and answers.when(alarm.at)} for alarm in raised]
    return {"client": client, "alarms": found}


def overview(service: Service) -> dict[str, Any]:
    """All clients that have a posterior or a token."""
    found = {item.client: item for item in clients.every(service.viewer)}
    known = {item.client for item in tokens.every(service.viewer) if item.client is not None and item.revoked is None}
    waiting, judged = cases.waiting(service.viewer), feedback.judged(service.viewer)
    day = history.totals(service.viewer, minute(now()) - _DAY)
    lines = [
        {
            **_summary(name, found.get(name), day.get(name)),
            "waiting": waiting.get(name, 0),
            **_judged(judged.get(name)),
            "alarms": len(alarms(service, name, day.get(name))["alarms"]),
        }
        for name in sorted(known | found.keys())
    ]
    return {"strategy": service.strategy, "kind": service.source.schema.kind, "clients": lines}


def _summary(name: str, client: clients.Client | None, day: Sums | None) -> dict[str, Any]:
    count = day.predictions if day else 0
    return {
        "client": name,
        "samples": client.samples if client else 0,
        "version": client.version if client else 0,
        "updated": answers.when(client.updated) if client else None,
        "predictions_day": count,
        "referred_day": day.referred / count if day and count else None,
        "novel_day": day.novel / count if day and count else None,
    }


def _judged(found: feedback.Judged | None) -> dict[str, Any]:
    if found is None:
        return {"feedback": 0, "accuracy": None, "confidence": None}
    return {"feedback": found.labels, "accuracy": found.accuracy, "confidence": found.confidence}


def _bins(confidence: Any, correct: Any) -> list[dict[str, Any]]:
    which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [_bin(at / BINS, (at + 1) / BINS, confidence[which == at], correct[which == at]) for at in range(BINS)]


def _bin(low: float, high: float, confidence: Any, correct: Any) -> dict[str, Any]:
    count = len(confidence)
    means = {"confidence": float(confidence.mean()), "accuracy": float(correct.mean())} if count else {"confidence": None, "accuracy": None}
    return {"low": low, "high": high, "count": count, **means}


def _levels(level: Any) -> list[dict[str, Any]]:
    count = len(level)
    return [
        {"low": 0.0, "high": at, "count": count, "confidence": at if count else None, "accuracy": float((level <= at).mean()) if count else None}
        for at in LEVELS
    ]


def _case(item: Case) -> dict[str, Any]:
    times = {"made": answers.when(item.made), "labelled": None if item.labelled is None else answers.when(item.labelled)}
    return {"case": item.name, "row": item.row, "answer": item.answer, "version": item.version, "label": item.label, **times}


def _label(item: Feedback) -> dict[str, Any]:
    rest = {name: value for name, value in item._asdict().items() if name not in ("client", "made")}
    return {"at": answers.when(item.made), **rest, "referred": bool(item.referred)}


def _point(at: int, sums: Sums) -> dict[str, Any]:
    means = {part: getattr(sums, part) / sums.predictions for part in ("total", "aleatoric", "epistemic")}
    return {"at": answers.when(60 * at), "predictions": sums.predictions, "referred": sums.referred, "novel": sums.novel, **means}


def counts(service: Service) -> tuple[int, int]:
    """Clients with a posterior, and cases that wait."""
    (known,) = service.viewer.execute("SELECT count(*) FROM clients").fetchone()
    return known, sum(cases.waiting(service.viewer).values())


def strategy(service: Service) -> dict[str, Any]:
    """What is served."""
    schema, source = service.source.schema, service.source
    return {
        "digest": service.strategy,
        "algorithm": source.algorithm.name,
        "kind": schema.kind,
        "form": schema.form,
        "classes": list(schema.classes),
        "targets": list(schema.targets),
        "features": [{"name": item.name, "kind": item.kind, "categories": list(item.categories)} for item in schema.features],
        "input_shape": list(schema.input_shape),
        "layout": schema.layout,
        "example": openapi.posted_row(schema),
        "limits": asdict(service.limits),
    }
