"""Attacks on the update: what hostile clients send in place of what they computed."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.attacks.attack import Attack, Plan, among, boosted, honest_mean, honest_spread, replaced
from metabayfl.types import Key, Message


def sign_flip(plan: Plan) -> Attack:
    """Each sends ``-strength`` times its own update; strength 1."""
    return Attack("sign_flip", messages=lambda messages, which, key: boosted(messages, which, -(plan.strength or 1.0)))


def gaussian(plan: Plan) -> Attack:
    """Each sends normal noise, in every leaf ``strength`` times as large as honest clients' numbers are in the root mean square; strength 10."""

    def messages(messages: Message, which: Tensor, key: Key) -> Message:
        paths, honest = tree.paths(messages.update), ~which & (messages.weight > 0)

        def noise(leaf: Tensor) -> Tensor:
            squares = torch.where(among(honest, leaf), leaf**2, torch.zeros_like(leaf)).sum()
            scale = (squares / max(leaf[0].numel() * int(honest.sum()), 1)).sqrt()
            return (plan.strength or 10.0) * scale * random.normal(random.fold(key, next(paths)), tuple(leaf.shape), leaf.dtype)

        return replaced(messages, which, tree.map(noise, messages.update))

    return Attack("gaussian", messages=messages)


def inner_product(plan: Plan) -> Attack:
    """All send ``-strength`` times the honest mean (Xie, Koyejo, Gupta 2020, section 4); strength 0.5.

    A small strength hides near zero, where rules by distance pick it; to turn a plain mean round takes more than the honest clients' number over
    the hostile ones'.
    """

    def messages(messages: Message, which: Tensor, key: Key) -> Message:
        return replaced(messages, which, tree.scale(honest_mean(messages, which), -(plan.strength or 0.5)))

    return Attack("inner_product", messages=messages)


def z_max(count: int, hostile: int) -> float:
    """How many standard deviations "a little" is: as many as keep a majority's support (Baruch, Baruch, Goldberg 2019, section 3.3).

    ``s = floor(n / 2 + 1) - m`` honest clients must lie further out, so ``z`` is the normal quantile of ``(n - m - s) / (n - m)``; never below 0.

    Example:
        >>> round(z_max(50, 12), 3), z_max(10, 2)
        (0.336, 0.0)
    """
    supporters = count // 2 + 1 - hostile
    share = (count - hostile - supporters) / max(count - hostile, 1)
    return max(NormalDist().inv_cdf(min(max(share, 1e-6), 1 - 1e-6)), 0.0)


def a_little(plan: Plan) -> Attack:
    """All send the honest mean less ``strength`` honest standard deviations of every number ("a little is enough"); by default :func:`z_max`."""

    def messages(messages: Message, which: Tensor, key: Key) -> Message:
        deviations = plan.strength or z_max(len(which), int(which.sum()))
        shift = tree.scale(honest_spread(messages, which), deviations)
        return replaced(messages, which, tree.subtract(honest_mean(messages, which), shift))

    return Attack("a_little", messages=messages)


def not_a_number(plan: Plan) -> Attack:
    """Each puts NaN into its first number and infinity into its last."""

    def bomb(leaf: Tensor) -> Tensor:
        spoilt = leaf.reshape(len(leaf), -1).clone()
        spoilt[:, 0], spoilt[:, -1] = float("inf"), float("nan")  # a leaf of one number holds NaN
        return spoilt.view(leaf.shape)

    def messages(messages: Message, which: Tensor, key: Key) -> Message:
        return replaced(messages, which, tree.map(bomb, messages.update))

    return Attack("not_a_number", messages=messages)


def size(plan: Plan) -> Attack:
    """Each sends its own update turned round and says that it has ``strength`` times its examples; strength 1,000."""

    def messages(messages: Message, which: Tensor, key: Key) -> Message:
        factor = torch.where(which, plan.strength or 1000.0, 1.0).to(messages.weight.dtype)
        metrics = {name: value * factor for name, value in messages.metrics.items()}
        return boosted(messages, which, -1.0)._replace(weight=messages.weight * factor, metrics=metrics)

    return Attack("size", messages=messages)
