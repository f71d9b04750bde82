"""MAML, federated as FedMeta: the start from which a few gradient steps on a client's support set do well on its query set.

FedMeta (Chen et al. 2018, arXiv 1802.07876, Algorithm 1 with MAML) is MAML (Finn et al. 2017, arXiv 1703.03400) whose tasks are the clients.
"""

from __future__ import annotations

from torch import Tensor

from metabayfl import compression, optimizers, random
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


def maml(
    model: Model,
    *,
    inner_steps: int = 5,
    inner_lr: float = 0.1,
    meta_lr: float = 3e-3,
    meta_gradient: str = "exact",
    hessian_delta: float = 0.1,
    inner_weight_decay: float = 0.0,
    server_optimizer: str = "adam",
    adapt_steps: int | None = None,
    adapt_lr: float | None = None,
) -> Algorithm:
    """Differs from FedAvg in the objective: the loss *after* ``inner_steps`` steps, ``F(w) = f(w^nu; query)``, and one server step a round.

    Args:
        model: the network; its dropout is on in the inner steps (a key each) and in the query loss.
        inner_steps: nu, gradient steps on the whole support set; 0 is FedSGD on the query set.
        inner_lr: alpha, their rate.
        meta_lr: beta, the server's rate.
        meta_gradient: ``exact``, ``first_order`` (FOMAML) or ``hessian_free``.
        hessian_delta: step of the Hessian-free difference, see :func:`metabayfl.meta_gradient.hessian_free`.
        inner_weight_decay: lambda; the inner loss is the NLL plus ``lambda / 2 |w|^2``.
        server_optimizer: ``adam`` (as FedMeta) or ``sgd``.
        adapt_steps: gradient steps when a client personalises; by default ``inner_steps``, more is fine.
        adapt_lr: their rate, by default ``inner_lr``.

    Returns:
        the algorithm; meta and posterior are parameters of the model. With exact gradients it has an ``objective``.

    Raises:
        ConfigError: for a negative count, a rate that is not positive, or an unknown name.
    """
    steps, rate = inner_steps if adapt_steps is None else adapt_steps, inner_lr if adapt_lr is None else adapt_lr
    check_inner(inner_steps, inner_lr, inner_weight_decay, steps, rate)
    require("meta_lr", meta_lr, above=0)
    hvp = hvp_of(meta_gradient, hessian_delta)

    def losses(task: Task, key: Key) -> tuple[list[Loss], Loss]:
        inner = inner_losses(model, task.support, inner_steps, key, inner_weight_decay)
        return inner, step_loss(model, task.query, random.fold(key, "query"))

    def objective(meta: Tree, task: Task, key: Key) -> tuple[Tensor, Metrics]:
        loss = through(*losses(task, key), meta, inner_lr)
        return loss, query_metrics(loss, task.query)

    def swept(meta: Tree, task: Task, key: Key) -> Message:
        found = sweep(*losses(task, key), meta, inner_lr, hvp)
        return Message(found.model, total_examples(task), query_metrics(found.loss, task.query))

    def clients(meta: Tree, tasks: Task, keys: Tensor) -> Message:
        found = meta_gradients(model, meta, inner_lr, tasks, keys, inner_steps, inner_weight_decay)
        return query_message(found.model, found.loss, tasks)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return fine_tune(model, meta, rate, support, key, steps, inner_weight_decay)

    exact = meta_gradient == "exact"
    begin, server = optimizers.server(descent(server_optimizer, meta_lr))
    return Algorithm(
        name="maml",
        model=model,
        init=model.init,
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
