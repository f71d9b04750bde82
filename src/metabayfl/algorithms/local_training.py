"""What a client does in FedAvg and its relatives: stochastic gradient descent on its own data, as one pure function.

A minibatch without a real example, which padding brings about, changes nothing. The order of the examples and the dropout masks depend on the key
alone and not on the padding, so a client computes the same numbers in a padded cohort as alone on its device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from metabayfl import compression, random, tree
from metabayfl.algorithms.side_by_side import copies, gradient, losses, shares
from metabayfl.batches import everything, minibatches
from metabayfl.errors import ConfigError
from metabayfl.losses import mean_loss
from metabayfl.models.order import channels_last
from metabayfl.optimizers import Optimizer, server
from metabayfl.types import Algorithm, Batch, Key, Message, Metrics, Model, Prediction, Task, Tree

Loss = Callable[[Tree, Batch, Key], Tensor]
"""Parameters, minibatch, dropout key -> mean loss of the real examples in nats, shape ``()``."""

Correction = Callable[[Tree, Tree], Tree]
"""Gradient, current parameters -> the direction to descend along."""

LOG_SCALE_RANGE = (-3.0, 3.0)
"""Where a trained ``log_scale`` stays: noise between 0.05 and 20 standard deviations of the target. A gradient step on it is ``rate * z^2``, so
one surprise (``z`` of some tens, after a client fitted its few targets closely) would throw it to where ``exp(-log_scale)`` is 0 and no gradient
is left."""


class Sgd(NamedTuple):
    """How a client descends."""

    epochs: int
    batch_size: int  # 0: all examples in one batch
    rate: float
    weight_decay: float = 0.0  # the gradient gains ``weight_decay * parameters``, as in torch.optim.SGD


def sgd(local_epochs: int, batch_size: int, client_lr: float, weight_decay: float = 0.0) -> Sgd:
    """The checked descent of a round of training.

    Raises:
        ConfigError: if a number is outside its range.
    """
    require("local_epochs", local_epochs, least=1)
    require("batch_size", batch_size, least=0)
    require("client_lr", client_lr, above=0)
    require("weight_decay", weight_decay, least=0)
    return Sgd(local_epochs, batch_size, client_lr, weight_decay)


def tuning(adapt_steps: int, adapt_lr: float, weight_decay: float = 0.0) -> Sgd:
    """The checked descent of a personalisation: full-batch steps on the support set, 0 of them to keep what was learned.

    Raises:
        ConfigError: if a number is outside its range.
    """
    require("adapt_steps", adapt_steps, least=0)
    require("adapt_lr", adapt_lr, above=0)
    require("weight_decay", weight_decay, least=0)
    return Sgd(adapt_steps, 0, adapt_lr, weight_decay)


def require(name: str, value: float, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf) -> None:
    """Refuse a hyper-parameter outside ``least <= value``, ``above < value < below``.

    Raises:
        ConfigError: names the hyper-parameter, its value and the range.

    Example:
        >>> require("server_momentum", 1.0, least=0, below=1)
        Traceback (most recent call last):
        metabayfl.errors.ConfigError: server_momentum is 1.0, expected at least 0 and below 1
    """
    if least <= value and above < value < below:
        return
    limits = [(least, f"at least {least}"), (above, f"above {above}"), (below, f"below {below}")]
    raise ConfigError(f"{name} is {value}, expected " + " and ".join(text for limit, text in limits if math.isfinite(limit)))


def model_loss(model: Model) -> Loss:
    """The mean negative log likelihood under ``model``, with dropout."""

    def loss(params: Tree, batch: Batch, key: Key) -> Tensor:
        return mean_loss(model.likelihood, model.apply(params, batch.x, key), batch)

    return loss


def train(loss: Loss, params: Tree, batch: Batch, key: Key, how: Sgd, correction: Correction | None = None) -> tuple[Tree, Metrics]:
    """Minibatch SGD from ``params`` on one client's examples.

    Args:
        loss: what to descend.
        params: any tree that ``loss`` takes; a leaf named ``log_scale`` is kept within :data:`LOG_SCALE_RANGE`.
        batch: ``(N, ...)``, padded.
        key: decides the order of the examples and the dropout.
        how: epochs, batch size, rate and decay.
        correction: changes the gradient of every step, such as FedProx's pull to the server.

    Returns:
        The trained parameters, and the metrics: ``loss`` is the sum over examples of the loss each had when it was trained on, averaged over
        epochs, so it costs no pass of its own.
    """
    batches = minibatches(batch, how.batch_size, how.epochs, key)
    params, total = descend(loss, params, batches, step_keys(key, how.epochs, len(batches)), how, correction)
    return params, {"loss": total / max(how.epochs, 1), "examples": batch.mask.sum()}


def descend(loss: Loss, params: Tree, batches: list[Batch], keys: Tensor, how: Sgd, correction: Correction | None = None) -> tuple[Tree, Tensor]:
    """One step of :func:`train` on each batch, with the keys ``(steps,)``; also returns the sum over examples of the loss that each had."""
    total = torch.zeros((), dtype=tree.leaves(params)[0].dtype, device=keys.device)
    for part, noise in zip(batches, keys, strict=True):
        slope, value = grad_and_value(partial(_on, loss, part, noise))(params)
        count = part.mask.sum()
        total = total + value * count
        params = bounded(tree.step(params, _direction(slope, params, count, how.weight_decay, correction), how.rate))
    return params, total


def train_side_by_side(
    model: Model, params: Tree, batches: Batch, keys: Tensor, how: Sgd, correction: Correction | None = None
) -> tuple[Tree, Metrics]:
    """``vmap`` of :func:`train` on the loss of ``model`` over clients ``(C, N, ...)`` with keys ``(C,)``, all from the same ``params``."""
    parts = minibatches(batches, how.batch_size, how.epochs, keys)
    noises, now = step_keys(keys, how.epochs, len(parts)), copies(params, len(keys))
    total = torch.zeros(len(keys), dtype=tree.leaves(params)[0].dtype, device=keys.device)
    for step, part in enumerate(parts):
        leaves = [leaf.detach().requires_grad_() for leaf in tree.leaves(now)]
        with torch.enable_grad():
            values = losses(model, tree.like(now, leaves), part, noises[:, step])
            slope = tree.like(now, gradient(values, shares(part.mask, values.dtype), leaves))
        total = total + torch.linalg.vecdot(values.detach(), part.mask.to(values.dtype))
        if how.weight_decay or correction is not None:
            slope = vmap(lambda slope, own, mask: _direction(slope, own, mask.sum(), how.weight_decay, correction))(slope, now, part.mask)
        # in place once they are copies: fresh memory for every client's weights would cost more than the arithmetic
        now = bounded(tree.step(now, slope, how.rate) if step == 0 and len(keys) == 1 else tree.map(partial(_descend, how.rate), now, slope))
    return now, {"loss": total / max(how.epochs, 1), "examples": batches.mask.sum(-1)}


def _descend(rate: float, leaf: Tensor, slope: Tensor) -> Tensor:
    return leaf.detach().sub_(slope, alpha=rate)


def _less(leaf: Tensor, own: Tensor) -> Tensor:
    """``leaf - own`` where ``own`` was, which nobody needs any more; a client that took no step still has the strategy itself."""
    return torch.sub(leaf, own, out=None if own.data_ptr() == leaf.data_ptr() else own)


def _on(loss: Loss, part: Batch, noise: Key, params: Tree) -> Tensor:
    """The loss as a function of the parameters alone: ``torch.func`` wraps every argument that it is given."""
    return loss(params, part, noise)


def step_keys(key: Key, epochs: int, steps: int) -> Tensor:
    """A key for each step ``(..., steps)``, from its place in its epoch, since padding adds steps to every epoch."""
    passes = torch.arange(epochs, device=key.device).unsqueeze(1)
    return random.fold(key[..., None, None], "dropout", passes, torch.arange(steps // max(epochs, 1), device=key.device)).flatten(-2)


def _direction(gradient: Tree, params: Tree, count: Tensor, weight_decay: float, correction: Correction | None) -> Tree:
    if not weight_decay and correction is None:
        return gradient  # already 0 where the minibatch is empty
    if weight_decay:
        gradient = tree.map(lambda slope, leaf: torch.add(slope, leaf, alpha=weight_decay), gradient, params)
    if correction is not None:
        gradient = correction(gradient, params)
    return tree.scale(gradient, count > 0)


def bounded(params: Tree) -> Tree:
    """``params`` with every leaf named ``log_scale`` clamped to :data:`LOG_SCALE_RANGE`."""
    return {name: bounded(value) if isinstance(value, dict) else _bounded_leaf(name, value) for name, value in params.items()}


def _bounded_leaf(name: str, leaf: Tensor) -> Tensor:
    return torch.clamp(leaf, *LOG_SCALE_RANGE) if name == "log_scale" else leaf


def point_predict(model: Model) -> Callable[[Tree, Tensor, Key], Prediction]:
    """``predict`` of a posterior that is one set of parameters: no epistemic part, no dropout."""

    def predict(posterior: Tree, x: Tensor, key: Key) -> Prediction:
        return model.likelihood.predict(model.apply(channels_last(posterior), x, None))

    return predict


def keep_global(meta: Tree, support: Batch, key: Key) -> Tree:
    """``adapt`` of a method without personalisation: every client gets the global parameters."""
    return meta


def averaging(
    name: str,
    model: Model,
    how: Sgd,
    optimizer: Optimizer,
    correction: Callable[[Tree], Correction] | None = None,
    adapt: Callable[[Tree, Batch, Key], Tree] = keep_global,
) -> Algorithm:
    """The frame of federated averaging: clients train from the server's parameters, the server descends along the mean of their changes.

    Args:
        name: the algorithm's name in the registry.
        model: the network; the strategy is its parameters.
        how: a client's descent.
        optimizer: the server's, :func:`metabayfl.optimizers.sgd` with rate 1 for FedAvg.
        correction: the server's parameters -> the correction of a client's gradient.
        adapt: how a client personalises the parameters.
    """
    loss, (begin, update) = model_loss(model), server(optimizer)

    def client(meta: Tree, task: Task, key: Key) -> Message:
        trained, metrics = train(loss, meta, everything(task), key, how, correction(meta) if correction else None)
        return Message(tree.subtract(meta, trained), metrics["examples"], metrics)

    def clients(meta: Tree, tasks: Task, keys: Tensor) -> Message:
        trained, metrics = train_side_by_side(model, meta, everything(tasks), keys, how, correction(meta) if correction else None)
        return Message(tree.map(_less, meta, trained), metrics["examples"], metrics)

    exact = compression.exact()
    return Algorithm(name, model, model.init, begin, client, update, adapt, point_predict(model), None, exact, exact, clients=clients)
