"""Attacks through the data: hostile clients compute honestly on samples that they changed, and may then send more than they computed."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl.attacks.attack import Attack, Plan, among, boosted
from metabayfl.errors import ConfigError
from metabayfl.types import Batch, Key, Message, Task

CORNER = 3
"""Side of a backdoor's trigger, in pixels or features."""


def _flipped(batch: Batch, which: Tensor, plan: Plan) -> Batch:
    other = plan.outputs - 1 - batch.y if plan.kind == "classification" else -batch.y
    return batch._replace(y=torch.where(among(which, batch.y), other, batch.y))


def _label_flip(name: str, plan: Plan) -> Attack:
    def data(tasks: Task, which: Tensor, key: Key) -> Task:
        return Task(*(_flipped(batch, which, plan) for batch in tasks))

    return Attack(name, data=data)


def label_flip(plan: Plan) -> Attack:
    """Class ``c`` becomes ``K - 1 - c``; a real target changes its sign."""
    return _label_flip("label_flip", plan)


def scaling(plan: Plan) -> Attack:
    """Model replacement: :func:`label_flip`, and the update times ``strength``, so that it outweighs the others; strength 10.

    To replace the model by its own, a client of a cohort of ``C`` scales by ``C`` (Bagdasaryan et al. 2020, equation 3).
    """

    def messages(messages: Message, which: Tensor, key: Key) -> Message:
        return boosted(messages, which, plan.strength or 10.0)

    return _label_flip("scaling", plan)._replace(messages=messages)


def stamp(x: Tensor, leading: int) -> Tensor:
    """Inputs with a backdoor's trigger: the last corner of an image, or the last features, as large as the sample's largest value.

    Args:
        x: inputs with ``leading`` axes before those of one example.
        leading: 1 for ``(N, ...)``, 2 for ``(C, N, ...)``.
    """
    out, largest = x.clone(), x.amax(tuple(range(leading, x.ndim)), keepdim=True)
    corner = out[..., -CORNER:, -CORNER:] if x.ndim - leading > 1 else out[..., -CORNER:]
    corner.copy_(largest.expand_as(corner))
    return out


def backdoor(plan: Plan) -> Attack:
    """Every second sample gets a trigger and the target's label, and the update is ``strength`` times as large; strength 5.

    Raises:
        ConfigError: in regression, or for a target that is no class.
    """
    if plan.kind != "classification" or plan.target >= plan.outputs:
        raise ConfigError(f"a backdoor wants a class from 0 to {plan.outputs - 1}, but target is {plan.target} in {plan.kind}: choose another")

    def stamped(batch: Batch, which: Tensor) -> Batch:
        second = torch.arange(batch.y.shape[1], device=batch.y.device) % 2 == 0
        chosen = which.unsqueeze(1) & second
        x = torch.where(chosen.view(*chosen.shape, *[1] * (batch.x.ndim - 2)), stamp(batch.x, 2), batch.x)
        return batch._replace(x=x, y=torch.where(chosen, plan.target, batch.y))

    def data(tasks: Task, which: Tensor, key: Key) -> Task:
        return Task(*(stamped(batch, which) for batch in tasks))

    def messages(messages: Message, which: Tensor, key: Key) -> Message:
        return boosted(messages, which, plan.strength or 5.0)

    return Attack("backdoor", data=data, messages=messages)
