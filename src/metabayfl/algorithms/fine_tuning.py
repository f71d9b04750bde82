"""FedAvg, then a few steps on the client: the baseline that personalised methods have to beat (Yu et al. 2020, arXiv 2002.04758)."""

from __future__ import annotations

from torch import Tensor
from torch.func import vmap

from metabayfl.algorithms.local_training import averaging, descend, model_loss, require, sgd, step_keys, train, tuning
from metabayfl.batches import minibatches
from metabayfl.losses import mean_loss
from metabayfl.optimizers import sgd as server_sgd
from metabayfl.types import Algorithm, Batch, Key, Model, Tree

CHUNK = 10
"""Steps whose features are computed at once; bounds the memory of bodies that change their inputs at random."""


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

    def loss(head: Tree, features: Batch, noise: Key) -> Tensor:
        return mean_loss(model.likelihood, model.head(head, features.x), features)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        keys = step_keys(key, adapt_steps, adapt_steps)
        head, _ = descend(loss, meta["head"], _features(model, meta["body"], support, keys), keys, tune)
        return {**meta, "head": head}

    return averaging("fedavg_head_ft", model, how, server_sgd(server_lr, server_momentum), adapt=adapt)


def _features(model: Model, body: Tree, support: Batch, keys: Tensor) -> list[Batch]:
    """The support's features at each step's key. What a body computes before its dropout does not depend on the key, so it is computed once."""
    if not len(keys):
        return []
    batch = minibatches(support, 0, 1, keys[0])[0]
    each = vmap(lambda key: model.features(body, batch.x, key), chunk_size=CHUNK)(keys)
    return [batch._replace(x=features) for features in each]


def _require(server_lr: float, server_momentum: float) -> None:
    require("server_lr", server_lr, above=0)
    require("server_momentum", server_momentum, least=0, below=1)
