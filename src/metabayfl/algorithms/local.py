"""Local training: every client for itself, the floor that a federation has to rise above."""

from __future__ import annotations

from metabayfl import compression, tree
from metabayfl.algorithms.local_training import model_loss, point_predict, train, tuning
from metabayfl.batches import everything
from metabayfl.optimizers import server, sgd
from metabayfl.types import Algorithm, Batch, Key, Message, Model, Task, Tree


def local(model: Model, *, adapt_steps: int = 100, adapt_lr: float = 0.05, weight_decay: float = 0.0) -> Algorithm:
    """Nothing is communicated and no round is run: ``adapt`` trains the net from its start on the client's support set.

    The strategy is the start of the parameters, the same for all clients. ``client`` reports how well the local training goes and a zero update.

    Args:
        model: the network, classification or regression.
        adapt_steps: full-batch gradient steps, with the model's dropout.
        adapt_lr: rate of a step.
        weight_decay: L2 penalty: ``weight_decay / 2 |w|^2`` is added to the loss.

    Raises:
        ConfigError: if a number is outside its range.
    """
    how = tuning(adapt_steps, adapt_lr, weight_decay)
    loss, (begin, update) = model_loss(model), server(sgd())

    def client(meta: Tree, task: Task, key: Key) -> Message:
        metrics = train(loss, meta, everything(task), key, how)[1]
        return Message(tree.zeros_like(meta), metrics["examples"], metrics)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return train(loss, meta, support, key, how)[0]

    exact = compression.exact()
    return Algorithm("local", model, model.init, begin, client, update, adapt, point_predict(model), None, exact, exact, federated=False)
