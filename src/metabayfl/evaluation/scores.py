"""What evaluation keeps of every held-out client, and which examples count as "of a class that the client never saw"."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from metabayfl import random
from metabayfl.errors import DataError
from metabayfl.types import Key, Kind

Array = NDArray[np.float64]
Classes = NDArray[np.int64]


class ClassScores(NamedTuple):
    """One held-out client's class predictions on its ``N`` test samples and on ``U`` samples of classes that its support lacks."""

    client: str
    support: int  # samples that it adapted on
    seen: NDArray[np.bool_]  # (K,) which classes the support holds
    y: Classes  # (N,)
    probs: Array  # (N, K)
    total: Array  # (N,) nats, as are the next two
    aleatoric: Array  # (N,)
    epistemic: Array  # (N,)
    unseen_total: Array  # (U,)
    unseen_epistemic: Array  # (U,)


class RegressionScores(NamedTuple):
    """One held-out client's Student-t predictives on its ``N`` test samples, in the targets' own units (variances in their squares)."""

    client: str
    support: int
    y: Array  # (N, R)
    mean: Array  # (N, R)
    scale: Array  # (N, R)
    dof: Array  # (N, R)
    total: Array  # (N, R)
    aleatoric: Array  # (N, R)
    epistemic: Array  # (N, R)


ClientScores: TypeAlias = ClassScores | RegressionScores


class HeldOut(NamedTuple):
    """All held-out clients of one algorithm and seed."""

    algorithm: str
    kind: Kind
    labels: tuple[str, ...]  # class names or target names
    clients: tuple[ClientScores, ...]


def class_scores(held: HeldOut) -> list[ClassScores]:
    """The clients of a classification.

    Raises:
        DataError: if they are regression scores.
    """
    out = [scores for scores in held.clients if isinstance(scores, ClassScores)]
    if len(out) != len(held.clients):
        raise DataError(f"the scores of {held.algorithm!r} are of a regression, class predictions were expected: use the regression metrics.")
    return out


def regression_scores(held: HeldOut) -> list[RegressionScores]:
    """The clients of a regression.

    Raises:
        DataError: if they are class predictions.
    """
    out = [scores for scores in held.clients if isinstance(scores, RegressionScores)]
    if len(out) != len(held.clients):
        raise DataError(f"the scores of {held.algorithm!r} are of a classification, regression was expected: use the classification metrics.")
    return out


def has_epistemic(clients: list[ClassScores]) -> bool:
    """Whether the algorithm knows what it does not know; rounding noise in a mutual information of zero does not count."""
    return any(bool((scores.epistemic > 1e-6).any()) for scores in clients)


def novelty(scores: ClassScores, *, epistemic: bool) -> tuple[Array, Array]:
    """The score by which a never-seen class should stand out: of the unseen examples, and of the own test samples whose class was seen."""
    own = scores.epistemic if epistemic else scores.total
    return (scores.unseen_epistemic if epistemic else scores.unseen_total), own[scores.seen[scores.y]]


class Pool(NamedTuple):
    """Test samples of all held-out clients, at most a fixed number of them: the source of unseen-class examples."""

    x: NDArray[np.float32]  # (P, ...)
    y: Classes  # (P,)


def some(key: Key, count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``range(count)``, drawn without replacement, in rising order."""
    if count <= most:
        return np.arange(count)
    order: NDArray[np.int64] = random.permutation(key.cpu(), torch.ones(count)).numpy()[:most]
    return np.sort(order)


def draw_unseen(pool: Pool, seen: NDArray[np.bool_], key: Key, cap: int) -> NDArray[np.float32]:
    """At most ``cap`` inputs of the pool whose class is not ``seen`` ``(K,)``, ``(U, ...)``; the same for every algorithm at one key."""
    candidates = np.flatnonzero(~seen[pool.y])
    chosen: NDArray[np.float32] = pool.x[candidates[some(key, len(candidates), cap)]]
    return chosen
