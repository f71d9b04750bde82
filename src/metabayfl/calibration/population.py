"""What other clients saw of cases with known answers: histograms that add up, and a few hundred quantiles of their sum, which travel in the strategy.

In the tables, row 0 of the conformities is of all classes and row ``1 + c`` of the cases whose true class is ``c``; in regression there is a row for
each target.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.calibration.cases import Cases
from metabayfl.types import Tree

TAIL = tuple((step + 0.5) / 100 for step in range(50))
"""Levels of the kept quantiles of conformities: each stands for 1 % of the cases; those above the median have no say in a threshold."""

WHOLE = tuple((step + 0.5) / 100 for step in range(100))
"""Levels of the kept quantiles of uncertainties."""

_BINS = 512
_LOGITS = (-16.0, 16.0)
_LOGS = (-14.0, 10.0)


_BINS = 512
_LOGITS = (-16.0, 16.0)
_LOGS = (-14.0, 10.0)


def counts(found: Cases, classes: int) -> Tree:
    """Histograms of one client's cases; those of several clients add up, so that secure aggregation applies.

    Args:
        found: the client's cases.
        classes: ``K``; 0 in regression.

    Returns:
        ``{"conformity": (1 + K, B) or (R, B), "uncertainty": (B,), "wrong": (B,), "epistemic": (B,), "clients": ()}``.
    """
    logits = torch.logit(found.conformity.double(), eps=1e-7)
    rows = logits.T if not classes else logits.T.expand(classes + 1, -1)
    kept = torch.ones_like(rows) if not classes else torch.cat([torch.ones_like(rows[:1]), _hot(found.truth, classes)])
    uncertainty, epistemic = (torch.log(values.double().clamp(min=1e-6)) for values in (found.uncertainty, found.epistemic))
    return {
        "conformity": torch.stack([_histogram(row, weight, _LOGITS) for row, weight in zip(rows, kept, strict=True)]),
        "uncertainty": _histogram(uncertainty, torch.ones_like(uncertainty), _LOGS),
        "wrong": _histogram(uncertainty, found.wrong.double(), _LOGS),
        "epistemic": _histogram(epistemic, torch.ones_like(epistemic), _LOGS),
        "clients": torch.tensor(1.0, dtype=torch.float64),
    }


def table(sums: Tree) -> Tree:
    """The table that travels with the strategy, float16, from the summed :func:`counts` of the clients.

    Returns:
        ``{"conformity": (1 + K, 50) or (R, 50), "uncertainty": (100,), "wrong": (100,), "epistemic": (100,), "clients": ()}``: quantiles at
        :data:`TAIL` and :data:`WHOLE`, and the share of wrong answers in each hundredth of the cases by uncertainty. A row without a case is zero.
    """
    conformity = torch.stack([torch.sigmoid(_quantiles(row, TAIL, _LOGITS)) if row.sum() else torch.zeros(len(TAIL)) for row in sums["conformity"]])
    wrong = _interpolated(sums["uncertainty"], torch.cumsum(sums["wrong"], 0))
    quantiles = {
        "conformity": conformity,
        "uncertainty": torch.exp(_quantiles(sums["uncertainty"], WHOLE, _LOGS)),
        "wrong": (wrong[1:] - wrong[:-1]) * len(WHOLE) / sums["uncertainty"].sum(),
        "epistemic": torch.exp(_quantiles(sums["epistemic"], WHOLE, _LOGS)),
        "clients": sums["clients"],
    }
    return tree.to(quantiles, torch.float16)


def template(classes: int, targets: int) -> Tree:
    """A table's shapes and types, to check one from elsewhere against; ``targets`` counts in regression alone (``classes`` 0)."""
    shapes: dict[str, tuple[int, ...]] = {
        "conformity": (1 + classes if classes else targets, len(TAIL)),
        "uncertainty": (len(WHOLE),),
        "wrong": (len(WHOLE),),
        "epistemic": (len(WHOLE),),
        "clients": (),
    }
    return {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}


def _hot(truth: Tensor, classes: int) -> Tensor:
    return (truth == torch.arange(classes).unsqueeze(-1)).double()


def _histogram(values: Tensor, weight: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    at = ((values - low) / (high - low) * _BINS).long().clamp(0, _BINS - 1)
    return torch.zeros(_BINS, dtype=torch.float64).index_add(0, at, weight.double())


def _quantiles(histogram: Tensor, levels: tuple[float, ...], limits: tuple[float, float]) -> Tensor:
    """Linear within a bin."""
    low, high = limits
    cumulated = torch.cumsum(histogram, 0)
    wanted = torch.tensor(levels, dtype=torch.float64) * cumulated[-1]
    at = torch.searchsorted(cumulated, wanted).clamp(max=_BINS - 1)
    inside = (wanted - (cumulated[at] - histogram[at])) / histogram[at]
    return low + (at + inside) * (high - low) / _BINS


def _interpolated(histogram: Tensor, cumulated: Tensor) -> Tensor:
    """``cumulated`` read at the ends of the hundredths of ``histogram``'s cases, ``(101,)``."""
    share = torch.cumsum(histogram, 0) / histogram.sum()
    ends = np.linspace(0.0, 1.0, len(WHOLE) + 1)
    out = np.interp(ends, np.concatenate([[0.0], share.numpy()]), np.concatenate([[0.0], cumulated.numpy()]))
    return torch.from_numpy(out)
