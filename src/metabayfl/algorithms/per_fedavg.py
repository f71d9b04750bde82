"""Per-FedAvg: local meta-steps on each client between two averages, for any number of inner steps.

Fallah et al. 2020, arXiv 2002.07948, Algorithm 1 (one inner step); any ``nu``: arXiv 2504.21327.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import compression, optimizers, random, tree
from metabayfl.algorithms.inner import (
    check_inner,
    fine_tune,
    minibatch,
    query_metrics,
    step_keys,
    step_loss,
)
from metabayfl.algorithms.local_training import point_predict, require
from metabayfl.meta_gradient import Loss, hvp_of, sweep, through, total_examples
from metabayfl.types import Algorithm, Batch, Key, Message, Metrics, Model, Task, Tree


def per_fedavg(
    model: Model,
    *,
    inner_steps: int = 1,
    inner_lr: float = 0.1,
    meta_lr: float = 0.1,
    local_meta_steps: int = 5,
    batch_size: int = 0,
    server_lr: float = 1.0,
    meta_gradient: str = "exact",
    hessian_delta: float = 0.1,
    inner_weight_decay: float = 0.0,
    adapt_steps: int | None = None,
    adapt_lr: float | None = None,
) -> Algorithm:
    """Differs from MAML in who steps: each client takes tau local meta-steps ``w <- w - beta grad F(w)`` and the server averages them.

    Every local meta-step draws its minibatches anew: one of the support for each inner step, whose Hessian is taken on the same one, and
    one of the query. The update is ``beta sum_t grad F(w_t)``, summed up as such: that is server minus client without cancellation.

    Args:
        model: the network; its dropout is on in the inner steps (a key each) and in the query loss.
        inner_steps: nu; 1 is the paper's, 0 is FedAvg on the query set.
        inner_lr: alpha, the rate of the inner steps.
        meta_lr: beta, the rate of the local meta-steps.
        local_meta_steps: tau, local meta-steps between two rounds; 1 is one MAML gradient times beta.
        batch_size: examples a minibatch, 0 for all.
        server_lr: rate of the server's plain descent; 1 is averaging.
        meta_gradient: ``exact``, ``first_order`` (Per-FedAvg (FO)) or ``hessian_free`` (Per-FedAvg (HF)).
        hessian_delta: step of the Hessian-free difference, see :func:`metabayfl.meta_gradient.hessian_free`.
        inner_weight_decay: lambda; the inner loss is the NLL plus ``lambda / 2 |w|^2``.
        adapt_steps: gradient steps on the whole support set when a client personalises; by default ``inner_steps``.
        adapt_lr: their rate, by default ``inner_lr``.

    Returns:
        the algorithm; meta and posterior are parameters of the model. Metrics are means over the local meta-steps.

    Raises:
        ConfigError: for a count that is too small, a rate that is not positive, or an unknown name.
    """
    steps, rate = inner_steps if adapt_steps is None else adapt_steps, inner_lr if adapt_lr is None else adapt_lr
    check_inner(inner_steps, inner_lr, inner_weight_decay, steps, rate)
    require("local_meta_steps", local_meta_steps, least=1)
    require("batch_size", batch_size, least=0)
    require("meta_lr", meta_lr, above=0)
    require("server_lr", server_lr, above=0)
    hvp = hvp_of(meta_gradient, hessian_delta)

    def losses(support: Batch, query: Batch, key: Key) -> tuple[list[Loss], Loss]:
        drops = step_keys(key, inner_steps)
        parts = [minibatch(support, batch_size, random.fold(drop, "support")) for drop in drops]
        inner = [step_loss(model, part, drop, inner_weight_decay) for part, drop in zip(parts, drops, strict=True)]
        return inner, step_loss(model, query, random.fold(key, "dropout"))

    def meta_step(params: Tree, inner: list[Loss], outer: Loss) -> tuple[Tree, Tensor]:
        if meta_gradient != "exact":
            found = sweep(inner, outer, params, inner_lr, hvp)
            return found.model, found.loss
        gradient, loss = torch.func.grad_and_value(lambda start: through(inner, outer, start, inner_lr))(params)
        return gradient, loss

    def client(meta: Tree, task: Task, key: Key) -> Message:
        update = tree.zeros_like(meta)
        metrics: list[Metrics] = []
        for step in range(local_meta_steps):
            now = random.fold(key, "meta", step)
            query = minibatch(task.query, batch_size, random.fold(now, "query"))
            gradient, loss = meta_step(tree.subtract(meta, update), *losses(task.support, query, now))
            update = tree.step(update, gradient, -meta_lr)
            metrics.append(query_metrics(loss, query))
        return Message(update, total_examples(task), {name: torch.stack([each[name] for each in metrics]).mean() for name in metrics[0]})

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return fine_tune(model, meta, rate, support, key, steps, inner_weight_decay)

    begin, server = optimizers.server(optimizers.sgd(server_lr))
    return Algorithm(
        name="per_fedavg",
        model=model,
        init=model.init,
        begin=begin,
        client=client,
        server=server,
        adapt=adapt,
        predict=point_predict(model),
        objective=None,
        down=compression.exact(),
        up=compression.exact(),
    )
