"""A client's own cases with known answers: its samples, each predicted by a model that was built without it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from metabayfl import random
from metabayfl.types import Algorithm, Batch, ClassPrediction, Key, Prediction, RegressionPrediction, Tree

FOLDS = 5
"""A client's own cases are predicted in so many folds, each from the others."""


class Cases(NamedTuple):
    """Predicted cases whose answer is known."""

    conformity: Tensor  # (N, A) in [0, 1], low where the answer was strange
    truth: Tensor  # (N,) int64 class; zeros in regression
    uncertainty: Tensor  # (N,) total; the mean over standardised targets in regression
    epistemic: Tensor  # (N,) likewise
    wrong: Tensor  # (N,) 1 where the most probable class was not the truth; zeros in regression


def score(prediction: Prediction) -> Tensor:
    """Total uncertainty as one number a case, ``(N,)``: what referral goes by."""
    return prediction.total if isinstance(prediction, ClassPrediction) else prediction.total.mean(-1)


def strangeness(prediction: Prediction) -> Tensor:
    """Epistemic uncertainty as one number a case, ``(N,)``: what novelty goes by. A density of the features is no such score (method, section 1)."""
    return prediction.epistemic if isinstance(prediction, ClassPrediction) else prediction.epistemic.mean(-1)


def judge(prediction: Prediction, y: Tensor) -> Cases:
    """Judge predictions of known answers.

    Args:
        prediction: of ``N`` cases.
        y: ``(N,)`` classes or ``(N, R)`` standardised targets.
    """
    prediction, y = type(prediction)(*(field.cpu() for field in prediction)), y.cpu()
    if isinstance(prediction, ClassPrediction):
        given = torch.gather(prediction.probs, -1, y.unsqueeze(-1))
        wrong = (prediction.probs.argmax(-1) != y).to(given.dtype)
        return Cases(given, y, score(prediction), strangeness(prediction), wrong)
    nothing = torch.zeros(len(y), dtype=torch.int64)
    return Cases(tails(prediction, y), nothing, score(prediction), strangeness(prediction), torch.zeros(len(y)))


def tails(prediction: RegressionPrediction, y: Tensor) -> Tensor:
    """The probability, in both tails together, of targets stranger than these, ``(N, R)``: 1 at the mean, near 0 far out."""
    z = ((y - prediction.mean) / prediction.scale).abs().double().numpy()
    dof = prediction.dof.double().numpy()
    finite = np.isfinite(dof)
    student = special.stdtr(np.where(finite, dof, 1.0), -z)
    return torch.from_numpy(2.0 * np.where(finite, student, special.ndtr(-z)))


def cross_fit(algorithm: Algorithm, received: Tree, batch: Batch, key: Key) -> Cases:
    """A client's own samples, each predicted by the posterior of the folds that it is not in.

    Args:
        algorithm: what the client personalises with.
        received: the strategy as a client has it.
        batch: the support ``(N, ...)``, without padding.
        key: deals the samples to folds, and seeds what the algorithm draws.

    Returns:
        The ``N`` cases in the order of the batch; none where there is but one sample.
    """
    count = len(batch.mask)
    fold = folds(batch.y.cpu(), batch.mask.cpu(), key)
    masks = (fold != torch.arange(min(FOLDS, count)).unsqueeze(-1)).to(batch.mask)
    with torch.no_grad():
        every = _in_folds(algorithm, received, batch, masks, key)
    own = type(every)(*(field.cpu()[fold, torch.arange(count)] for field in every))
    found = judge(own, batch.y)
    return found if count > 1 else Cases(*(field[:0] for field in found))


def folds(y: Tensor, mask: Tensor, key: Key) -> Tensor:
    """The fold of every sample, ``(N,)``: dealt in random order, one class after the other, so that each fold has its share of every class.

    Dealt without regard to class, a fold's posterior would have seen too little of just those classes that its fold has much of, and a client's own
    cases would look stranger than new ones. As if only samples with mask 1 were there, wherever the others stand.

    Args:
        y: ``(N,)`` classes or ``(N, R)`` targets.
        mask: ``(N,)``.
        key: as :func:`cross_fit` has it.
    """
    order = random.permutation(random.fold(key, "folds"), mask)
    label = torch.zeros_like(order) if y.is_floating_point() else y
    place = label[order] * order.shape[0] + torch.arange(order.shape[0], device=order.device)
    dealt = order[torch.argsort(torch.where(mask[order] > 0, place, torch.iinfo(torch.int64).max))]
    return torch.argsort(dealt) % mask.sum().long().clamp(1, FOLDS)


def _in_folds(algorithm: Algorithm, received: Tree, batch: Batch, masks: Tensor, key: Key) -> Prediction:
    """Every sample as predicted by the posterior of each fold's mask ``(F, N)``; fields ``(F, N, ...)``."""

    def one(mask: Tensor) -> Prediction:
        posterior = algorithm.adapt(received, Batch(batch.x, batch.y, batch.mask * mask), random.fold(key, "adapt"))
        return algorithm.predict(posterior, batch.x, random.fold(key, "predict"))

    out: Prediction = torch.func.vmap(one)(masks)
    return out
