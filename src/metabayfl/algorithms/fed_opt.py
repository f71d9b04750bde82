"""Adaptive federated optimisation (Reddi et al. 2021, arXiv 2003.00295): FedAvg's clients under an adaptive server.

The three methods differ in the server's second moment alone (:mod:`metabayfl.optimizers`, Algorithm 2). Defaults follow the paper's grid for its
image tasks (appendix D): ``server_lr = 0.01``, ``tau = 1e-3``, ``b1 = 0.9``, ``b2 = 0.99``, one local epoch.
"""

from __future__ import annotations

from metabayfl.algorithms.local_training import averaging, require, sgd
from metabayfl.optimizers import fed_adagrad, fed_adam, fed_yogi
from metabayfl.types import Algorithm, Model


def fedadam(
    model: Model,
    *,
    server_lr: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.99,
    tau: float = 1e-3,
    local_epochs: int = 1,
    batch_size: int = 10,
    client_lr: float = 0.05,
    weight_decay: float = 0.0,
) -> Algorithm:
    """FedAvg with Adam on the server: ``v <- b2 v + (1 - b2) d^2``, ``w <- w - server_lr m / (sqrt(v) + tau)``, ``d`` the mean change.

    Args:
        model: the network, classification or regression.
        server_lr: the server's rate, about the size of a step of each weight.
        b1: decay of the first moment, in ``[0, 1)``.
        b2: decay of the second moment, in ``[0, 1)``.
        tau: adaptivity: large values approach plain descent with rate ``server_lr / tau``.
        local_epochs: passes of a client over its examples in a round.
        batch_size: examples a local step; 0 takes all at once.
        client_lr: rate of a local step.
        weight_decay: added to a local gradient, times the parameters.

    Raises:
        ConfigError: if a number is outside its range.
    """
    _require(server_lr, b1, b2, tau)
    how = sgd(local_epochs, batch_size, client_lr, weight_decay)
    return averaging("fedadam", model, how, fed_adam(server_lr, b1, b2, tau))


def fedyogi(
    model: Model,
    *,
    server_lr: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.99,
    tau: float = 1e-3,
    local_epochs: int = 1,
    batch_size: int = 10,
    client_lr: float = 0.05,
    weight_decay: float = 0.0,
) -> Algorithm:
    """FedAvg with Yogi on the server: ``v <- v - (1 - b2) d^2 sign(v - d^2)``; arguments as for :func:`fedadam`."""
    _require(server_lr, b1, b2, tau)
    how = sgd(local_epochs, batch_size, client_lr, weight_decay)
    return averaging("fedyogi", model, how, fed_yogi(server_lr, b1, b2, tau))


def fedadagrad(
    model: Model,
    *,
    server_lr: float = 0.01,
    b1: float = 0.0,
    tau: float = 1e-3,
    local_epochs: int = 1,
    batch_size: int = 10,
    client_lr: float = 0.05,
    weight_decay: float = 0.0,
) -> Algorithm:
    """FedAvg with Adagrad on the server: ``v <- v + d^2``, so its steps only shrink; arguments as for :func:`fedadam`, no momentum by default."""
    _require(server_lr, b1, 0.0, tau)
    how = sgd(local_epochs, batch_size, client_lr, weight_decay)
    return averaging("fedadagrad", model, how, fed_adagrad(server_lr, b1, tau))


def _require(server_lr: float, b1: float, b2: float, tau: float) -> None:
    require("server_lr", server_lr, above=0)
    require("b1", b1, least=0, below=1)
    require("b2", b2, least=0, below=1)
    require("tau", tau, above=0)
