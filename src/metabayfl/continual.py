"""How a personal model lives on: more samples, a past that may fade, and an eye on whether the client has changed.

Every function is pure and takes the algorithm with its trees; :class:`metabayfl.personal.PersonalModel` keeps the results together.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch

from metabayfl import random
from metabayfl.change_point import Change, follow, rings
from metabayfl.data.schema import Schema
from metabayfl.errors import ConfigError
from metabayfl.heads.forgetting import RETENTIONS
from metabayfl.types import Algorithm, Batch, Key, Prepared, Tree

Forgetting: TypeAlias = Literal["evidence"] | float | None
"""None: every sample counts for ever. A number: the retention. ``evidence``: the best of the grid on the client's own stream."""


def retentions(algorithm: Algorithm, forgetting: Forgetting) -> tuple[float, ...] | None:
    """The grid that a wish for forgetting stands for; None for none.

    Raises:
        ConfigError: if it is none of the three forms, or the algorithm has no posterior that can forget.
    """
    if forgetting is None:
        return None
    if algorithm.forget is None:
        raise ConfigError(f"{algorithm.name} has no posterior in closed form that could forget: use meta_bayfl, or personalise on recent samples")
    if forgetting == "evidence":
        return RETENTIONS
    if isinstance(forgetting, bool) or not isinstance(forgetting, (int, float)) or not (math.isfinite(forgetting) and 0 < forgetting <= 1):
        raise ConfigError(f"forgetting {forgetting!r}: expected 'evidence', None, or a retention above 0 and at most 1")
    return (float(forgetting),)


def adapt(algorithm: Algorithm, received: Tree, samples: Batch, key: Key) -> Tree:
    """The posterior of samples, from the strategy as a client has it; ``key`` is the client's."""
    with torch.no_grad():
        return algorithm.adapt(received, samples, random.fold(key, "adapt"))


def grow(algorithm: Algorithm, received: Tree, posterior: Tree, samples: Batch, new: int, forgetting: Forgetting, key: Key) -> tuple[Tree, Batch]:
    """The posterior after more samples, and all the samples with their weights as the mask.

    Args:
        algorithm: that the posterior belongs to.
        received: the strategy as a client has it.
        posterior: of all samples but the new ones.
        samples: all of them, encoded, the oldest first, without padding.
        new: how many of them are new, the latest ones.
        forgetting: whether and how the past fades.
        key: the client's, for an algorithm that has to adapt again.

    Raises:
        ConfigError: as :func:`retentions`.
    """
    grid, latest = retentions(algorithm, forgetting), Batch(*(part[len(part) - new :] for part in samples))
    if grid is not None and algorithm.forget is not None:
        with torch.no_grad():
            faded = algorithm.forget(posterior, latest, grid)
        return faded, samples._replace(mask=faded["memory"]["mask"])
    if algorithm.update is None:
        return adapt(algorithm, received, samples, key), samples
    with torch.no_grad():
        return algorithm.update(posterior, latest), samples


def retention(samples: Batch) -> float:
    """The ``lambda`` that the weights of samples follow, the oldest first; 1 for a single one, which nothing has followed."""
    return round(float(samples.mask[-2]), 6) if len(samples.mask) > 1 else 1.0  # the number that was asked for, not its float32


def watch(change: Change, personal: Prepared, baseline: Prepared, new: Batch) -> Change:
    """The detector after labelled samples that the personal posterior has not seen, see :mod:`metabayfl.change_point`.

    Args:
        change: before them.
        personal: the client's posterior, made ready.
        baseline: what the strategy makes of a client without any sample, made ready.
        new: encoded, in the order in which they came.
    """
    with torch.no_grad():
        own, other = (ready.answer(ready.constants, new.x) for ready in (personal, baseline))
    return follow(change, own, other, new.y)


def since(change: Change, count: int, keep: int | None) -> int:
    """How many of a client's latest ``count`` samples to keep at a restart.

    Args:
        change: the detector.
        count: of all samples.
        keep: a wish; None means those from the likeliest start of the change on.

    Raises:
        ConfigError: if the wish cannot be met, or there is none and no alarm either.
    """
    if keep is None and not rings(change):
        raise ConfigError("there is no alarm, so that nothing says what to keep: give keep=, how many of the latest samples")
    wanted = change.cases - change.start if keep is None else keep
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= count:
        raise ConfigError(f"keep {wanted!r}: expected a whole number of samples from 1 to {count}")
    return wanted


def nobody(schema: Schema) -> Batch:
    """A batch of one padded row, for a client that has no sample."""
    y = torch.zeros(1, dtype=torch.int64) if schema.kind == "classification" else torch.zeros(1, schema.outputs)
    return Batch(torch.zeros(1, *schema.input_shape), y, torch.zeros(1))
