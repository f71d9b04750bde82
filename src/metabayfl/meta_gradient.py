"""Meta-gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch

from metabayfl.batches import everything, examples
from metabayfl.types import Key, Message, Metrics, Task, Tree

Objective = Callable[[Tree, Task, Key], tuple[torch.Tensor, Metrics]]


def gradient_client(objective: Objective) -> Callable[[Tree, Task, Key], Message]:
    """The client function of a method whose update is the gradient of ``objective``; weight = all real examples of the task."""

    def client(meta: Tree, task: Task, key: Key) -> Message:
        update, metrics = torch.func.grad(objective, has_aux=True)(meta, task, key)
        return Message(update, examples(everything(task)), metrics)

    return client
