"""Amortised mean-field Bayes over all weights (Ravi and Beatson, "Amortized Bayesian meta-learning", ICLR 2019).

The strategy is a prior: a mean and a log standard deviation for every weight. A client starts its posterior ``q`` at the prior ``p`` and takes ``T``
variational steps on its support; the server learns the prior from which those steps predict the query best (their Algorithm 1).

What differs from the paper is how the steps follow the KL: see :mod:`metabayfl.algorithms.variational`.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from metabayfl import compression, posterior, random
from metabayfl.algorithms.inner import query_metrics
from metabayfl.algorithms.local_training import require
from metabayfl.algorithms.side_by_side import query_message
from metabayfl.algorithms.variational import Steps, expected_loss, variational
from metabayfl.algorithms.variational_sweep import sweep
from metabayfl.batches import examples
from metabayfl.errors import unknown
from metabayfl.meta_gradient import gradient_client
from metabayfl.optimizers import adam, server
from metabayfl.types import Algorithm, Batch, Key, Message, Metrics, Model, Prediction, Task, Tree

MetaGradient = Literal["exact", "first_order"]


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

    def clients(meta: Tree, tasks: Task, keys: Tensor) -> Message:
        return query_message(*sweep(model, meta, tasks, keys, inner, query_samples, meta_kl), tasks)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return variational(model, meta, support, key, own)

    def predict(adapted: Tree, x: Tensor, key: Key) -> Prediction:
        return posterior.predict(model, adapted, x, key, samples)

    begin, update = server(adam({"mean": meta_lr, "log_sd": sd_lr}))
    exact = compression.exact()
    client = gradient_client(objective)
    return Algorithm("mean_field", model, init, begin, client, update, adapt, predict, objective, exact, exact, clients=clients)


def _checked(steps: Steps) -> Steps:
    require("inner_steps or adapt_steps", steps.number, least=0)
    require("inner_lr or adapt_lr", steps.rate, above=0)
    require("kl_weight", steps.kl_weight, above=0)
    require("inner_samples", steps.draws, least=1)
    return steps
