"""A client's whole adaptation as one pure function of tensors: to a posterior that is ready to answer, and its threshold of referral."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.export.outputs import score
from metabayfl.personal import FOLDS, PersonalStrategy
from metabayfl.types import Algorithm, Batch, Key, Prepared, Tree

Subset = Callable[[Tree, Tensor], Tree]


class Adapted(NamedTuple):
    """What passes from the first graph to the second."""

    ready: Prepared
    threshold: Tensor  # ()


def adapt(source: PersonalStrategy, batch: Batch, share: float, seed: int) -> Adapted:
    """What ``source.personalize`` computes on the rows of ``batch`` with mask 1, without a branch on their values or number."""
    algorithm, key = source.algorithm, random.key(seed)
    posterior = algorithm.adapt(algorithm.down.round_trip(source.strategy.meta, None), batch, random.fold(key, "adapt"))
    assert algorithm.prepare is not None
    assert algorithm.subset is not None
    ready = algorithm.prepare(posterior, random.fold(key, "predict"))
    scores = _left_out(algorithm, algorithm.subset, posterior, batch, key)
    return Adapted(ready, _threshold(scores, batch.mask, share))


def _left_out(algorithm: Algorithm, subset: Subset, posterior: Tree, batch: Batch, key: Key) -> Tensor:
    """The uncertainty ``(N,)`` of each row under the posterior of the folds that it is not in."""
    fold_of = _folds(batch.mask, key)
    out = torch.arange(FOLDS).unsqueeze(-1) == fold_of  # (folds, N)

    def scores(kept: Tensor) -> Tensor:
        ready = algorithm.prepare(subset(posterior, kept), random.fold(key, "predict"))  # type: ignore[misc]
        return score(ready.answer(ready.constants, batch.x))

    each: Tensor = torch.func.vmap(scores)(torch.where(out, 0.0, batch.mask))
    return torch.where(out, each, 0.0).sum(0)


def _folds(mask: Tensor, key: Key) -> Tensor:
    """The fold ``(N,)`` of every row, as if only those with mask 1 were there."""
    rank = (torch.cumsum(mask, 0) - 1.0).clamp(min=0.0).long()
    order = random.permutation(random.fold(key, "folds"), mask)
    return rank[order[rank]] % mask.sum().long().clamp(1, FOLDS)


def _threshold(scores: Tensor, mask: Tensor, share: float) -> Tensor:
    """:func:`metabayfl.uncertainty.threshold_for_share` of the rows with mask 1; infinity where there are fewer than two."""
    count = mask.sum().double()
    last = (count - torch.floor(share * count + 1e-9)).long() - 1
    ordered = torch.sort(torch.where(mask > 0, scores, math.inf)).values
    found = torch.where(last >= 0, torch.index_select(ordered, 0, last.clamp(min=0).view(1)).squeeze(0), -math.inf)
    return torch.where(count < 2, math.inf, found)
