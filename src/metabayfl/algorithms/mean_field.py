"""Amortised mean-field Bayes over all weights (Ravi and Beatson, "Amortized Bayesian meta-learning", ICLR 2019).

The strategy is a prior: a mean and a log standard deviation for every weight. A client starts its posterior ``q`` at the prior ``p`` and takes ``T``
variational steps on its support; the server learns the prior from which those steps predict the query best (their Algorithm 1).

What differs from the paper: the KL is not followed by its gradient but by its proximal map (:func:`metabayfl.posterior.prox`), in the mean ``m`` and
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
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.func import grad, vmap

from metabayfl import compression, posterior, random
from metabayfl.algorithms.inner import query_metrics
from metabayfl.algorithms.local_training import require
from metabayfl.batches import examples
from metabayfl.errors import unknown
from metabayfl.losses import mean_loss
from metabayfl.meta_gradient import gradient_client
from metabayfl.optimizers import adam, server
from metabayfl.types import Algorithm, Batch, Key, Metrics, Model, Prediction, Task, Tree

MetaGradient = Literal["exact", "first_order"]


class Steps(NamedTuple):
    """A client's variational steps."""

    number: int
    rate: float
    kl_weight: float
    draws: int
    first_order: bool = False


def mean_field(
    model: Model,
    *,
    inner_steps: int = 5,
    inner_lr: float = 0.1,
    kl_weight: float = 0.02,
    inner_samples: int = 2,
    query_samples: int = 2,
    samples: int = 20,
    prior_sd: float = 0.05,
    meta_kl: float = 0.0,
    meta_lr: float = 1e-3,
    sd_lr: float = 1e-2,
    meta_gradient: MetaGradient = "exact",
    adapt_steps: int | None = None,
    adapt_lr: float | None = None,
) -> Algorithm:
    """Differs from MAML in what the inner loop adapts: a Gaussian over the weights instead of the weights.

    Args:
        model: the network; its dropout is on in the inner steps and in the query loss.
        inner_steps: nu, variational steps on the whole support.
        inner_lr: alpha, their rate.
        kl_weight: factor on the inner KL; 1 is the evidence bound, which holds clients of some tens of examples too close to the prior.
        inner_samples: draws of the weights in an inner step, in antithetic pairs.
        query_samples: draws of the adapted posterior in the query loss, which is their mean NLL.
        samples: ``S``, draws of a prediction.
        prior_sd: standard deviation of every weight before the first round.
        meta_kl: factor on ``KL(q || p) / n_query`` in the query loss; the paper's hyper-objective has it at 1.
        meta_lr: beta, Adam's rate for the prior means.
        sd_lr: Adam's rate for the prior log standard deviations.
        meta_gradient: ``exact``: through the steps; ``first_order``: their gradients are taken as constants, the prior's pull is not.
        adapt_steps: steps when a client personalises; by default ``inner_steps``.
        adapt_lr: their rate; by default ``inner_lr``.

    Returns:
        the algorithm; strategy and posterior are trees of :mod:`metabayfl.posterior`. ``objective`` has the meta-gradient of the chosen kind.

    Raises:
        ConfigError: for a number outside its range or an unknown ``meta_gradient``.

    Example:
        >>> from metabayfl.models import mlp
        >>> list(mean_field(mlp((4,), 3), prior_sd=0.1).init(random.key(0)))
        ['mean', 'log_sd']
    """
    if meta_gradient not in get_args(MetaGradient):
        raise unknown("meta_gradient", meta_gradient, get_args(MetaGradient))
    inner = _checked(Steps(inner_steps, inner_lr, kl_weight, inner_samples, meta_gradient == "first_order"))
    own = _checked(inner._replace(number=inner_steps if adapt_steps is None else adapt_steps, rate=inner_lr if adapt_lr is None else adapt_lr))
    for name, value, least in (("query_samples", query_samples, 1), ("samples", samples, 1), ("meta_kl", meta_kl, 0)):
        require(name, value, least=least)
    for name, rate in (("meta_lr", meta_lr), ("sd_lr", sd_lr)):
        require(name, rate, above=0)

    def init(key: Key) -> Tree:
        params = model.init(key)
        return posterior.isotropic(params, posterior.weight_paths(params), prior_sd)

    def objective(meta: Tree, task: Task, key: Key) -> tuple[Tensor, Metrics]:
        adapted = variational(model, meta, task.support, random.fold(key, "support"), inner)
        loss = expected_loss(model, adapted, task.query, random.fold(key, "query"), query_samples)
        count = torch.clamp(examples(task.query), min=1.0)
        return loss + meta_kl / count * posterior.kl(adapted, meta) if meta_kl else loss, query_metrics(loss, task.query)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return variational(model, meta, support, key, own)

    def predict(adapted: Tree, x: Tensor, key: Key) -> Prediction:
        return posterior.predict(model, adapted, x, key, samples)

    begin, update = server(adam({"mean": meta_lr, "log_sd": sd_lr}))
    exact = compression.exact()
    return Algorithm("mean_field", model, init, begin, gradient_client(objective), update, adapt, predict, objective, exact, exact)


def _checked(steps: Steps) -> Steps:
    require("inner_steps or adapt_steps", steps.number, least=0)
    require("inner_lr or adapt_lr", steps.rate, above=0)
    require("kl_weight", steps.kl_weight, above=0)
    require("inner_samples", steps.draws, least=1)
    return steps


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
