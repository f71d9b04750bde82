"""A client's variational steps from a Gaussian prior over weights, in which the prior's pull is a proximal map.

The KL is not followed by its gradient but by its proximal map (:func:`metabayfl.posterior.prox`), in the mean ``m`` and
the standard deviation ``s`` alike. One step on ``mean NLL + kl_weight / n KL(q || p)`` is, for every weight with prior ``N(m0, s0^2)``::

    m <- m0 + k (m - m0 - a g_m),                        k = 1 / (1 + c),  c = a kl_weight / (n s0^2)
    s <- (b + sqrt(b^2 + 4 s0^2 (1 - k))) / 2,           b = k (s - a g_s)

with ``a`` the inner rate and ``g`` the gradients of the mean negative log likelihood under antithetic draws. Both lines are one
forward-backward step, so its fixed points are those of the plain gradient, but it is stable for every prior precision, where a plain step
diverges from ``c = 2`` on. Without data, and in the limit of infinite precision, the posterior is the prior exactly. The noise scale of a
regression head belongs to the strategy and no client adapts it: a few residuals say little about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from metabayfl import posterior, random
from metabayfl.batches import examples
from metabayfl.losses import mean_loss
from metabayfl.types import Batch, Key, Model, Tree


class Steps(NamedTuple):
    """A client's variational steps."""

    number: int
    rate: float
    kl_weight: float
    draws: int
    first_order: bool = False


def variational(model: Model, prior: Tree, support: Batch, key: Key, steps: Steps) -> Tree:
    """The posterior after the steps on one client's support ``(N, ...)``, from the prior and with the prior's pull.

    Everything per weight is one vector ``(P,)``, and the state is its distance from the prior, so that nothing moves without a gradient.
    """
    mean0, log_sd0 = posterior.vectors(prior)
    sd0, descents = torch.exp(log_sd0), _descents(model, prior, support, steps.rate / steps.draws)
    count = torch.clamp(examples(support).to(mean0.dtype), min=1e-30)  # no data: a pull beyond all bounds
    prox = posterior.prox(log_sd0, steps.kl_weight * steps.rate / count)
    hold = torch.Tensor.detach if steps.first_order else _same
    shift, ratio, half = torch.zeros_like(mean0), torch.ones_like(mean0), (steps.draws + 1) // 2
    for step in range(steps.number):
        at = random.fold(key, "step", step)
        noise = random.normal(random.fold(at, "weights"), (half, len(mean0)), mean0.dtype)
        others = noise[: steps.draws - half]
        drawn = hold(_pairs(mean0 + shift, sd0 * ratio, noise, others))
        slope = hold(descents(drawn, random.keys(random.fold(at, "dropout"), steps.draws)))
        ahead, behind = torch.split(slope, [half, steps.draws - half])
        shift = posterior.step_mean(prox, shift, ahead.sum(0) + behind.sum(0))
        ratio = posterior.step_sd(prox, ratio, (ahead * noise).sum(0) - (behind * others).sum(0))
    return posterior.move(prior, shift, torch.log(ratio))


def _pairs(mean: Tensor, sd: Tensor, ahead: Tensor, behind: Tensor) -> Tensor:
    """The draws of :func:`metabayfl.posterior.antithetic`, ``mean + sd ahead`` and ``mean - sd behind``, without negatives in memory."""
    return torch.cat([torch.addcmul(mean, sd, ahead), torch.addcmul(mean, sd, behind, value=-1.0)])


def _same(leaf: Tensor) -> Tensor:
    return leaf


def _descents(model: Model, prior: Tree, support: Batch, factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Drawn weights ``(S, P)`` and dropout keys ``(S,)`` -> gradients of the mean NLL ``(S, P)``, times ``factor``: cheapest on the loss.

    The chain rule through ``m + s e`` is trivial, so it is not left to automatic differentiation: ``g_m = mean g``, ``g_s = mean g e``.
    """

    def loss(vector: Tensor, key: Key) -> Tensor:
        params = posterior.overlay(prior["mean"], posterior.split(vector, prior["log_sd"]))
        return factor * mean_loss(model.likelihood, model.apply(params, support.x, key), support)

    return vmap(grad(loss))


def expected_loss(model: Model, q: Tree, batch: Batch, key: Key, count: int) -> Tensor:
    """Mean NLL of ``batch`` under ``count`` draws of ``q``, each with a dropout mask of its own, nats, shape ``()``."""

    def loss(params: Tree, key: Key) -> Tensor:
        return mean_loss(model.likelihood, model.apply(params, batch.x, key), batch)

    return vmap(loss)(posterior.draw(q, random.fold(key, "weights"), count), random.keys(random.fold(key, "dropout"), count)).mean()
