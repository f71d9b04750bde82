"""Federated averaging (McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data", arXiv 1602.05629)."""

from __future__ import annotations

from metabayfl.algorithms.local_training import averaging, require, sgd
from metabayfl.optimizers import sgd as server_sgd
from metabayfl.types import Algorithm, Model


def fedavg(
    model: Model,
    *,
    local_epochs: int = 5,
    batch_size: int = 10,
    client_lr: float = 0.05,
    weight_decay: float = 0.0,
    server_lr: float = 1.0,
    server_momentum: float = 0.0,
) -> Algorithm:
    """FedAvg (Algorithm 1): clients train the global model, the server averages what they return. No personalisation: ``adapt`` is the identity.

    With ``w_k`` client ``k``'s parameters after its local SGD and ``n_k`` its examples, ``w <- w - server_lr sum_k n_k (w - w_k) / sum_k n_k``: their
    weighted mean at ``server_lr = 1``. With one full-batch epoch it is FedSGD, one step down the cohort's mean loss.

    Args:
        model: the network, classification or regression.
        local_epochs: ``E``, passes of a client over its examples in a round.
        batch_size: ``B``, examples a local step; 0 takes all at once.
        client_lr: rate of a local step.
        weight_decay: added to a local gradient, times the parameters.
        server_lr: rate of the server's step along the mean change.
        server_momentum: heavy-ball momentum of the server, in ``[0, 1)``: FedAvgM (Hsu et al. 2019, arXiv 1909.06335).

    Raises:
        ConfigError: if a number is outside its range.

    Example:
        >>> from metabayfl.models import mlp
        >>> fedavg(mlp((4,), 3), local_epochs=1).name
        'fedavg'
    """
    require("server_lr", server_lr, above=0)
    require("server_momentum", server_momentum, least=0, below=1)
    return averaging("fedavg", model, sgd(local_epochs, batch_size, client_lr, weight_decay), server_sgd(server_lr, server_momentum))
