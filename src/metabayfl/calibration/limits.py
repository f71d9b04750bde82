"""One client's thresholds: its own cases and the table of the other clients in one weighted list.

The other clients' cases weigh as much together as there are other clients. Cases of one client resemble each other, so each client says about as much
of a new client as one of that client's own cases does: guarantees over a hierarchy count clients (Dunn, Wasserman, Ramdas 2023, "Distribution-free
prediction sets for two-layer hierarchical models", arXiv 1809.07441). With more samples of its own, a client leans more on itself.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from metabayfl.calibration.cases import Cases
from metabayfl.calibration.conformal import novelty_threshold, risk_threshold, set_threshold
from metabayfl.calibration.population import TAIL
from metabayfl.errors import ConfigError
from metabayfl.types import Tree
from metabayfl.uncertainty import threshold_for_share

By: TypeAlias = Literal["client", "class"]
"""What a coverage holds within: all cases of the client, or those of each true class (Mondrian)."""


class Known(NamedTuple):
    """All that a client's thresholds come from."""

    own: Cases
    table: Tree  # of the other clients, from :func:`metabayfl.calibration.population.table`; ``{}`` where there is none
    classes: int  # K; 0 in regression


def set_limits(known: Known, coverage: float, by: By = "client") -> Tensor:
    """The least conformity that a set of this coverage keeps: per target ``(R,)``, and in classification per class ``(K,)``, alike by client.

    Minus infinity where there are too few cases for any guarantee.

    Raises:
        ConfigError: if ``coverage`` is no probability, or ``by`` is no known word.
    """
    if by not in get_args(By):
        raise ConfigError(f"by is {by!r}: expected one of {', '.join(get_args(By))}")
    own = known.own.conformity
    if not known.classes:
        return torch.tensor([_set_limit(known, row, own[:, row], coverage) for row in range(own.shape[1])])
    if by == "client":
        return torch.full((known.classes,), _set_limit(known, 0, own[:, 0], coverage))
    of_class = [own[known.own.truth == each, 0] for each in range(known.classes)]
    return torch.tensor([_set_limit(known, 1 + each, values, coverage) for each, values in enumerate(of_class)])


def referral_for_share(known: Known, share: float) -> float:
    """The uncertainty above which this share of the cases lies; infinity, nothing referred, where no case is known.

    Raises:
        ConfigError: if ``share`` is no share.
    """
    values, weight = _whole(known, "uncertainty", known.own.uncertainty)
    return threshold_for_share(values, share, weight) if len(values) else math.inf


def referral_for_error(known: Known, error: float) -> float:
    """The highest uncertainty to accept so that at most this share of all cases is accepted and wrong (:func:`risk_threshold`).

    Raises:
        ConfigError: if ``error`` is no share.
    """
    values, weight = _whole(known, "uncertainty", known.own.uncertainty)
    wrong = torch.cat([known.own.wrong.double(), known.table["wrong"].double().clamp(0.0, 1.0)]) if known.table else known.own.wrong.double()
    return risk_threshold(values, wrong, error, weight)


def novelty_limit(known: Known, rate: float) -> float:
    """The epistemic uncertainty above which a case is unlike anything known; at most a share ``rate`` of ordinary cases lies above.

    Raises:
        ConfigError: if ``rate`` is no share.
    """
    values, weight = _whole(known, "epistemic", known.own.epistemic)
    return novelty_threshold(values, rate, weight)


def _set_limit(known: Known, row: int, own: Tensor, coverage: float) -> float:
    """From a client's own conformities and one row of the table: its quantiles, and all that lies above the median as one case of conformity 1."""
    kept = known.table["conformity"][row].double() if known.table else torch.zeros(0)
    if not len(kept) or not float(kept.max()):  # no table, or no other client had such a case
        return set_threshold(own.double(), coverage)
    each = float(known.table["clients"]) / (2 * len(TAIL))
    weight = torch.tensor([1.0] * len(own) + [each] * len(TAIL) + [each * len(TAIL)])
    return set_threshold(torch.cat([own.double(), kept, torch.ones(1, dtype=torch.float64)]), coverage, weight)


def _whole(known: Known, name: str, own: Tensor) -> tuple[Tensor, Tensor]:
    """A client's own numbers and the table's, with their weights."""
    if not known.table:
        return own.double(), torch.ones(len(own), dtype=torch.float64)
    kept = known.table[name].double()
    weight = torch.cat([torch.ones(len(own)), torch.full((len(kept),), float(known.table["clients"]) / len(kept))])
    return torch.cat([own.double(), kept]), weight.double()
