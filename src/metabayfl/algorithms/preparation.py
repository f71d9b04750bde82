"""A posterior made ready to answer many times, for every algorithm alike."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl.types import Algorithm, Key, Prediction, Prepared, Tree


def prepare(algorithm: Algorithm, posterior: Tree, key: Key) -> Prepared:
    """What answers as ``algorithm.predict(posterior, x, key)`` does, to the bit, with all that does not depend on ``x`` done once.

    Args:
        algorithm: that the posterior belongs to.
        posterior: from ``adapt`` or ``update``.
        key: of the draws, where the algorithm draws.
    """
    if algorithm.prepare is not None:
        with torch.no_grad():
            return algorithm.prepare(posterior, key)

    def answer(constants: Tree, x: Tensor) -> Prediction:
        return algorithm.predict(constants, x, key)

    return Prepared(posterior, answer)
