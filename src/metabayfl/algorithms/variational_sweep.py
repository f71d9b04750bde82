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

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from metabayfl import posterior, random, tree
from metabayfl.algorithms import variational_arithmetic as arithmetic
from metabayfl.algorithms.side_by_side import gradient, losses, pays, shares
from metabayfl.algorithms.variational import Steps
from metabayfl.algorithms.variational_arithmetic import Prior, Step
from metabayfl.types import Batch, Model, Task, Tree

CACHED = 2**14
"""Numbers of a client whose hashes still fit a core's cache."""


class _Part(NamedTuple):
    """Some data of every client, once for each draw."""

    batch: Batch  # (C S, N, ...)
    weights: Tensor  # (C S, N) each example's weight in what is differentiated
    draws: int  # S


class _Group(NamedTuple):
    """Some draws' losses and their gradients: all draws of the chunk, or one where weights are too many for clients side by side."""

    leaves: list[Tensor]  # (rows, ...) the parameters, those first that clients are uncertain about
    by: list[Tensor]  # the gradients by the leaves
    values: Tensor  # (rows, N) each example's loss, nats


class _Slopes(NamedTuple):
    """A loss under draws of every client's weights, and its gradient by them."""

    noise: Tensor  # (C, ceil(S / 2), P) of the first half of the draws
    groups: list[_Group]
    vector: Tensor  # (C, S, P) the gradient by the draws


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
    mean, log_sd = posterior.vectors(prior)
    near = _part(tasks.support, steps.draws, steps.rate, mean.dtype)
    far = _part(tasks.query, query_samples, 1.0, mean.dtype)
    pull = steps.kl_weight * steps.rate / torch.clamp(tasks.support.mask.sum(-1, keepdim=True).to(mean.dtype), min=1e-30)
    gaussian = Prior(mean, torch.exp(log_sd), posterior.prox(log_sd, pull))
    shift, ratio = torch.zeros_like(gaussian.prox.keep), torch.ones_like(gaussian.prox.keep)
    path: list[tuple[_Slopes, Step]] = []
    for number in range(steps.number):
        key = random.fold(keys, "support", "step", number)
        slopes = _slopes(model, prior, gaussian, shift, ratio, near, key, graph=not steps.first_order)
        step, shift = arithmetic.advance(gaussian, slopes.vector, slopes.noise, shift, ratio)
        ratio = step.reached
        path.append((slopes, step))
    query = _slopes(model, prior, gaussian, shift, ratio, far, random.fold(keys, "query"), graph=False)
    examples = torch.clamp(tasks.query.mask.sum(-1, keepdim=True), min=1.0)
    kl = _kl_slopes(log_sd, shift, ratio, meta_kl / examples) if meta_kl else None
    values = torch.cat([group.values.detach() for group in query.groups])
    loss = torch.linalg.vecdot(values, far.weights).view(len(keys), -1).sum(-1)
    return _back(prior, gaussian, path, query, ratio, kl), loss


def _part(batch: Batch, draws: int, factor: float, dtype: torch.dtype) -> _Part:
    repeated = Batch(*(part.repeat_interleave(draws, 0) for part in batch))
    return _Part(repeated, shares(repeated.mask, dtype) * (factor / draws), draws)


