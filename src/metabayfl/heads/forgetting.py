"""Forgetting by evidence: how fast a client's past should fade is read off how well each rate would have predicted its own stream.

A retention ``lambda`` raises the likelihood of a sample that ``a`` later samples have followed to the power ``lambda^a`` (a power prior). So its
statistics are a recursion, ``T_t = lambda T_{t-1} + T(sample t)``, and the one-step-ahead (prequential) log predictive of every retention follows
without a refit::

    log p_lambda(y_t) = log sum_g w_g p_g(y_t | x_t, T_{t-1})    log w_g = E_{t-1,g} - logsumexp(E_{t-1})    E_t = lambda E_{t-1} + log p(y_t)

over the grid ``g = (u, v)`` on the prior's strengths, whose evidence ``E`` fades as the samples do. A retention's score is the sum of its log
predictives, itself faded by :data:`SCORE_MEMORY`: what was best for a long quiet time must not veto a change for as long. The client takes the best
retention and no mixture, so that its posterior is an ordinary one: one set of statistics, answered, stored and exported as without forgetting.

References:
    Ibrahim and Chen 2000, "Power prior distributions for regression models". Raftery, Karny, Ettler 2010, "Online prediction under model
    uncertainty via dynamic model averaging: application to a cold rolling mill", section 3: models' scores that fade.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.heads.head import Head
from metabayfl.types import Tree

RETENTIONS = (1.0, 0.99, 0.97, 0.95, 0.9)
"""The grid: nothing is forgotten, or a memory of about 100, 33, 20 or 10 samples."""

SCORE_MEMORY = 0.98
"""The scores compare retentions over about the last 50 samples."""


def weights(real: Tensor, retention: Tensor) -> Tensor:
    """``lambda^age`` of each row, with as many later real rows as its age; 0 for padding, and never 0 for a real row.

    Args:
        real: ``(N,)`` True for a sample, the oldest first.
        retention: ``lambda``, shape ``()``.

    Example:
        >>> weights(torch.tensor([True, True, False, True]), torch.tensor(0.5)).tolist()
        [0.25, 0.5, 0.0, 1.0]
    """
    age = real.flip(0).cumsum(0).flip(0) - 1
    faded = torch.clamp(retention**age, min=torch.finfo(retention.dtype).tiny)
    return torch.where(real, faded, torch.zeros_like(faded))


def begin(head: Head, points: Tree, memory: Tree, retentions: Tensor) -> Tree:
    """The state before the first sample.

    Args:
        head: the client's head.
        points: the evidence's grid, ``{"u": (G,), "v": (G,), ...}``.
        memory: any memory of the client, for shapes and types.
        retentions: ``(L,)``.

    Returns:
        ``{"retention": (L,), "statistics": leaves with an axis L, "evidence": (L, G), "score": (L,)}``.
    """
    nobody = head.statistics(tree.map(lambda leaf: leaf[:0], memory))
    zero = torch.zeros_like(retentions)
    statistics = tree.map(lambda leaf: leaf.expand(len(retentions), *leaf.shape).clone(), nobody)
    return {"retention": retentions, "statistics": statistics, "evidence": zero.unsqueeze(-1) * points["u"], "score": zero}


def run(head: Head, prior: Tree, points: Tree, state: Tree, memory: Tree) -> Tree:
    """The state after a memory's real rows, one after the other, in O(n G K M) for each retention."""
    for row in torch.nonzero(memory["mask"] > 0).flatten().tolist():
        one = tree.map(lambda leaf, at=row: leaf[at : at + 1], {**memory, "mask": torch.ones_like(memory["mask"])})
        state = _step(head, prior, points, state, one)
    return state


def best(state: Tree) -> Tensor:
    """The retention of the highest score, ``()``; the first of the grid where nothing was seen."""
    out: Tensor = state["retention"][torch.argmax(state["score"])]
    return out


def _step(head: Head, prior: Tree, points: Tree, state: Tree, row: Tree) -> Tree:
    def at(statistics: Tree, u: Tensor, v: Tensor) -> Tensor:
        return head.log_predictive(head.scaled(prior, u, v), statistics, row).sum()

    over_grid = torch.func.vmap(at, in_dims=(None, 0, 0))
    each = torch.func.vmap(over_grid, in_dims=(0, None, None))(state["statistics"], points["u"], points["v"])  # (L, G)
    predicted = torch.logsumexp(torch.log_softmax(state["evidence"], -1) + each, -1)
    fade, new = state["retention"], head.statistics(row)
    return {
        "retention": fade,
        "statistics": tree.map(lambda past, now: fade.to(past.dtype).view(-1, *[1] * now.ndim) * past + now, state["statistics"], new),
        "evidence": fade.unsqueeze(-1) * state["evidence"] + each,
        "score": SCORE_MEMORY * state["score"] + predicted,
    }
