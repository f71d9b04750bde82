"""Mean-field Gaussian posteriors over parameter trees.

A posterior is the tree ``{"mean": Tree, "log_sd": Tree}``: ``mean`` holds every parameter of a model, ``log_sd`` the log standard deviations of
those that are uncertain. A parameter without a ``log_sd`` is a point parameter: every draw has its mean.

Draws are of weights, not of activations: a :class:`~metabayfl.types.Model` is an opaque function of its parameters, so the local
reparameterisation of Kingma, Salimans and Welling (2015), which needs each layer's input, cannot be had from outside. What it saves in variance
comes from antithetic pairs instead: both ``mean + sd e`` and ``mean - sd e`` are used, so that whatever is odd in ``e`` cancels exactly. On a loss
that is quadratic in the weights, the gradient for the mean then has no sampling noise at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.errors import ConfigError, ModelError
from metabayfl.types import Key, Model, Prediction, Tree


def weight_paths(params: Tree) -> list[str]:
    """Every parameter but the noise scale of a regression head, which is a property of the targets and not of the network."""
    return [path for path in tree.paths(params) if path.split(tree.SEPARATOR)[-1] != "log_scale"]


def dense_paths(params: Tree) -> list[str]:
    """The parameters of the dense layers: each ``weight`` of two axes and the ``bias`` beside it.

    Example:
        >>> conv, dense = {"weight": torch.zeros(4, 1, 3, 3), "bias": torch.zeros(4)}, {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}
        >>> dense_paths({"body": {"conv": conv}, "head": {**dense, "log_scale": torch.zeros(2)}})
        ['head/weight', 'head/bias']
    """
    split_paths = {path: path.rpartition(tree.SEPARATOR) for path in tree.paths(params)}
    leaves = tree.flatten(params)
    layers = {layer for path, (layer, _, name) in split_paths.items() if name == "weight" and leaves[path].ndim == 2}
    return [path for path, (layer, _, name) in split_paths.items() if layer in layers and name in ("weight", "bias")]


def pick(params: Tree, paths: Iterable[str]) -> Tree:
    """The part of a tree that holds these leaves."""
    leaves = tree.flatten(params)
    return tree.unflatten({path: leaves[path] for path in paths})


def overlay(params: Tree, part: Tree) -> Tree:
    """``params`` with the leaves of ``part`` in place of its own; an empty branch stays."""
    return {name: overlay(value, part.get(name, {})) if isinstance(value, dict) else part.get(name, value) for name, value in params.items()}


def isotropic(params: Tree, paths: Iterable[str], sd: float) -> Tree:
    """A posterior around ``params`` with one standard deviation for the leaves at ``paths``; the others are point parameters.

    Raises:
        ConfigError: if ``sd`` is not positive.
        ModelError: if there is no path.
    """
    chosen = pick(params, paths)
    if not chosen:
        raise ModelError(
            f"a Gaussian over none of the parameters {', '.join(tree.paths(params))}: expected at least one; pass a model with dense layers"
        )
    if not sd > 0.0:
        raise ConfigError(f"the standard deviation of a posterior is {sd}, expected a number above 0")
    return {"mean": params, "log_sd": tree.map(lambda leaf: torch.full_like(leaf, sd).log(), chosen)}


def join(part: Tree) -> Tensor:
    """All leaves as one vector ``(P,)``: one long operation is faster under ``vmap`` than one for each leaf.

    Matrices go column by column: a dense layer multiplies by its weight's transpose, and MKL's batched product is up to four times slower on draws
    that are stored by rows.
    """
    return joined([leaf.unsqueeze(0) for leaf in tree.leaves(part)]).squeeze(0)


def joined(leaves: list[Tensor], out: Tensor | None = None) -> Tensor:
    """:func:`join` of leaves that have a leading axis of rows: ``(rows, P)``, written to ``out`` where it is given."""
    return torch.cat([(leaf.mT if leaf.ndim == 3 else leaf).reshape(len(leaf), -1) for leaf in leaves], -1, out=out)


def split(vectors: Tensor, like: Tree) -> Tree:
    """The inverse of :func:`join`; leading axes of ``vectors (..., P)`` stay in front.

    Example:
        >>> {name: tuple(leaf.shape) for name, leaf in split(torch.zeros(7, 5), {"a": torch.zeros(2, 2), "b": torch.zeros(1)}).items()}
        {'a': (7, 2, 2), 'b': (7, 1)}
    """
    leaves = tree.leaves(like)
    pieces = torch.split(vectors, [leaf.numel() for leaf in leaves], dim=-1)
    return tree.like(like, [_shaped(piece, leaf) for piece, leaf in zip(pieces, leaves, strict=True)])


def _shaped(piece: Tensor, leaf: Tensor) -> Tensor:
    if leaf.ndim != 2:
        return piece.reshape(*piece.shape[:-1], *leaf.shape)
    return piece.reshape(*piece.shape[:-1], *reversed(leaf.shape)).mT


def vectors(posterior: Tree) -> tuple[Tensor, Tensor]:
    """Means and log standard deviations of the uncertain parameters, ``(P,)`` each."""
    return join(pick(posterior["mean"], tree.paths(posterior["log_sd"]))), join(posterior["log_sd"])


def antithetic(key: Key, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard normal draws ``(S, ...)``: the second half is the first half's negative; one more is left over where ``S`` is odd.

    Example:
        >>> draw = antithetic(random.key(0), (4, 3), torch.float64)
        >>> bool((draw[:2] == -draw[2:]).all())
        True
    """
    half = random.normal(key, ((shape[0] + 1) // 2, *shape[1:]), dtype)
    return torch.cat([half, -half])[: shape[0]]


def draw(posterior: Tree, key: Key, count: int) -> Tree:
    """``S`` parameter trees as one: every leaf has a leading axis ``S = count``; the draws come in antithetic pairs."""
    mean, log_sd = vectors(posterior)
    drawn = mean + torch.exp(log_sd) * antithetic(key, (count, len(mean)), mean.dtype)
    points = tree.map(lambda leaf: leaf.expand(count, *leaf.shape), posterior["mean"])
    return overlay(points, split(drawn, posterior["log_sd"]))


def kl(q: Tree, p: Tree) -> Tensor:
    """``KL(q || p)`` in nats, shape ``()``, over the uncertain parameters of ``q``; point parameters have no share.

    Sum of ``log(s_p/s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2``.

    Raises:
        ValueError: if ``p`` is uncertain about other parameters than ``q``.

    Example:
        >>> q = isotropic({"w": torch.zeros(3)}, ["w"], 0.5)
        >>> float(kl(q, q))
        0.0
    """
    parts = tree.map(_kl, *(pick(side["mean"], tree.paths(q["log_sd"])) for side in (q, p)), q["log_sd"], p["log_sd"])
    return torch.stack(tree.leaves(parts)).sum()


def _kl(mean: Tensor, prior_mean: Tensor, log_sd: Tensor, prior_log_sd: Tensor) -> Tensor:
    ratio, shift = log_sd - prior_log_sd, (mean - prior_mean) * torch.exp(-prior_log_sd)
    return (0.5 * (torch.expm1(2.0 * ratio) + shift**2) - ratio).sum()


def outputs(model: Model, posterior: Tree, x: Tensor, key: Key, count: int) -> Tensor:
    """Raw outputs ``(S, N, O)`` of ``count`` draws, without dropout."""
    apply = torch.func.vmap(lambda params: model.apply(params, x, None))
    out: Tensor = apply(draw(posterior, key, count))
    return out


def predict(model: Model, posterior: Tree, x: Tensor, key: Key, count: int) -> Prediction:
    """The posterior predictive of ``x (N, ...)`` from ``count`` draws, with its aleatoric and epistemic parts."""
    return model.likelihood.predict_samples(outputs(model, posterior, x, key, count))


def move(prior: Tree, shift: Tensor, log_ratio: Tensor) -> Tree:
    """The posterior whose means lie ``shift (P,)`` from those of ``prior`` and whose log standard deviations lie ``log_ratio (P,)`` from its."""
    mean, log_sd = vectors(prior)
    means = overlay(prior["mean"], split(mean + shift, prior["log_sd"]))
    return {"mean": means, "log_sd": split(log_sd + log_ratio, prior["log_sd"])}


class Prox(NamedTuple):
    """The proximal map of ``pull * KL(q || prior)`` in means ``m`` and standard deviations ``s``, for one prior ``N(m0, s0^2)``; leaves ``(P,)``.

    ``pull`` is rate times KL weight over examples and ``c = pull / s0^2``. Since the KL is convex in ``m`` and ``s`` and both maps minimise it
    exactly, neither overshoots, whatever ``c``. Standard deviations and not their logarithms are what is moved, because the expected NLL is
    as smooth in ``(m, s)`` as the NLL is in the weights (Domke 2020, "Provable smoothness guarantees for black-box variational
    inference"): one rate fits both, and below 2 over that smoothness the steps converge.
    """

    keep: Tensor  # k = 1 / (1 + c), in [0, 1]: 0 is a prior that cannot be moved
    lift: Tensor  # 1 - k, without cancellation
    gain: Tensor  # k / s0


def prox(log_sd: Tensor, pull: Tensor) -> Prox:
    """The map for ``log s0 = log_sd (P,)`` and ``pull > 0``, shape ``()``; finite, with its gradient, for every precision."""
    logit = 2.0 * log_sd - torch.log(pull)
    return Prox(torch.sigmoid(logit), torch.sigmoid(-logit), torch.exp(torch.nn.functional.logsigmoid(logit) - log_sd))


def step_mean(prox: Prox, shift: Tensor, descent: Tensor) -> Tensor:
    """``m - m0`` from the old one, after ``m`` has descended by ``descent (P,)``.

    ``argmin_x (x - v)^2 / 2 + c x^2 / 2 = k v`` with ``v = shift - descent``.
    """
    return prox.keep * (shift - descent)


def step_sd(prox: Prox, ratio: Tensor, descent: Tensor) -> Tensor:
    """``s / s0`` from the old one, after ``s`` has descended by ``descent (P,)``; positive, even where ``s - descent`` is not.

    With ``v = ratio - descent / s0``, ``argmin_u (u - v)^2 / 2 + c (u^2 / 2 - log u)`` is the positive root of ``(1 + c) u^2 - v u - c = 0``:
    ``u = (b + r) / 2`` with ``b = k v`` and ``r = sqrt(b^2 + 4 (1 - k))``, or ``max(b, 0) + 2 (1 - k) / (|b| + r)``, in which nothing cancels.

    Example:
        >>> weak, strong = (prox(torch.zeros(1), torch.tensor(pull)) for pull in (1e-6, 1e9))
        >>> torch.cat([step_sd(one, torch.ones(1), torch.tensor([0.5])) for one in (weak, strong)])
        tensor([0.5000, 1.0000])
    """
    b = torch.addcmul(prox.keep * ratio, prox.gain, descent, value=-1.0)
    root: Tensor = _Root.apply(b, prox.lift)  # type: ignore[no-untyped-call]
    return root


class _Root(torch.autograd.Function):
    """The positive root ``u`` of ``u^2 - b u - c = 0``, with ``du/db = u / r`` and ``du/dc = 1 / r`` where ``r = sqrt(b^2 + 4 c)``.

    Left to automatic differentiation, its dozen passes over all weights and their backward take a third of a variational step.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(b: Tensor, c: Tensor) -> Tensor:
        inverse = (b * b).add_(c, alpha=4.0).sqrt_().add_(b.abs()).reciprocal_()
        return torch.addcmul(b.clamp(min=0.0), c, inverse, value=2.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        b, c, root = ctx.saved_tensors
        to_c = slope / (b * b).add(c, alpha=4.0).sqrt()
        return to_c * root, to_c
