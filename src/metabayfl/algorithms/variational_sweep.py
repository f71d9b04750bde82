"""The meta-gradient through the variational steps of clients side by side, as one backward sweep written out by hand.

:func:`metabayfl.algorithms.variational.variational` says what a client does, and automatic differentiation through it is the reference. Each of its
operations runs over vectors as long as the weights, which memory bounds; by hand, a step and its way back take fewer of them. With ``u = m - m0``,
``r = s / s0`` and ``k``, ``c = 1 - k``, ``h = k / s0`` of the proximal map (:class:`metabayfl.posterior.Prox`), a step with ``S`` draws ``+-e`` is::

    w = m0 + u +- s0 r e,    g = a/S grad f(w),    u' = k (u - sum g),    r'^2 - (k r - h sum +-g e) r' - c = 0

and derivatives of the query loss, with a bar, come back through it as::

    c_bar = r'_bar / (r' + c/r'),    b_bar = r' c_bar,    g_bar = -k u'_bar -+ h b_bar e,    w_bar = a/S H(w) g_bar,
    u_bar = k u'_bar + sum w_bar,    r_bar = k b_bar + s0 sum +-w_bar e

``H g_bar`` is a backward pass through the gradient (Pearlmutter 1994).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from metabayfl import posterior, random, tree
from metabayfl.algorithms.side_by_side import gradient, losses, shares
from metabayfl.algorithms.variational import Steps
from metabayfl.posterior import Prox
from metabayfl.types import Batch, Model, Task, Tree


class _Part(NamedTuple):
    """Some data of every client, once for each draw."""

    batch: Batch  # (C S, N, ...)
    weights: Tensor  # (C S, N) each example's weight in what is differentiated
    draws: int  # S


class _Slopes(NamedTuple):
    """A loss under draws of every client's weights, and its gradient by them."""

    noise: Tensor  # (C, S / 2, P) the first half of the antithetic draws
    leaves: list[Tensor]  # the draws (C, S, P), then the parameters that no client is uncertain about (C S, ...)
    by: list[Tensor]  # the gradients by the leaves
    values: Tensor  # (C S, N) each example's loss, nats


class _Step(NamedTuple):
    """What a variational step leaves behind for its way back; ``(C, P)`` each."""

    slopes: _Slopes
    ratio: Tensor  # r
    lag: Tensor  # u - sum g
    descent: Tensor  # sum +-g e
    reached: Tensor  # r'


def sweep(model: Model, prior: Tree, tasks: Task, keys: Tensor, steps: Steps, query_samples: int, meta_kl: float) -> tuple[Tree, Tensor]:
    """Every client's meta-gradient for tasks ``(C, N, ...)`` and keys ``(C,)``, with the draws that a client alone has.

    Args:
        model: the network.
        prior: the strategy.
        tasks: supports to adapt to, queries to predict.
        keys: the clients' keys of this round.
        steps: the variational steps.
        query_samples: draws of the adapted posterior in the query loss.
        meta_kl: weight of ``KL(q || p) / n_query`` in what is differentiated.

    Returns:
        the gradients, leaves ``(C, ...)``, and the mean NLL of the queries ``(C,)``, nats, without the KL.
    """
    log_sd = posterior.vectors(prior)[1]
    near = _part(tasks.support, steps.draws, steps.rate, log_sd.dtype)
    far = _part(tasks.query, query_samples, 1.0, log_sd.dtype)
    pull = steps.kl_weight * steps.rate / torch.clamp(tasks.support.mask.sum(-1, keepdim=True).to(log_sd.dtype), min=1e-30)
    prox = posterior.prox(log_sd, pull)
    shift, ratio, path = torch.zeros_like(prox.keep), torch.ones_like(prox.keep), list[_Step]()
    for number in range(steps.number):
        slopes = _slopes(model, prior, shift, ratio, near, random.fold(keys, "support", "step", number), not steps.first_order)
        total, descent = _over_draws(slopes.by[0].detach(), slopes.noise)
        path.append(_Step(slopes, ratio, shift - total, descent, posterior.step_sd(prox, ratio, descent)))
        shift, ratio = prox.keep * path[-1].lag, path[-1].reached
    query = _slopes(model, prior, shift, ratio, far, random.fold(keys, "query"), False)
    examples = torch.clamp(tasks.query.mask.sum(-1, keepdim=True), min=1.0)
    kl = _kl_slopes(log_sd, shift, ratio, meta_kl / examples) if meta_kl else None
    loss = torch.linalg.vecdot(query.values.detach(), far.weights).view(len(keys), -1).sum(-1)
    return _back(prior, path, prox, query, kl, (shift, ratio)), loss


def _part(batch: Batch, draws: int, factor: float, dtype: torch.dtype) -> _Part:
    repeated = Batch(*(part.repeat_interleave(draws, 0) for part in batch))
    return _Part(repeated, shares(repeated.mask, dtype) * (factor / draws), draws)


