"""What the engine is measured against: lean hand-written PyTorch, one client after the other.

Functional parameters, ``torch.autograd.grad``, data that are tensors already; no module is copied and nothing is padded. Each loop does what the
algorithm of the same name does with the same hyper-parameters. Orders and noise are arguments, so that a check can give both sides the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, linear, max_pool2d

Net = Callable[[list[Tensor], Tensor], Tensor]
"""Parameters, inputs ``(N, ...)`` -> logits ``(N, K)``."""

Order = Callable[[int, int], Tensor]
"""Client, its examples -> the order in which it takes them, ``(N,)``."""

Halves = Callable[[int, int], tuple[Tensor, Tensor]]
"""Client, its examples -> the rows of its support and of its query."""

Noise = Callable[[int, int, tuple[int, ...]], Tensor]
"""Client, step (-1: the query loss), shape -> standard normal numbers in antithetic pairs."""


class Rates(NamedTuple):
    """The hyper-parameters of a case."""

    rate: float  # of an inner step
    steps: int = 5  # nu
    batch: int = 10
    pull: float = 0.02  # kl_weight
    draws: int = 2


def mlp_net(params: list[Tensor], x: Tensor) -> Tensor:
    """``M`` inputs - hidden - ``K``."""
    w0, b0, w1, b1 = params
    return linear(torch.relu(linear(x, w0, b0)), w1, b1)


def cnn_net(params: list[Tensor], x: Tensor) -> Tensor:
    """Two convolutions with pooling, two dense layers: LEAF's net for characters, and the default CNN."""
    w0, b0, w1, b1, w2, b2, w3, b3 = params
    out = max_pool2d(torch.relu(conv2d(x, w0, b0, padding=w0.shape[-1] // 2)), 2)
    out = max_pool2d(torch.relu(conv2d(out, w1, b1, padding=w1.shape[-1] // 2)), 2)
    return linear(torch.relu(linear(out.flatten(1), w2, b2)), w3, b3)


def fedavg(net: Net, start: list[Tensor], data: list[tuple[Tensor, Tensor]], order: Order, how: Rates) -> list[Tensor]:
    """The cohort's weighted mean change after one epoch of minibatch SGD."""
    total, count = [torch.zeros_like(leaf) for leaf in start], 0
    for client, (x, y) in enumerate(data):
        params = start
        for rows in order(client, len(y)).split(how.batch):
            leaves = [leaf.detach().requires_grad_() for leaf in params]
            slopes = torch.autograd.grad(cross_entropy(net(leaves, x[rows]), y[rows]), leaves)
            params = [torch.sub(leaf.detach(), slope, alpha=how.rate) for leaf, slope in zip(leaves, slopes, strict=True)]
        total = [torch.add(sum_, leaf - new, alpha=len(y)) for sum_, leaf, new in zip(total, start, params, strict=True)]
        count += len(y)
    return [leaf / count for leaf in total]


def maml(net: Net, start: list[Tensor], data: list[tuple[Tensor, Tensor]], halves: Halves, how: Rates) -> list[Tensor]:
    """The cohort's weighted mean of exact meta-gradients through ``steps`` full-batch steps on the support."""
    total, count = [torch.zeros_like(leaf) for leaf in start], 0
    for client, (x, y) in enumerate(data):
        near, far = halves(client, len(y))
        leaves = [leaf.detach().requires_grad_() for leaf in start]
        params, near_x, near_y = leaves, x[near], y[near]
        for _ in range(how.steps):
            slopes = torch.autograd.grad(cross_entropy(net(params, near_x), near_y), params, create_graph=True)
            params = [torch.sub(leaf, slope, alpha=how.rate) for leaf, slope in zip(params, slopes, strict=True)]
        meta = torch.autograd.grad(cross_entropy(net(params, x[far]), y[far]), leaves)
        total = [torch.add(sum_, slope, alpha=len(y)) for sum_, slope in zip(total, meta, strict=True)]
        count += len(y)
    return [leaf / count for leaf in total]


def mean_field(net: Net, start: list[Tensor], data: list[tuple[Tensor, Tensor]], halves: Halves, noise: Noise, how: Rates) -> list[Tensor]:
    """The same through variational steps; ``start`` holds the prior's means (a vector), then its log standard deviations, then templates."""
    (mean, log_sd), like = start[:2], start[2:]
    total, count = [torch.zeros_like(mean), torch.zeros_like(log_sd)], 0
    for client, (x, y) in enumerate(data):
        near, far = halves(client, len(y))
        prior = [mean.detach().requires_grad_(), log_sd.detach().requires_grad_()]
        m, s = _posterior(net, prior, like, x[near], y[near], lambda step, client=client: noise(client, step, (how.draws, len(mean))), how)
        loss = _expected(net, m, s, like, x[far], y[far], noise(client, -1, (how.draws, len(mean))))
        meta = torch.autograd.grad(loss, prior)
        total = [torch.add(sum_, slope, alpha=len(y)) for sum_, slope in zip(total, meta, strict=True)]
        count += len(y)
    return [leaf / count for leaf in total]


def _posterior(
    net: Net, prior: list[Tensor], like: list[Tensor], x: Tensor, y: Tensor, noise: Callable[[int], Tensor], how: Rates
) -> tuple[Tensor, Tensor]:
    m, s = prior[0], torch.exp(prior[1])
    m0, variance = m, s * s
    c = how.rate * how.pull / (len(y) * variance)
    keep = 1.0 / (1.0 + c)
    for step in range(how.steps):
        g_m, g_s = torch.autograd.grad(_expected(net, m, s, like, x, y, noise(step)), (m, s), create_graph=True)
        m = m0 + keep * (m - m0 - how.rate * g_m)
        b = keep * (s - how.rate * g_s)
        s = 0.5 * (b + torch.sqrt(b * b + 4.0 * variance * c * keep))
    return m, s


def _expected(net: Net, m: Tensor, s: Tensor, like: list[Tensor], x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    losses = []
    for draw in noise:
        pieces = torch.split(m + s * draw, [leaf.numel() for leaf in like])
        losses.append(cross_entropy(net([piece.view_as(leaf) for piece, leaf in zip(pieces, like, strict=True)], x), y))
    return torch.stack(losses).mean()
