"""A client's whole adaptation as one pure function of tensors: to a posterior that is ready to answer, and the limits of referral and novelty.

It computes what :meth:`metabayfl.personal.PersonalStrategy.personalize` does, without a branch on the values or the number of the samples, so that it
can be traced once for all clients. A sample of weight 0 in the mask is as if it were not there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.calibration import score, strangeness
from metabayfl.calibration.cases import FOLDS, folds
from metabayfl.personal import PersonalStrategy
from metabayfl.types import Algorithm, Batch, Key, Prepared, Tree

Subset = Callable[[Tree, Tensor], Tree]


class Shares(NamedTuple):
    """What a device is to refer."""

    refer: float = 0.2  # of cases like the known ones
    novel: float = 0.02  # of ordinary cases, that may be called novel


class Adapted(NamedTuple):
    """What passes from the first graph to the second."""

    ready: Prepared
    threshold: Tensor  # () of total uncertainty
    novelty: Tensor  # () of epistemic uncertainty


def adapt(source: PersonalStrategy, batch: Batch, shares: Shares, seed: int) -> Adapted:
    """The posterior of the rows of ``batch`` with mask 1, for an algorithm with ``prepare`` and ``subset``."""
    algorithm, key = source.algorithm, random.key(seed)
    posterior = algorithm.adapt(source.received, batch, random.fold(key, "adapt"))
    assert algorithm.prepare is not None
    assert algorithm.subset is not None
    ready = algorithm.prepare(posterior, random.fold(key, "predict"))
    total, epistemic = _left_out(algorithm, algorithm.subset, posterior, batch, key)
    weight = torch.where(batch.mask.sum() < 2, 0.0, batch.mask)  # what is known of one sample alone is nothing
    table = source.strategy.calibration
    threshold = _for_share(*_known(table, "uncertainty", total, weight), shares.refer)
    return Adapted(ready, threshold, -_for_coverage(*_known(table, "epistemic", epistemic, weight, sign=-1.0), 1.0 - shares.novel))


def _left_out(algorithm: Algorithm, subset: Subset, posterior: Tree, batch: Batch, key: Key) -> tuple[Tensor, Tensor]:
    """Total and epistemic uncertainty ``(N,)`` of each row under the posterior of the folds that it is not in."""
    out = torch.arange(FOLDS).unsqueeze(-1) == folds(batch.y, batch.mask, key)  # (folds, N)
    real = (batch.mask > 0).view(-1, *[1] * (batch.x.ndim - 1))
    x = torch.where(real, batch.x, torch.zeros_like(batch.x))  # as adapt has it, so that the features are computed once for both

    def uncertainty(kept: Tensor) -> tuple[Tensor, Tensor]:
        ready = algorithm.prepare(subset(posterior, kept), random.fold(key, "predict"))  # type: ignore[misc]
        prediction = ready.answer(ready.constants, x)
        return score(prediction), strangeness(prediction)

    total, epistemic = torch.func.vmap(uncertainty)(torch.where(out, 0.0, batch.mask))
    return torch.where(out, total, 0.0).sum(0), torch.where(out, epistemic, 0.0).sum(0)


def _known(table: Tree, name: str, own: Tensor, weight: Tensor, sign: float = 1.0) -> tuple[Tensor, Tensor]:
    """A client's own numbers, those of other clients from the strategy's table, and their weights, in rising order of ``sign`` times the number."""
    values, weights = torch.where(weight > 0, sign * own.double(), math.inf), weight.double()
    if table:
        kept = sign * table[name].double()
        values = torch.cat([values, kept])
        weights = torch.cat([weights, torch.full((len(kept),), float(table["clients"]) / len(kept)).double()])
    ordered, order = torch.sort(values, stable=True)
    return ordered, weights[order]


def _for_share(ordered: Tensor, weight: Tensor, share: float) -> Tensor:
    """:func:`metabayfl.uncertainty.threshold_for_share`; infinity where nothing is known."""
    below = torch.cumsum(weight, 0)
    total = below[-1]  # and not the sum, which may be rounded otherwise: above the last case there is exactly nothing
    budget = share * total * (1 + 1e-9)
    found = _first(ordered, total - below <= budget)
    return torch.where(total > 0, torch.where(budget >= total, -math.inf, found), math.inf)


def _for_coverage(ordered: Tensor, weight: Tensor, coverage: float) -> Tensor:
    """:func:`metabayfl.calibration.conformal.set_threshold`."""
    allowed = (1.0 - coverage) * (weight.sum() + 1.0) * (1 + 1e-12)
    found = _first(ordered, torch.cumsum(weight, 0) + 1.0 > allowed)
    return torch.where(allowed >= 1.0, found, -math.inf)


def _first(ordered: Tensor, fits: Tensor) -> Tensor:
    return torch.index_select(ordered, 0, fits.long().argmax(0, keepdim=True)).squeeze(0)
