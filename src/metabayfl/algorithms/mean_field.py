"""Amortised mean-field Bayes over all weights (Ravi and Beatson, "Amortized Bayesian meta-learning", ICLR 2019).

The strategy is a prior: a mean and a log standard deviation for every weight. A client starts its posterior at the prior and takes ``T``
variational steps on its support ``D``; the server learns the prior from which those steps predict the query best (their Algorithm 1).

What differs from the paper: the KL is not followed by its gradient but by its proximal map. One step on ``mean NLL + w/n KL(q || p)`` is

    m <- m0 + (m - a g_m - m0) / (1 + c),                       c = a w / (n s0^2)
    log(s / s0) <- the root r of r + a w/n (exp(2 r) - 1) = log(s / s0) - a g_log_s

with ``g`` the gradient of the mean negative log likelihood under ``S`` antithetic draws. Both lines are the same forward-backward step, so the
fixed point is that of the plain gradient, but the step is stable for every prior precision: a plain step diverges as soon as ``c > 2``.
Without data, and in the limit of infinite precision, the posterior is the prior exactly. The noise scale of a regression head belongs to the strategy
and is not adapted: a few residuals say little about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metabayfl import compression, posterior, random, tree
from metabayfl.errors import unknown
from metabayfl.losses import masked_mean, mean_loss
from metabayfl.meta_gradient import gradient_client
from metabayfl.optimizers import adam, server
from metabayfl.types import Algorithm, Batch, Key, Metrics, Model, Prediction, Task, Tree

MetaGradient = Literal["exact", "first_order"]

_STOPS: dict[str, Callable[[Tensor], Tensor]] = {"exact": lambda leaf: leaf, "first_order": torch.Tensor.detach}


class Inner(NamedTuple):
    """The inner loop's numbers."""

    steps: int
    rate: float
    kl_weight: float
    draws: int


def mean_field(
    model: Model,
    *,
    inner_steps: int = 5,
    inner_lr: float = 0.1,
    adapt_steps: int | None = None,
    kl_weight: float = 1.0,
    inner_samples: int = 2,
    query_samples: int = 2,
    samples: int = 20,
    prior_sd: float = 0.05,
    meta_kl: float = 0.0,
    meta_lr: float = 1e-3,
    sd_lr: float = 1e-2,
    meta_gradient: MetaGradient = "first_order",
    bound: str = "mean",
) -> Algorithm:
    """Amortised mean-field Bayes.
    """
    if meta_gradient not in _STOPS:
        raise unknown("meta_gradient", meta_gradient, _STOPS)
    inner = Inner(inner_steps, inner_lr, kl_weight, inner_samples)
    begin, update = server(adam({"mean": meta_lr, "log_sd": sd_lr}))

    def init(key: Key) -> Tree:
        params = model.init(key)
        return posterior.isotropic(params, posterior.weight_paths(params), prior_sd)

    def objective(meta: Tree, task: Task, key: Key) -> tuple[Tensor, Metrics]:
        adapted = variational(model, meta, task.support, random.fold(key, "support"), inner, dropout=True, stop=_STOPS[meta_gradient])
        losses = _query_losses(model, adapted, task.query, random.fold(key, "query"), query_samples, bound)
        loss, count = masked_mean(losses, task.query.mask), task.query.mask.sum()
        metrics = {"loss": loss * count, "examples": count}
        return loss + meta_kl * posterior.kl(adapted, meta) / torch.clamp(count, min=1.0), metrics

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        steps = inner_steps if adapt_steps is None else adapt_steps
        return variational(model, meta, support, key, inner._replace(steps=steps), dropout=False, stop=torch.Tensor.detach)

    def predict(adapted: Tree, x: Tensor, key: Key) -> Prediction:
        return posterior.predict(model, adapted, x, key, samples)

    down = up = compression.exact()
    client = gradient_client(objective)
    return Algorithm("mean_field", model, init, begin, client, update, adapt, predict, objective, down, up)


def variational(
    model: Model, prior: Tree, support: Batch, key: Key, inner: Inner, *, dropout: bool, stop: Callable[[Tensor], Tensor]
) -> Tree:
    mean0, log_sd0 = posterior.vectors(prior)
    sd0 = torch.exp(log_sd0)
    count = torch.clamp(support.mask.sum().to(mean0.dtype), min=torch.finfo(mean0.dtype).tiny)
    prox = posterior.prox(log_sd0, inner.kl_weight * inner.rate / count)
    shift, ratio = torch.zeros_like(mean0), torch.ones_like(mean0)

    def loss(vector: Tensor, key: Key) -> Tensor:
        params = posterior.overlay(prior["mean"], posterior.split(vector, prior["log_sd"]))
        return mean_loss(model.likelihood, model.apply(params, support.x, key if dropout else None), support)

    slope = torch.func.vmap(torch.func.grad(loss))
    for step in range(inner.steps):
        at = random.fold(key, step)
        noise = posterior.antithetic(random.fold(at, "weights"), (inner.draws, len(mean0)), mean0.dtype)
        gradient = stop(slope(stop(mean0 + shift + sd0 * ratio * noise), random.keys(at, inner.draws)))
        shift = posterior.step_mean(prox, shift, inner.rate * gradient.mean(0))
        ratio = posterior.step_sd(prox, ratio, inner.rate * (gradient * noise).mean(0))
    mean = posterior.overlay(prior["mean"], posterior.split(mean0 + shift, prior["log_sd"]))
    return {"mean": mean, "log_sd": posterior.split(log_sd0 + torch.log(ratio), prior["log_sd"])}


def _query_losses(model, adapted, query, key, count, bound):
    keys = random.keys(random.fold(key, "dropout"), count)
    drawn = posterior.draw(adapted, random.fold(key, "weights"), count)
    apply = torch.func.vmap(lambda params, key: model.likelihood.loss(model.apply(params, query.x, key), query.y))
    losses = apply(drawn, keys)
    return losses.mean(0) if bound == "mean" else -torch.logsumexp(-losses, 0) + torch.log(torch.tensor(float(count)))
