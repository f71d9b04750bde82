"""Membership inference on whole clients: can a strategy be asked whose data it was trained on?

The attacker has a client's samples and the trained strategy, and scores the client by how well the strategy does on them: those that took part in
training should do better. Three attackers, each stronger than the one before:

- the client's loss alone (Yeom et al. 2018);
- the loss less that of a reference strategy that was trained without the client, which takes away how hard the client is (Watson et al. 2022,
  "On the importance of difficulty calibration in membership inference attacks");
- the likelihood ratio of the loss under shadow strategies trained with and without the client (Carlini et al. 2022, "Membership inference attacks
  from first principles", with one variance for all clients, as section VI advises for few shadows).

Client-level privacy of (epsilon, delta) bounds all of them, and any other. Members and others must come from one distribution, or the attack tells
the distributions apart and not membership.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from metabayfl.data.federation import Clients
from metabayfl.errors import DataError
from metabayfl.evaluation.heldout import adapt, device_of, predict, support_batch
from metabayfl.losses import prediction_nll
from metabayfl.types import Algorithm, Key, Tree

Array = NDArray[np.float64]
View = Literal["zero_shot", "adapted"]


class Attack(NamedTuple):
    """How well scores tell members from others: 0.5 is chance."""

    auc: float
    error: float  # standard error of the AUC


def client_losses(algorithm: Algorithm, meta: Tree, clients: Clients, key: Key, *, view: View = "zero_shot") -> Array:
    """Each client's mean loss in nats, ``(C,)``.

    Args:
        algorithm: its ``adapt`` and ``predict`` are used, without gradients.
        meta: the strategy under attack; it goes through ``algorithm.down`` first.
        clients: members or others; all their samples are used, whatever their support.
        key: one key for members and others.
        view: ``zero_shot`` asks the strategy as it is about every sample; ``adapted`` adapts it on the first half of them and asks about the rest.

    Raises:
        DataError: if a client has fewer samples than the view needs.
    """
    received = algorithm.down.round_trip(meta, None)
    return np.array([_loss(algorithm, received, clients, at, key, view) for at in range(len(clients.ids))])


def _loss(algorithm: Algorithm, received: Tree, clients: Clients, at: int, key: Key, view: View) -> float:
    x, y = clients.read(at)
    used = len(y) // 2 if view == "adapted" else 0
    if len(y) - used < 1 or (view == "adapted" and not used):
        raise DataError(f"client {clients.ids[at]!r} has {len(y)} samples: the view {view!r} needs {1 + (view == 'adapted')} or more")
    posterior = adapt(algorithm, received, support_batch(x[:used], y[:used], device_of(received)), key, clients.ids[at])
    rows, truth = (torch.from_numpy(np.ascontiguousarray(part[used:])).to(device_of(received)) for part in (x, y))
    return float(prediction_nll(predict(algorithm, posterior, rows, key, clients.ids[at]), truth).double().mean())


def attack(members: ArrayLike, others: ArrayLike) -> Attack:
    """The area under the curve of true against false positives, with its standard error.

    The area is the Mann-Whitney statistic, ties counting half. With ``V_i`` the share of others that member ``i`` beats and ``W_j`` the share of
    members that beat other ``j``, its variance is ``var(V)/m + var(W)/n`` (DeLong, DeLong and Clarke-Pearson 1988, equation 4).

    Args:
        members: scores ``(m,)``, higher for "took part".
        others: scores ``(n,)``.

    Raises:
        DataError: if either has fewer than two scores.

    Example:
        >>> attack([3.0, 2.0], [1.0, 2.0])
        Attack(auc=0.875, error=0.1767766952966369)
    """
    high, low = np.asarray(members, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if min(len(high), len(low)) < 2:
        raise DataError(f"{len(high)} members and {len(low)} others give no curve: score at least two of each")
    over_others, under_members = _beaten(high, low), 1.0 - _beaten(low, high)
    variance = over_others.var(ddof=1) / len(high) + under_members.var(ddof=1) / len(low)
    return Attack(float(over_others.mean()), float(np.sqrt(variance)))


def _beaten(scores: Array, against: Array) -> Array:
    """Share of ``against`` below each score, ties counting half."""
    ordered = np.sort(against)
    both = np.searchsorted(ordered, scores, side="left") + np.searchsorted(ordered, scores, side="right")
    return both / (2.0 * len(ordered))


def likelihood_ratio(losses: ArrayLike, shadows: ArrayLike, trained_on: ArrayLike) -> Array:
    """``log N(l; mean of shadows with the client) - log N(l; mean of those without)`` of every client, ``(C,)``.

    Args:
        losses: of the strategy under attack, ``(C,)``.
        shadows: of ``S`` shadow strategies, ``(S, C)``.
        trained_on: which client each shadow was trained on, ``(S, C)``.

    Raises:
        DataError: if a client is in all shadows or in none.
    """
    values, table, inside = np.asarray(losses, dtype=np.float64), np.asarray(shadows, dtype=np.float64), np.asarray(trained_on, dtype=bool)
    counts = inside.sum(0)
    if (counts == 0).any() or (counts == len(table)).any():
        raise DataError(
            f"{int(((counts == 0) | (counts == len(table))).sum())} clients are in all shadows or in none: draw the shadows' halves again"
        )
    with_it, without = (np.where(mask, table, 0.0).sum(0) / mask.sum(0) for mask in (inside, ~inside))
    variance = float(np.mean((table - np.where(inside, with_it, without)) ** 2)) + np.finfo(np.float64).tiny
    ratio: Array = ((values - without) ** 2 - (values - with_it) ** 2) / (2.0 * variance)
    return ratio
