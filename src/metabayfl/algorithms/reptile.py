"""Reptile: move the start towards where a client's own descent ends; no second derivative and no split.

Nichol et al. 2018, arXiv 1803.02999, Algorithm 2 (batched).
"""

from __future__ import annotations

from functools import reduce

from metabayfl import compression, optimizers, random, tree
from metabayfl.algorithms.inner import check_inner, fine_tune, minibatch, query_metrics, step_keys, step_loss
from metabayfl.algorithms.local_training import point_predict, require
from metabayfl.batches import everything
from metabayfl.meta_gradient import Loss, descend, total_examples
from metabayfl.types import Algorithm, Batch, Key, Message, Model, Task, Tree


def reptile(
    model: Model,
    *,
    inner_steps: int = 5,
    inner_lr: float = 0.1,
    meta_lr: float = 1.0,
    batch_size: int = 10,
    inner_weight_decay: float = 0.0,
    adapt_steps: int | None = None,
    adapt_lr: float | None = None,
) -> Algorithm:
    """Differs from MAML in the update, ``w - w^nu`` of plain steps on all of a client's data, and from FedAvg in counting steps, not epochs.

    With ``g_l`` the gradients of the minibatches at the start and ``H_l`` their Hessians the update is ``alpha sum_l g_l - alpha^2 sum_l
    sum_{k<l} H_l g_k + O(alpha^3)`` (section 5 of the paper): the second term, over different minibatches, is what makes it meta-learning.
    The inner optimiser is plain SGD, as in the paper's analysis (its experiments use Adam without the first moment).

    Args:
        model: the network; its dropout is on in the inner steps, a key each.
        inner_steps: nu, at least 1.
        inner_lr: alpha, their rate.
        meta_lr: epsilon, the server's rate: 1 is averaging.
        batch_size: examples an inner step; the steps go through one shuffle of the data and round again. 0: all at each step.
        inner_weight_decay: lambda; the inner loss is the NLL plus ``lambda / 2 |w|^2``.
        adapt_steps: gradient steps on the whole support set when a client personalises; by default ``inner_steps``.
        adapt_lr: their rate, by default ``inner_lr``.

    Returns:
        the algorithm; meta and posterior are parameters of the model. ``metrics["loss"]`` is the loss of the meta before the steps.

    Raises:
        ConfigError: for a count that is too small or a rate that is not positive.
    """
    steps, rate = inner_steps if adapt_steps is None else adapt_steps, inner_lr if adapt_lr is None else adapt_lr
    check_inner(inner_steps, inner_lr, inner_weight_decay, steps, rate)
    require("inner_steps", inner_steps, least=1)
    require("batch_size", batch_size, least=0)
    require("meta_lr", meta_lr, above=0)

    def losses(data: Batch, key: Key) -> list[Loss]:
        order = random.fold(key, "order")
        if batch_size:
            parts = [minibatch(data, batch_size, order, step) for step in range(inner_steps)]
        else:  # all of them, but real ones first, so that dropout does not see the padding between support and query
            parts = [minibatch(data, len(data.mask), order)] * inner_steps
        return [step_loss(model, part, drop, inner_weight_decay) for part, drop in zip(parts, step_keys(key, inner_steps), strict=True)]

    def client(meta: Tree, task: Task, key: Key) -> Message:
        data = everything(task)
        path = descend(losses(data, key), meta, inner_lr)
        update = tree.scale(reduce(tree.add, path.slopes), inner_lr)  # meta - w^nu, without the cancellation
        return Message(update, total_examples(task), query_metrics(step_loss(model, data, None)(meta), data))

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return fine_tune(model, meta, rate, support, key, steps, inner_weight_decay)

    begin, server = optimizers.server(optimizers.sgd(meta_lr))
    return Algorithm(
        name="reptile",
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