def _slopes(model: Model, prior: Tree, shift: Tensor, ratio: Tensor, part: _Part, keys: Tensor, graph: bool) -> _Slopes:
    """The part's loss and its gradient at draws from the clients' posteriors; with ``graph``, it can be differentiated again."""
    mean0, log_sd0 = posterior.vectors(prior)
    shape = ((part.draws + 1) // 2, len(mean0))
    noise = vmap(lambda seed: random.normal(seed, shape, mean0.dtype))(random.fold(keys, "weights"))
    drawn = _pairs(mean0 + shift, torch.exp(log_sd0) * ratio, noise, part.draws, 1.0).requires_grad_()
    rows = len(keys) * part.draws
    fixed = [leaf.expand(rows, *leaf.shape).clone().requires_grad_() for leaf in _certain(prior)]
    drops = vmap(lambda seed: random.keys(seed, part.draws))(random.fold(keys, "dropout")).flatten()
    with torch.enable_grad():
        values = losses(model, _assembled(prior, drawn.flatten(0, 1), fixed), part.batch, drops)
        return _Slopes(noise, [drawn, *fixed], gradient(values, part.weights, [drawn, *fixed], create_graph=graph), values)


def _certain(prior: Tree) -> list[Tensor]:
    """The parameters that no client is uncertain about."""
    uncertain = tree.flatten(prior["log_sd"])
    return [leaf for path, leaf in tree.flatten(prior["mean"]).items() if path not in uncertain]


def _assembled(prior: Tree, uncertain: Tensor, certain: list[Tensor]) -> Tree:
    """Parameters from vectors of the uncertain ones ``(..., P)`` and the others."""
    parts, rest = tree.flatten(posterior.split(uncertain, prior["log_sd"])), iter(certain)
    return tree.unflatten({path: parts[path] if path in parts else next(rest) for path in tree.paths(prior["mean"])})


def _pairs(mean: Tensor, along: Tensor, noise: Tensor, draws: int, sign: float) -> Tensor:
    """``mean + sign along e`` for the first half of the draws, ``mean - sign along e`` for the second: ``(C, S, P)``."""
    out, half, mean, along = mean.new_empty(len(mean), draws, mean.shape[-1]), noise.shape[1], mean.unsqueeze(1), along.unsqueeze(1)
    torch.addcmul(mean, along, noise, value=sign, out=out[:, :half])
    torch.addcmul(mean, along, noise[:, : draws - half], value=-sign, out=out[:, half:])
    return out


def _over_draws(slope: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """``sum g`` and ``sum +-g e`` over the draws of ``slope (C, S, P)``, ``(C, P)`` each."""
    ahead, behind = slope.split([noise.shape[1], slope.shape[1] - noise.shape[1]], 1)
    pairs = behind.shape[1]
    along = _sum((ahead[:, :pairs] - behind).mul_(noise[:, :pairs]))
    return _sum(slope), along if pairs == noise.shape[1] else along.addcmul_(ahead[:, -1], noise[:, -1])


def _sum(draws: Tensor) -> Tensor:
    return draws.squeeze(1) if draws.shape[1] == 1 else draws.sum(1)


def _kl_slopes(log_sd: Tensor, shift: Tensor, ratio: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of ``weight KL(q || p) = weight (r^2 / 2 - log r + u^2 / (2 s0^2))`` by ``u``, ``r`` and ``log s0``."""
    precise = weight * shift * torch.exp(-2.0 * log_sd)
    return precise, weight * (ratio - 1.0 / ratio), -precise * shift


def _back(
    prior: Tree, path: list[_Step], prox: Prox, query: _Slopes, kl: tuple[Tensor, Tensor, Tensor] | None, end: tuple[Tensor, Tensor]
) -> Tree:
    """The bars of the module's docstring from the last step to the first, and their sums over steps as derivatives by the prior."""
    sd = torch.exp(posterior.vectors(prior)[1])
    mean_bar, along = _over_draws(query.by[0], query.noise)
    shift_bar, ratio_bar, sd_bar = mean_bar.clone(), sd * along, along.mul_(end[1])
    fixed_bars = [slope.unflatten(0, (len(mean_bar), -1)).sum(1) for slope in query.by[1:]]
    keep_bar, gain_bar = torch.zeros_like(shift_bar), torch.zeros_like(shift_bar)
    if kl is not None:
        shift_bar, ratio_bar = shift_bar + kl[0], ratio_bar + kl[1]
    for step in reversed(path):
        lift_bar = ratio_bar.div_(step.reached + prox.lift / step.reached)
        b_bar = lift_bar * step.reached
        # the lift is 1 - k, so that its share belongs to k
        keep_bar.addcmul_(shift_bar, step.lag).addcmul_(b_bar, step.ratio).sub_(lift_bar)
        gain_bar.addcmul_(b_bar, step.descent, value=-1.0)
        shift_bar, ratio_bar = shift_bar.mul_(prox.keep), prox.keep * b_bar
        if not step.slopes.by[0].requires_grad:
            continue  # first order: gradients are constants
        bars = _pairs(-shift_bar, b_bar.mul_(prox.gain), step.slopes.noise, step.slopes.leaves[0].shape[1], -1.0)
        found = gradient(step.slopes.by[0], bars, step.slopes.leaves)
        total, along = _over_draws(found[0], step.slopes.noise)
        mean_bar.add_(total)
        shift_bar.add_(total)
        ratio_bar.addcmul_(sd, along)
        sd_bar.addcmul_(along, step.ratio)
        for bar, slope in zip(fixed_bars, found[1:], strict=True):
            bar.add_(slope.unflatten(0, (len(mean_bar), -1)).sum(1))
    by_log_sd = sd_bar.mul_(sd).addcmul_(2.0 * prox.keep * prox.lift, keep_bar).addcmul_(prox.gain * (2.0 * prox.lift - 1.0), gain_bar)
    if kl is not None:
        by_log_sd.add_(kl[2])
    return {"mean": _assembled(prior, mean_bar, fixed_bars), "log_sd": posterior.split(by_log_sd, prior["log_sd"])}
