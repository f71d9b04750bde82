"""What the guarantees were worth: coverage of prediction sets, referral and novelty on held-out clients, each of them apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metabayfl import random
from metabayfl.calibration import (
    By,
    Cases,
    Known,
    class_sets,
    cross_fit,
    interval_half_width,
    judge,
    novelty_limit,
    referral_for_error,
    referral_for_share,
    set_limits,
)
from metabayfl.data.federation import Clients
from metabayfl.evaluation.heldout import adapt, device_of, predict, support_batch
from metabayfl.types import Algorithm, ClassPrediction, Key, Prediction, Tree


class Promised(NamedTuple):
    """What is promised."""

    coverage: float = 0.9
    by: By = "client"
    refer_share: float = 0.2
    refer_error: float = 0.05
    novelty_rate: float = 0.02


class ClientCoverage(NamedTuple):
    """What one held-out client got: counts over its ``tests`` test samples, which add up over clients."""

    client: str
    support: int
    tests: int
    covered: float  # truths inside their set or interval; in regression the mean over targets
    size: float  # classes in the sets; in regression widths of the intervals, standardised, mean over targets
    empty: int  # sets without any class
    novel: int  # cases called unlike anything known
    wrong: int  # most probable class not the truth
    referred: int  # at the threshold for a share
    wrong_accepted: int  # accepted at that threshold, and wrong
    referred_for_error: int  # at the threshold for an error
    wrong_for_error: int  # accepted at that threshold, and wrong


def coverage(
    algorithm: Algorithm, meta: Tree, clients: Clients, table: Tree, key: Key, targets: Promised | None = None, support: int | None = None
) -> list[ClientCoverage]:
    """Personalise every client and hold its predictions against the promises.

    Args:
        algorithm: its ``adapt`` and ``predict`` are used, without gradients.
        meta: the trained strategy.
        clients: held-out clients.
        table: of the validation clients (:func:`metabayfl.evaluation.calibration.calibrate`); ``{}`` for none.
        key: as :func:`metabayfl.evaluation.evaluate` takes it.
        targets: what is promised; None means the defaults.
        support: use only the first so many support samples of each client; None means all.
    """
    received, wanted = algorithm.down.round_trip(meta, None), targets or Promised()
    return [_client(algorithm, received, clients, at, table, key, wanted, support) for at in range(len(clients.ids))]


def _client(
    algorithm: Algorithm, received: Tree, clients: Clients, at: int, table: Tree, key: Key, wanted: Promised, support: int | None
) -> ClientCoverage:
    x, y = clients.read(at)
    name, split = clients.ids[at], int(clients.support[at])
    used = split if support is None else min(split, support)
    batch = support_batch(x[:used], y[:used], device_of(received))
    classes = algorithm.model.outputs if algorithm.model.kind == "classification" else 0
    known = Known(cross_fit(algorithm, received, batch, random.fold(key, "cross", name)), table, classes)
    prediction = predict(algorithm, adapt(algorithm, received, batch, key, name), torch.from_numpy(np.ascontiguousarray(x[split:])), key, name)
    return _judged(name, used, known, prediction, judge(prediction, torch.from_numpy(y[split:])), wanted)


def _judged(name: str, support: int, known: Known, prediction: Prediction, found: Cases, wanted: Promised) -> ClientCoverage:
    limits = set_limits(known, wanted.coverage, wanted.by)
    inside, size, empty = _sets(prediction, found, limits, wanted.coverage)
    by_share = found.uncertainty > referral_for_share(known, wanted.refer_share)
    by_error = found.uncertainty > referral_for_error(known, wanted.refer_error)
    wrong = found.wrong > 0
    return ClientCoverage(
        name,
        support,
        len(wrong),
        float(inside.double().mean(-1).sum()),
        float(size.double().sum()),
        int(empty.sum()),
        int((found.epistemic > novelty_limit(known, wanted.novelty_rate)).sum()),
        int(wrong.sum()),
        int(by_share.sum()),
        int((wrong & ~by_share).sum()),
        int(by_error.sum()),
        int((wrong & ~by_error).sum()),
    )


def _sets(prediction: Prediction, found: Cases, limits: Tensor, coverage: float) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each truth is inside ``(N, A)``, the size of each set ``(N,)``, and whether it is empty ``(N,)``."""
    if isinstance(prediction, ClassPrediction):
        kept = class_sets(prediction, limits, coverage)
        return torch.gather(kept, -1, found.truth.unsqueeze(-1)), kept.sum(-1), ~kept.any(-1)
    inside = found.conformity >= torch.where(torch.isfinite(limits), limits.double(), 1.0 - coverage)
    return inside, 2.0 * interval_half_width(prediction, limits, coverage).mean(-1), torch.zeros(len(inside), dtype=torch.bool)


def pooled(clients: list[ClientCoverage]) -> dict[str, float | None]:
    """Figures of all the clients' cases together, as ``summary.json`` has them; coverage also of the client that fares worst."""
    tests = sum(client.tests for client in clients)
    if not tests:
        return {}
    return {
        "set_coverage_90": sum(client.covered for client in clients) / tests,
        "set_coverage_90_worst_client": min(client.covered / client.tests for client in clients if client.tests),
        "set_size_90": sum(client.size for client in clients) / tests,
        "novel_share": sum(client.novel for client in clients) / tests,
    }
