"""The table of cases with known answers that travels with a strategy, from clients that it was not trained on."""

from __future__ import annotations

import torch

from metabayfl import tree
from metabayfl.calibration import counts, judge, table
from metabayfl.data.federation import Clients
from metabayfl.evaluation.heldout import adapt, device_of, predict, support_batch
from metabayfl.types import Algorithm, Key, Tree


def client_counts(algorithm: Algorithm, received: Tree, clients: Clients, at: int, key: Key, rows: int = 256) -> Tree:
    """Histograms of one client's test samples, each predicted after adapting to its support; the client sends these sums and nothing else.

    Args:
        algorithm: its ``adapt`` and ``predict`` are used, without gradients.
        received: the strategy as a client has it.
        clients: validation clients.
        at: which of them.
        key: the same for all clients.
        rows: most test samples of a client.
    """
    x, y = clients.read(at)
    split, name = int(clients.support[at]), clients.ids[at]
    posterior = adapt(algorithm, received, support_batch(x[:split], y[:split], device_of(received)), key, name)
    test = torch.from_numpy(x[split : split + rows]).to(device_of(received))
    found = judge(predict(algorithm, posterior, test, key, name), torch.from_numpy(y[split : split + rows]))
    return counts(found, algorithm.model.outputs if algorithm.model.kind == "classification" else 0)


def calibrate(algorithm: Algorithm, meta: Tree, clients: Clients, key: Key) -> Tree:
    """The table of all these clients; ``{}`` where none has a test sample."""
    received = algorithm.down.round_trip(meta, None)
    asked = [at for at in range(len(clients.ids)) if clients.sizes[at] > clients.support[at]]
    sums = [client_counts(algorithm, received, clients, at, key) for at in asked]
    return table(tree.map(lambda *leaves: torch.stack(leaves).sum(0), *sums)) if sums else {}
