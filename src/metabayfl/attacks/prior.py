"""Poisoning of the prior's precision: hostile clients push only the numbers that say how much the prior weighs.

A strategy whose prior is infinitely strong predicts the same for every client, whatever its samples; with an infinitely weak one a client with few
samples is lost. Those are a handful of numbers among thousands, so a message that is honest in all others looks like its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.attacks.attack import Attack, Plan, among, replaced
from metabayfl.errors import ConfigError
from metabayfl.types import Key, Message

PRECISIONS = {"k": 1.0, "k_M": 1.0, "k_C": 1.0, "log_lambda": 1.0, "log_sd": -1.0, "rho": -1.0}
"""Names in a strategy of what raises the prior's precision (1) or lowers it (-1): those of the conjugate heads and of mean-field priors."""


def _direction(path: str) -> float:
    return next((PRECISIONS[part] for part in path.split(tree.SEPARATOR) if part in PRECISIONS), 0.0)


def _push(name: str, plan: Plan, sign: float) -> Attack:
    def messages(messages: Message, which: Tensor, key: Key) -> Message:
        found = {path: leaf for path, leaf in tree.flatten(messages.update).items() if _direction(path)}
        if not found:
            raise ConfigError(f"attack {name!r} needs a prior with a precision, and the strategy has none of {', '.join(PRECISIONS)}")
        honest = ~which & (messages.weight > 0)
        largest = torch.stack([(leaf.abs() * among(honest, leaf)).amax() for leaf in found.values()]).amax()
        size = (plan.strength or 10.0) * largest
        paths = tree.paths(messages.update)

        def pushed(leaf: Tensor) -> Tensor:  # the server descends
            direction = _direction(next(paths))
            return torch.full_like(leaf, -sign * direction * float(size)) if direction else leaf

        return replaced(messages, which, tree.map(pushed, messages.update))

    return Attack(name, messages=messages)


def prior_strong(plan: Plan) -> Attack:
    """The precision is pushed to infinity: each precision's update is ``strength`` times the largest of an honest client; strength 10."""
    return _push("prior_strong", plan, 1.0)


def prior_weak(plan: Plan) -> Attack:
    """The same towards 0."""
    return _push("prior_weak", plan, -1.0)
