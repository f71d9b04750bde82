"""FedAvg, then a few steps on the client: the baseline that personalised methods have to beat (Yu et al. 2020, arXiv 2002.04758)."""

from __future__ import annotations

from metabayfl.algorithms.local_training import averaging, model_loss, require, sgd, train, tuning
from metabayfl.optimizers import sgd as server_sgd
from metabayfl.types import Algorithm, Batch, Key, Model, Tree


def fedavg_ft(
    model: Model,
    *,
    adapt_steps: int = 20,
    adapt_lr: float = 0.05,
    local_epochs: int = 5,
    batch_size: int = 10,
    client_lr: float = 0.05,
    weight_decay: float = 0.0,
    server_lr: float = 1.0,
    server_momentum: float = 0.0,
) -> Algorithm:
    """FedAvg whose clients take ``adapt_steps`` full-batch gradient steps of the whole net on their support set, with the model's dropout.

    Args:
        model: the network, classification or regression.
        adapt_steps: steps of the personalisation; 0 keeps the global model.
        adapt_lr: rate of a step of the personalisation.
        local_epochs: passes of a client over its examples in a round of training.
        batch_size: examples a local step of training; 0 takes all at once.
        client_lr: rate of a local step of training.
        weight_decay: added to a local gradient in training, times the parameters.
        server_lr: rate of the server's step along the mean change.
        server_momentum: heavy-ball momentum of the server, in ``[0, 1)``.

    Raises:
        ConfigError: if a number is outside its range.
    """
    _require(server_lr, server_momentum)
    how, tune = sgd(local_epochs, batch_size, client_lr, weight_decay), tuning(adapt_steps, adapt_lr)
    loss = model_loss(model)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return train(loss, meta, support, key, tune)[0]

    return averaging("fedavg_ft", model, how, server_sgd(server_lr, server_momentum), adapt=adapt)


def fedavg_head_ft(
    model: Model,
    *,
    adapt_steps: int = 20,
    adapt_lr: float = 0.05,
    local_epochs: int = 5,
    batch_size: int = 10,
    client_lr: float = 0.05,
    weight_decay: float = 0.0,
    server_lr: float = 1.0,
    server_momentum: float = 0.0,
) -> Algorithm:
    """:func:`fedavg_ft` that adapts the linear head alone; the body stays the server's to the bit. Arguments as there."""
    _require(server_lr, server_momentum)
    how, tune = sgd(local_epochs, batch_size, client_lr, weight_decay), tuning(adapt_steps, adapt_lr)
    loss = model_loss(model)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        head, _ = train(lambda head, batch, noise: loss({**meta, "head": head}, batch, noise), meta["head"], support, key, tune)
        return {**meta, "head": head}

    return averaging("fedavg_head_ft", model, how, server_sgd(server_lr, server_momentum), adapt=adapt)


def _require(server_lr: float, server_momentum: float) -> None:
    require("server_lr", server_lr, above=0)
    require("server_momentum", server_momentum, least=0, below=1)
