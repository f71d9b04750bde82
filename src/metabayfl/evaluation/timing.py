"""How long one client takes to adapt and to predict."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from metabayfl.data.federation import Clients
from metabayfl.evaluation.heldout import adapt, device_of, predict, support_batch
from metabayfl.types import Algorithm, Key, Tree

ROWS = 100
"""A predict call that is timed has at most so many samples."""

LEAST, SECONDS = 3, 0.5
"""No more clients are timed once so many have been and so much time is gone."""


class Timings(NamedTuple):
    """Medians over clients of wall time, one client at a time as on a device."""

    adapt_ms: float  # from the received strategy and the support to the personal model
    predict_ms: float  # one call on the client's first test samples, at most ROWS of them


def timings(algorithm: Algorithm, meta: Tree, clients: Clients, key: Key, *, most: int = 20) -> Timings:
    """Time the first clients, right after :func:`~metabayfl.evaluation.heldout.evaluate`, which has warmed up what there is to warm up.

    Args:
        algorithm: its ``adapt`` and ``predict`` are timed.
        meta: the trained strategy, on the device to time.
        clients: held-out clients.
        key: the noise, as in :func:`~metabayfl.evaluation.heldout.evaluate`.
        most: how many clients are enough; slow ones need fewer.
    """
    received, begun, pairs = algorithm.down.round_trip(meta, None), time.perf_counter(), list[tuple[float, float]]()
    for at in range(min(most, len(clients.ids))):
        if at >= LEAST and time.perf_counter() - begun > SECONDS:
            break
        pairs.append(_client(algorithm, received, clients, at, key))
    return Timings(statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs))


def _client(algorithm: Algorithm, received: Tree, clients: Clients, at: int, key: Key) -> tuple[float, float]:
    name, split, device = clients.ids[at], int(clients.support[at]), device_of(received)
    x, y = clients.read(at)
    batch = support_batch(x[:split], y[:split], device)
    rows = torch.from_numpy(np.ascontiguousarray(x[split : split + ROWS])).to(device)
    posterior, adapting = _timed(lambda: adapt(algorithm, received, batch, key, name), device)
    _, predicting = _timed(lambda: predict(algorithm, posterior, rows, key, name), device)
    return adapting, predicting


def _timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    start = _now(device)
    out = work()
    return out, (_now(device) - start) * 1e3


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # a kernel that is only queued has not been computed
    return time.perf_counter()
