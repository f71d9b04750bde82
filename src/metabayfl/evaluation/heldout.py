"""Held-out clients: each adapts on its own support and is scored on its own test samples (method.md, section 4).

Nothing is drawn from global state and nothing depends on the order of the clients: a client's numbers follow from the key and its id.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import random, tree
from metabayfl.data.federation import Clients
from metabayfl.data.schema import Schema
from metabayfl.errors import DataError
from metabayfl.evaluation.scores import ClassScores, HeldOut, Pool, RegressionScores, draw_unseen, some
from metabayfl.types import Algorithm, Batch, ClassPrediction, Key, Prediction, RegressionPrediction, Tree

ROWS = 500
"""Rows predicted at once: bounds the memory of a client with many test samples."""


class _Run(NamedTuple):
    """What stays the same from client to client."""

    algorithm: Algorithm
    received: Tree
    clients: Clients
    schema: Schema
    key: Key
    support: int | None
    device: torch.device


class _Case(NamedTuple):
    """One client after adapting."""

    name: str
    posterior: Tree
    support_y: NDArray[np.generic]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.generic]


def evaluate(
    algorithm: Algorithm,
    meta: Tree,
    clients: Clients,
    schema: Schema,
    key: Key,
    *,
    support: int | None = None,
    unseen_cap: int = 200,
    pool_cap: int = 4000,
) -> HeldOut:
    """Adapt and score every client, one at a time.

    The strategy first goes through ``algorithm.down``, so that a client adapts what it would download. In classification each client is also
    shown samples of classes that its support lacks, taken from the test samples of all the clients.

    Args:
        algorithm: its ``adapt`` and ``predict`` are used, without gradients.
        meta: the trained strategy, on the device to compute on.
        clients: held-out clients.
        schema: names, and the targets' unit in regression: scores are in that unit.
        key: one key for all algorithms, so that they are asked about the same unseen examples.
        support: use only the first so many support samples of each client (5, 10, 20, 50 in the protocol); None means all. The test samples
            are the same either way.
        unseen_cap: most unseen-class examples a client.
        pool_cap: most test samples kept in memory to draw them from.

    Raises:
        DataError: if there is no client, or one without a test sample.
    """
    _check(clients)
    received = algorithm.down.round_trip(meta, None)
    run = _Run(algorithm, received, clients, schema, key, support, device_of(received))
    positions = range(len(clients.ids))
    if schema.kind == "regression":
        return HeldOut(algorithm.name, "regression", schema.targets, tuple(_regression(run, at) for at in positions))
    pool = _pool(clients, key, pool_cap)
    return HeldOut(algorithm.name, "classification", schema.classes, tuple(_classification(run, at, pool, unseen_cap) for at in positions))


def _check(clients: Clients) -> None:
    if not clients.ids:
        raise DataError("there is no client to evaluate on: hold out at least one.")
    for name, size, support in zip(clients.ids, clients.sizes, clients.support, strict=True):
        if support >= size:
            raise DataError(f"client {name!r} has {size} samples and {support} of them are support: leave at least one to test on.")


def device_of(meta: Tree) -> torch.device:
    """Where the strategy lives; the CPU for an algorithm that has none."""
    return next((leaf.device for leaf in tree.leaves(meta)), torch.device("cpu"))


def support_batch(x: NDArray[np.float32], y: NDArray[np.generic], device: torch.device) -> Batch:
    """A client's support as a batch without padding; no sample at all becomes one padded row, since a batch needs a row."""
    rows = max(1, len(x))
    batch = Batch(torch.zeros(rows, *x.shape[1:]), torch.zeros((rows, *y.shape[1:]), dtype=torch.from_numpy(y).dtype), torch.zeros(rows))
    for target, source in ((batch.x, x), (batch.y, y)):
        target[: len(x)] = torch.from_numpy(np.ascontiguousarray(source))
    batch.mask[: len(x)] = 1.0
    return Batch(*(part.to(device) for part in batch))


def adapt(algorithm: Algorithm, received: Tree, batch: Batch, key: Key, client: str) -> Tree:
    """The personal model of one client."""
    with torch.no_grad():
        return algorithm.adapt(received, batch, random.fold(key, "adapt", client).to(batch.mask.device))


def predict(algorithm: Algorithm, posterior: Tree, x: Tensor, key: Key, client: str) -> Prediction:
    """Predictions of one client for any number of rows."""
    own = random.fold(key, "predict", client).to(x.device)
    with torch.no_grad():
        parts = [algorithm.predict(posterior, x[start : start + ROWS], own) for start in range(0, max(1, len(x)), ROWS)]
    fields = [torch.cat(list(columns)) for columns in zip(*parts, strict=True)]
    return ClassPrediction(*fields) if isinstance(parts[0], ClassPrediction) else RegressionPrediction(*fields)


def _pool(clients: Clients, key: Key, cap: int) -> Pool:
    quota = -(-cap // len(clients.ids))
    kept = []
    for at, name in enumerate(clients.ids):
        x, y = clients.read(at)
        first = int(clients.support[at])
        rows = first + some(random.fold(key, "pool", name), len(y) - first, quota)
        kept.append((x[rows], y[rows]))
    return Pool(np.concatenate([x for x, _ in kept]), np.concatenate([y for _, y in kept]))


def _adapted(run: _Run, at: int) -> _Case:
    name, split = run.clients.ids[at], int(run.clients.support[at])
    x, y = run.clients.read(at)
    used = split if run.support is None else min(split, run.support)
    posterior = adapt(run.algorithm, run.received, support_batch(x[:used], y[:used], run.device), run.key, name)
    return _Case(name, posterior, y[:used], x[split:], y[split:])


def _predicted(run: _Run, case: _Case, x: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    rows = torch.from_numpy(np.ascontiguousarray(x)).to(run.device)
    return [field.double().cpu().numpy() for field in predict(run.algorithm, case.posterior, rows, run.key, case.name)]


def _classification(run: _Run, at: int, pool: Pool, cap: int) -> ClassScores:
    case = _adapted(run, at)
    seen = np.isin(np.arange(len(run.schema.classes)), case.support_y)
    probs, own_total, aleatoric, own_epistemic = _predicted(run, case, case.test_x)
    strange = draw_unseen(pool, seen, random.fold(run.key, "unseen", case.name), cap)
    # not every network bears an empty batch
    _, total, _, epistemic = _predicted(run, case, strange) if len(strange) else [np.zeros(0)] * 4
    return ClassScores(
        case.name, len(case.support_y), seen, case.test_y.astype(np.int64), probs, own_total, aleatoric, own_epistemic, total, epistemic
    )


def _regression(run: _Run, at: int) -> RegressionScores:
    case = _adapted(run, at)
    mean, scale, dof, *variances = _predicted(run, case, case.test_x)
    centre, unit = (np.asarray(values, dtype=np.float64) for values in (run.schema.target_mean, run.schema.target_scale))
    truth = case.test_y.astype(np.float64) * unit + centre
    spread = [part * unit**2 for part in variances]
    return RegressionScores(case.name, len(case.support_y), truth, mean * unit + centre, scale * unit, dof, *spread)