def _slopes(model: Model, prior: Tree, gaussian: Prior, shift: Tensor, ratio: Tensor, part: _Part, keys: Tensor, *, graph: bool) -> _Slopes:
    """The part's loss and its gradient at draws from the clients' posteriors; with ``graph``, it can be differentiated again."""
    noise = _normal(random.fold(keys, "weights"), ((part.draws + 1) // 2, shift.shape[-1]), shift.dtype)
    drawn = arithmetic.draw(gaussian, shift, ratio, noise, part.draws)
    drops = vmap(lambda seed: random.keys(seed, part.draws))(random.fold(keys, "dropout")).flatten()
    together = len(drops) if pays(shift.shape[-1], keys.device) else 1
    groups = [
        _group(model, prior, drawn.flatten(0, 1)[rows], Batch(*(side[rows] for side in part.batch)), part.weights[rows], drops[rows], graph=graph)
        for rows in (slice(begin, begin + together) for begin in range(0, len(drops), together))
    ]
    return _Slopes(noise, groups, _vector([group.by for group in groups], prior, drawn))


def _group(model: Model, prior: Tree, drawn: Tensor, batch: Batch, weights: Tensor, drops: Tensor, *, graph: bool) -> _Group:
    uncertain = tree.leaves(posterior.split(drawn, prior["log_sd"]))
    certain = [leaf.expand(len(drawn), *leaf.shape).clone() for leaf in _certain(prior)]
    leaves = [leaf.detach().requires_grad_() for leaf in (*uncertain, *certain)]
    with torch.enable_grad():
        values = losses(model, _assembled(prior, leaves), batch, drops)
        return _Group(leaves, gradient(values, weights, leaves, create_graph=graph), values)


def _vector(groups: list[list[Tensor]], prior: Tree, like: Tensor) -> Tensor:
    """The uncertain parameters of the groups' rows as vectors in the shape ``(C, S, P)`` of ``like``."""
    count, begin, out = len(tree.leaves(prior["log_sd"])), 0, torch.empty_like(like)
    for leaves in groups:
        end = begin + len(leaves[0])
        posterior.joined([leaf.detach() for leaf in leaves[:count]], out.flatten(0, 1)[begin:end])
        begin = end
    return out


def _normal(keys: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Noise ``(C, ...)``, of one client after the other where that of one fills the cache."""
    if math.prod(shape) < CACHED:
        return vmap(lambda key: random.normal(key, shape, dtype))(keys)
    each = [random.normal(key, shape, dtype) for key in keys]
    return torch.stack(each) if len(each) > 1 else each[0].unsqueeze(0)


def _certain(prior: Tree) -> list[Tensor]:
    """The parameters that no client is uncertain about."""
    uncertain = tree.flatten(prior["log_sd"])
    return [leaf for path, leaf in tree.flatten(prior["mean"]).items() if path not in uncertain]


def _assembled(prior: Tree, leaves: list[Tensor]) -> Tree:
    """Parameters from the uncertain ones in order and then the others."""
    uncertain = list(tree.paths(prior["log_sd"]))
    certain = [path for path in tree.paths(prior["mean"]) if path not in uncertain]
    found = dict(zip([*uncertain, *certain], leaves, strict=True))
    return tree.unflatten({path: found[path] for path in tree.paths(prior["mean"])})


def _kl_slopes(log_sd: Tensor, shift: Tensor, ratio: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of ``weight KL(q || p) = weight (r^2 / 2 - log r + u^2 / (2 s0^2))`` by ``u``, ``r`` and ``log s0``."""
    precise = weight * shift * torch.exp(-2.0 * log_sd)
    return precise, weight * (ratio - 1.0 / ratio), -precise * shift


def _back(
    prior: Tree,
    gaussian: Prior,
    path: list[tuple[_Slopes, Step]],
    query: _Slopes,
    ratio: Tensor,
    kl: tuple[Tensor, Tensor, Tensor] | None,
) -> Tree:
    """The bars of the module's docstring from the last step to the first, and their sums over steps as derivatives by the prior."""
    bars, count = arithmetic.bars_of(gaussian, query.vector, query.noise, ratio), len(tree.leaves(prior["log_sd"]))
    certain = _over_rows([group.by[count:] for group in query.groups], len(ratio))
    if kl is not None:
        bars.shift.add_(kl[0])
        bars.ratio.add_(kl[1])
    for slopes, step in reversed(path):
        slope_bars = arithmetic.back(gaussian, step, bars, slopes.vector.shape[1])
        if not slopes.groups[0].by[0].requires_grad:
            continue  # first order: gradients are constants
        parts, begin, found = tree.leaves(posterior.split(slope_bars.flatten(0, 1), prior["log_sd"])), 0, []
        for group in slopes.groups:
            rows = slice(begin, begin + len(group.values))
            found.append(gradient(group.by[:count], [part[rows] for part in parts], group.leaves))
            begin = rows.stop
        arithmetic.absorb(gaussian, step, _vector(found, prior, slope_bars), bars)
        more = _over_rows([leaves[count:] for leaves in found], len(ratio))
        certain = [bar + one for bar, one in zip(certain, more, strict=True)]
    by_log_sd = arithmetic.by_log_sd(gaussian, bars)
    if kl is not None:
        by_log_sd.add_(kl[2])
    means = tree.leaves(posterior.split(bars.mean, prior["log_sd"]))
    return {"mean": _assembled(prior, [*means, *certain]), "log_sd": posterior.split(by_log_sd, prior["log_sd"])}


def _over_rows(groups: list[list[Tensor]], clients: int) -> list[Tensor]:
    """Sums ``(C, ...)`` over the draws."""
    return [torch.cat(parts).view(clients, -1, *parts[0].shape[1:]).sum(1) for parts in zip(*groups, strict=True)]
