"""How often a backdoor opens: held-out clients that adapted on their own clean samples are shown the trigger."""

from __future__ import annotations

import numpy as np
import torch

from metabayfl.attacks.poison import stamp
from metabayfl.data.federation import Clients
from metabayfl.errors import ConfigError
from metabayfl.evaluation.heldout import adapt, device_of, predict, support_batch
from metabayfl.types import Algorithm, ClassPrediction, Key, Tree


def success_rate(algorithm: Algorithm, meta: Tree, clients: Clients, key: Key, target: int) -> float:
    """Share of the test samples of other classes that are taken for ``target`` once they bear the trigger.

    Args:
        algorithm: its ``adapt`` and ``predict`` are used.
        meta: the strategy as the server has it; it goes through ``algorithm.down`` first.
        clients: held-out clients; NaN if all of their test samples are of the target's class.
        key: as in :func:`metabayfl.evaluation.evaluate`.
        target: the class that the backdoor wants.

    Raises:
        ConfigError: in regression.
    """
    received = algorithm.down.round_trip(meta, None)
    device, opened, asked = device_of(received), 0, 0
    for at, name in enumerate(clients.ids):
        x, y = clients.read(at)
        split = int(clients.support[at])
        posterior = adapt(algorithm, received, support_batch(x[:split], y[:split], device), key, name)
        others = torch.from_numpy(np.ascontiguousarray(x[split:][y[split:] != target])).to(device)
        if not len(others):
            continue
        prediction = predict(algorithm, posterior, stamp(others, 1), key, name)
        if not isinstance(prediction, ClassPrediction):
            raise ConfigError("a backdoor's success is counted in classes, and this is a regression")
        opened, asked = opened + int((prediction.probs.argmax(-1) == target).sum()), asked + len(others)
    return opened / asked if asked else float("nan")
