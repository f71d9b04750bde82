"""Meta-SGD: MAML that also learns a rate for every weight, so the direction of an inner step and not only its start.

Li et al. 2017, arXiv 1707.09835, Algorithm 1; federated as in FedMeta (arXiv 1802.07876, Algorithm 1 with Meta-SGD).
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import compression, optimizers, random, tree
from metabayfl.algorithms.inner import (
    check_inner,
    descent,
    fine_tune,
    inner_losses,
    query_metrics,
    step_loss,
)
from metabayfl.algorithms.local_training import point_predict, require
from metabayfl.algorithms.meta_side_by_side import meta_gradients
from metabayfl.algorithms.side_by_side import query_message
from metabayfl.meta_gradient import Loss, gradient_client, hvp_of, sweep, through, total_examples
from metabayfl.types import Algorithm, Batch, Key, Message, Metrics, Model, Task, Tree


def meta_sgd(
    model: Model,
    *,
    inner_steps: int = 5,
    inner_lr: float = 0.1,
    meta_lr: float = 3e-3,
    rates_lr: float | None = None,
    meta_gradient: str = "exact",
    hessian_delta: float = 0.1,
    inner_weight_decay: float = 0.0,
    server_optimizer: str = "adam",
    adapt_steps: int | None = None,
) -> Algorithm:
    """Differs from MAML in ``w^{l+1} = w^l - alpha * grad f(w^l)`` with a learned ``alpha`` per weight, which may turn negative.

    The rates have their own gradient, ``dF/dalpha_j = -sum_l g_j grad f(w^l)_j`` (:func:`metabayfl.meta_gradient.sweep`), not the weights'.

    Args:
        model: the network; its dropout is on in the inner steps (a key each) and in the query loss.
        inner_steps: nu, gradient steps on the whole support set; the paper takes 1.
        inner_lr: where every rate starts.
        meta_lr: beta, the server's rate for the weights.
        rates_lr: the server's rate for the rates, by default ``meta_lr``.
        meta_gradient: ``exact``, ``first_order`` or ``hessian_free``.
        hessian_delta: step of the Hessian-free difference, see :func:`metabayfl.meta_gradient.hessian_free`.
        inner_weight_decay: lambda; the inner loss is the NLL plus ``lambda / 2 |w|^2``.
        server_optimizer: ``adam`` (as FedMeta) or ``sgd``.
        adapt_steps: gradient steps when a client personalises; by default ``inner_steps``.

    Returns:
        the algorithm; meta is ``{"model": parameters, "rates": alpha in their structure}``, so a message is twice MAML's; the posterior is
        parameters. With exact gradients it has an ``objective``.

    Raises:
        ConfigError: for a negative count, a rate that is not positive, or an unknown name.
    """
    steps, rates_rate = inner_steps if adapt_steps is None else adapt_steps, meta_lr if rates_lr is None else rates_lr
    check_inner(inner_steps, inner_lr, inner_weight_decay, steps, inner_lr)
    require("meta_lr", meta_lr, above=0)
    require("rates_lr", rates_rate, above=0)
    hvp = hvp_of(meta_gradient, hessian_delta)

    def init(key: Key) -> Tree:
        params = model.init(key)
        return {"model": params, "rates": tree.map(lambda leaf: torch.full_like(leaf, inner_lr), params)}

    def losses(task: Task, key: Key) -> tuple[list[Loss], Loss]:
        inner = inner_losses(model, task.support, inner_steps, key, inner_weight_decay)
        return inner, step_loss(model, task.query, random.fold(key, "query"))

    def objective(meta: Tree, task: Task, key: Key) -> tuple[Tensor, Metrics]:
        loss = through(*losses(task, key), meta["model"], meta["rates"])
        return loss, query_metrics(loss, task.query)

    def swept(meta: Tree, task: Task, key: Key) -> Message:
        found = sweep(*losses(task, key), meta["model"], meta["rates"], hvp)
        return Message({"model": found.model, "rates": found.rates}, total_examples(task), query_metrics(found.loss, task.query))

    def clients(meta: Tree, tasks: Task, keys: Tensor) -> Message:
        found = meta_gradients(model, meta["model"], meta["rates"], tasks, keys, inner_steps, inner_weight_decay)
        return query_message({"model": found.model, "rates": found.rates}, found.loss, tasks)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return fine_tune(model, meta["model"], meta["rates"], support, key, steps, inner_weight_decay)

    exact = meta_gradient == "exact"
    begin, server = optimizers.server(descent(server_optimizer, {"model": meta_lr, "rates": rates_rate}))
    return Algorithm(
        name="meta_sgd",
        model=model,
        init=init,
        begin=begin,
        client=gradient_client(objective) if exact else swept,
        server=server,
        adapt=adapt,
        predict=point_predict(model),
        objective=objective if exact else None,
        down=compression.exact(),
        up=compression.exact(),
        clients=clients if exact else None,
    )
