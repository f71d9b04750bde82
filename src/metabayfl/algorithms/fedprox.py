"""FedProx (Li et al. 2020, "Federated optimization in heterogeneous networks", arXiv 1812.06127)."""

from __future__ import annotations

import torch

from metabayfl import tree
from metabayfl.algorithms.local_training import Correction, averaging, require, sgd
from metabayfl.optimizers import sgd as server_sgd
from metabayfl.types import Algorithm, Model, Tree


def fedprox(
    model: Model,
    *,
    mu: float = 0.01,
    local_epochs: int = 5,
    batch_size: int = 10,
    client_lr: float = 0.05,
    weight_decay: float = 0.0,
    server_lr: float = 1.0,
) -> Algorithm:
    """FedAvg whose clients minimise ``f_k(w) + mu/2 |w - w_server|^2`` (equation 2, Algorithm 2), so that none drifts far in a round.

    The pull ``mu (w - w_server)`` is in the gradient of every local step; the reported loss is without it. ``mu = 0`` is FedAvg to the bit.

    Args:
        model: the network, classification or regression.
        mu: weight of the proximal term, 0 or more; ``client_lr * mu`` must stay below 2 or the pull overshoots.
        local_epochs: passes of a client over its examples in a round.
        batch_size: examples a local step; 0 takes all at once.
        client_lr: rate of a local step.
        weight_decay: added to a local gradient, times the parameters.
        server_lr: rate of the server's step along the mean change.

    Raises:
        ConfigError: if a number is outside its range.
    """
    how = sgd(local_epochs, batch_size, client_lr, weight_decay)
    require("mu", mu, least=0, below=2 / client_lr)
    require("server_lr", server_lr, above=0)
    return averaging("fedprox", model, how, server_sgd(server_lr), lambda anchor: proximal(anchor, mu))


def proximal(anchor: Tree, mu: float) -> Correction:
    """The correction that adds the gradient of ``mu/2 |w - anchor|^2``."""

    def correct(gradient: Tree, params: Tree) -> Tree:
        return tree.map(lambda slope, leaf, centre: torch.add(slope, leaf - centre, alpha=mu), gradient, params, anchor)

    return correct
