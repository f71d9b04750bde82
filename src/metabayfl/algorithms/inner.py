"""The inner loop of meta-learning methods on a model and a client's data: what the builders of this family share."""

from __future__ import annotations

from collections.abc import Callable

import torch

from metabayfl import optimizers, random, tree
from metabayfl.algorithms.local_training import bounded, require
from metabayfl.batches import examples, take
from metabayfl.errors import unknown
from metabayfl.losses import mean_loss
from metabayfl.meta_gradient import Loss, Rate, descend
from metabayfl.optimizers import Optimizer
from metabayfl.types import Batch, Key, Metrics, Model, Tree

_SERVERS: dict[str, Callable[[optimizers.Rate], Optimizer]] = {"adam": optimizers.adam, "sgd": optimizers.sgd}


def check_inner(steps: int, rate: float, decay: float, adapt_steps: int, adapt_rate: float) -> None:
    """Refuse an inner loop that cannot run.

    Raises:
        ConfigError: names the first hyper-parameter that is out of its range.
    """
    require("inner_steps", steps, least=0)
    require("inner_lr", rate, above=0)
    require("inner_weight_decay", decay, least=0)
    require("adapt_steps", adapt_steps, least=0)
    require("adapt_lr", adapt_rate, above=0)


def descent(name: str, rate: optimizers.Rate) -> Optimizer:
    """The server optimiser of a meta-gradient method by name.

    Raises:
        ConfigError: if there is none of this name.
    """
    if name not in _SERVERS:
        raise unknown("server_optimizer", name, _SERVERS)
    return _SERVERS[name](rate)


def minibatch(batch: Batch, size: int, key: Key, step: int = 0) -> Batch:
    """The ``step``-th ``size`` examples of a shuffled pass, going round at its end; with ``size`` 0 the whole batch as it is.

    Real examples alone are drawn, each at most once in a minibatch, so that padding neither empties one nor changes it; a client with fewer
    than ``size`` gives them all, and the rest is masked.
    """
    if size <= 0 or len(batch.mask) == 0:
        return batch
    count = torch.clamp(examples(batch), min=1).to(torch.int64)
    place = torch.arange(size, device=batch.mask.device)
    picked = take(batch, random.permutation(key, batch.mask)[(step * size + place) % count])
    return picked._replace(mask=picked.mask * (place < count))


def step_loss(model: Model, batch: Batch, key: Key | None, decay: float = 0.0) -> Loss:
    """Mean NLL of a batch plus ``decay / 2 |w|^2``, which adds ``decay w`` to the gradient and ``decay I`` to the Hessian.

    The decay is off where the batch has no real example, so that such a step changes nothing. ``key`` draws the dropout.
    """

    def loss(params: Tree) -> torch.Tensor:
        nll = mean_loss(model.likelihood, model.apply(params, batch.x, key), batch)
        return nll + (0.5 * decay) * (tree.dot(params, params) * (examples(batch) > 0)) if decay else nll

    return loss


def inner_losses(model: Model, batch: Batch, steps: int, key: Key, decay: float = 0.0) -> list[Loss]:
    """``steps`` losses on one batch, each with a dropout key of its own (meta-dropout)."""
    return [step_loss(model, batch, drop, decay) for drop in step_keys(key, steps)]


def step_keys(key: Key, steps: int) -> list[Key]:
    """A key for each inner step."""
    return list(random.fold(key, "inner", torch.arange(steps, device=key.device)))


def query_metrics(loss: torch.Tensor, batch: Batch) -> Metrics:
    """The message's metrics from a mean loss on ``batch``: sums over its examples."""
    count = examples(batch)
    return {"loss": (loss * count).detach(), "examples": count}


def fine_tune(model: Model, params: Tree, rate: Rate, support: Batch, key: Key, steps: int, decay: float) -> Tree:
    """Adaptation: ``steps`` inner steps on the whole support set, the same ones as in training.

    A regression head's ``log_scale`` is kept within bounds after each, for more steps than were trained for may throw it far. Such steps want a
    smaller rate there: the gradient of the means grows with the inverse variance.
    """
    for loss in inner_losses(model, support, steps, key, decay):
        params = bounded(descend([loss], params, rate).points[-1])
    return params
