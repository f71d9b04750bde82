"""The figure that early stopping watches: how well validation clients predict after adapting."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import random
from metabayfl.data.federation import Clients
from metabayfl.evaluation.heldout import device_of
from metabayfl.evaluation.scores import some
from metabayfl.losses import prediction_nll
from metabayfl.types import Algorithm, Batch, Key, Tree

CHUNK = 16
"""Clients side by side. Convolutions with weights of each client's own are slower so on a CPU than one client after the other."""


def validation_loss(algorithm: Algorithm, meta: Tree, clients: Clients, key: Key, *, chunk: int = 0, rows: int = 256) -> float:
    """Mean predictive NLL, in nats, of the clients' test samples after each adapted on its support; targets of a regression are standardised.

    Clients run side by side, ``chunk`` of them padded to the largest, so that memory is bounded by the chunk.

    Args:
        algorithm: its ``adapt`` and ``predict`` are used, without gradients.
        meta: the strategy as the server has it; it goes through ``algorithm.down`` first.
        clients: validation clients.
        key: use one key in all rounds, so that rounds differ by the strategy alone.
        chunk: clients at once; 0 takes :data:`CHUNK` of them, or one where a CPU has no use for more.
        rows: most test samples a client, drawn by the key; sets with thousands would make watching dearer than training.
    """
    total, count = validation_sums(algorithm, meta, clients, key, chunk=chunk, rows=rows)
    return total / max(count, 1.0)


def validation_sums(algorithm: Algorithm, meta: Tree, clients: Clients, key: Key, *, chunk: int = 0, rows: int = 256) -> tuple[float, float]:
    """The summed NLL and the number of samples whose quotient :func:`validation_loss` is; those of several groups of clients add up."""
    received = algorithm.down.round_trip(meta, None)
    device = device_of(received)
    chunk = chunk or (1 if device.type == "cpu" and algorithm.model.dense is not None and algorithm.model.dense.space > 1 else CHUNK)
    total, count = 0.0, 0.0
    for start in range(0, len(clients.ids), chunk):
        positions = range(start, min(start + chunk, len(clients.ids)))
        support, test, keys = _block(clients, positions, key, rows, device)
        losses = _summed_losses(algorithm, received, support, test, keys)
        total, count = total + float(losses.double().sum()), count + float(test.mask.sum())
    return total, count


def _block(clients: Clients, positions: range, key: Key, rows: int, device: torch.device) -> tuple[Batch, Batch, Tensor]:
    supports, tests, keys = [], [], []
    for at in positions:
        x, y = clients.read(at)
        split, own = int(clients.support[at]), random.fold(key, "validation", clients.ids[at])
        chosen = split + some(random.fold(own, "rows"), len(y) - split, rows)
        supports.append((x[:split], y[:split]))
        tests.append((x[chosen], y[chosen]))
        keys.append(own)
    return _padded(supports, device), _padded(tests, device), torch.stack(keys).to(device)


def _padded(parts: list[tuple[NDArray[np.float32], NDArray[np.generic]]], device: torch.device) -> Batch:
    """Clients side by side, ``(C, N, ...)``, zeros behind each one's last row."""
    width = max(1, max(len(y) for _, y in parts))
    first_x, first_y = parts[0]
    x = np.zeros((len(parts), width, *first_x.shape[1:]), first_x.dtype)
    y = np.zeros((len(parts), width, *first_y.shape[1:]), first_y.dtype)
    mask = np.zeros((len(parts), width), np.float32)
    for at, (own_x, own_y) in enumerate(parts):
        x[at, : len(own_y)], y[at, : len(own_y)], mask[at, : len(own_y)] = own_x, own_y, 1.0
    return Batch(*(torch.from_numpy(array).to(device) for array in (x, y, mask)))


def _summed_losses(algorithm: Algorithm, received: Tree, support: Batch, test: Batch, keys: Tensor) -> Tensor:
    def one(own_support: Batch, own_test: Batch, key: Key) -> Tensor:
        posterior = algorithm.adapt(received, own_support, random.fold(key, "adapt"))
        losses = prediction_nll(algorithm.predict(posterior, own_test.x, random.fold(key, "predict")), own_test.y)
        # not a product: a padded row may have an infinite loss, and 0 * inf is no number
        return torch.where(own_test.mask > 0, losses, torch.zeros_like(losses)).sum()

    with torch.no_grad():
        out: Tensor = torch.func.vmap(one)(support, test, keys)
    return out
