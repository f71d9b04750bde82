"""Secure aggregation in the engine: what a client adds to the masked sum, and what the server makes of it.

A client's part of the sum, the weighted update with the weight and the metrics, becomes one vector of integers with public ranges
(:mod:`metabayfl.privacy.secure_aggregation.fixed_point`). Integers add up to the same sum in any order and on any machine, so a simulation sees to
the bit what a deployment sees. The ranges are public and hold by construction: updates are clipped to ``clip`` before, and how many were is part of
the sum; more samples than ``most_samples`` are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import random, tree, wire
from metabayfl.aggregators import Combine
from metabayfl.errors import ConfigError
from metabayfl.privacy import clipping
from metabayfl.types import Aggregate, Guard, Key, Message, Tree

if TYPE_CHECKING:
    from metabayfl.privacy.secure_aggregation import Encoding


@dataclass(frozen=True)
class SecureOptions:
    """How a cohort's messages are summed so that the server sees their sum alone.

    Attributes:
        clip: an update with a larger Euclidean norm is scaled down to it; with ``privacy``, its ``clip`` counts instead. The share of clipped updates
            is part of the sum and is reported as ``clipped``: where it is high, raise this.
        bits: of one number's code. Each more halves the rounding, and costs every client a bit a number.
        most_samples: the most examples that a client may count.
        most_loss: metrics beyond this, an example, count as this.
        masks: ``False`` adds the same integers without masks, in simulation alone: the sum is the same to the bit.
        colluding: assumed share of the cohort that colludes with the server.
        dropouts: assumed share of the cohort that falls silent during a round.
    """

    clip: float = 10.0
    bits: int = 24
    most_samples: int = 4096
    most_loss: float = 100.0
    masks: bool = True
    colluding: float = 0.1
    dropouts: float = 0.3

    def __post_init__(self) -> None:
        for name in ("clip", "most_loss"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"secure.{name} is {getattr(self, name)}, expected a number above 0")
        if not 8 <= self.bits <= 32:
            raise ConfigError(f"secure.bits is {self.bits}, expected 8 to 32")
        if not 1 <= self.most_samples <= 2 ** (self.bits - 2):
            raise ConfigError(f"secure.most_samples is {self.most_samples}, expected 1 to {2 ** (self.bits - 2)} with {self.bits} bits")


class Noise(NamedTuple):
    """Every client's share of a privacy noise, added to its integers."""

    step: float  # the grid that the noise lives on
    share: Callable[[Key], NDArray[np.int64]]  # the client's key -> (D,) in steps of the update
    headroom: int  # the most that a share reaches


class Secure(NamedTuple):
    """Secure aggregation as one run has it."""

    options: SecureOptions
    clip: float
    exact: bool = False  # updates are cut to the grid towards zero, so that rounding cannot lengthen them
    noise: Noise | None = None


def check(combine: Combine) -> None:
    """Refuse a combine that must see every client's update."""
    if combine.needs != "sum":
        raise ConfigError(f"secure aggregation shows the server a sum alone, and {combine.name} needs each update: take a mean or geometric_median")


def bound(secure: Secure) -> Guard:
    """The guard that keeps updates in range: clipped to the norm ``clip``, with a metric ``clipped`` that counts."""

    def client(state: Tree, message: Message, key: Key) -> Message:
        over = clipping.norm(message.update) > secure.clip
        metrics = {**message.metrics, "clipped": over.to(message.weight.dtype)}
        return message._replace(update=clipping.clip(message.update, secure.clip), metrics=metrics)

    def server(state: Tree, aggregate: Aggregate, key: Key) -> tuple[Tree, Aggregate]:
        return state, aggregate

    return Guard("bound", lambda meta: {}, client, server)


def vector(secure: Secure, combine: Combine, message: Message, key: Key, cohort: int) -> NDArray[np.uint64]:
    """What one client adds to the sum, modulo ``2^b``: uint64 ``(L,)``.

    Args:
        secure: of the run.
        combine: of this pass; needs sums alone.
        message: the client's, with a leading axis of 1, after the guards.
        key: the client's of this round.
        cohort: the most clients that are summed.

    Raises:
        ConfigError: if the client counts more than ``most_samples``.
    """
    from metabayfl.privacy.secure_aggregation import fixed_point  # needs the extra "privacy"

    if float(message.weight) > secure.options.most_samples:
        brought = f"a client brings {float(message.weight):g} samples, and secure.most_samples is {secure.options.most_samples}"
        raise ConfigError(f"{brought}: raise it, or set task_samples")

    part = _limited(secure, combine.partial(message))
    how = encoding(secure, combine, part, cohort)
    count = fixed_point.length(how)
    on_grid = secure.exact or secure.noise is not None
    uniform = np.full(count, 0.5) if on_grid else random.uniform(random.fold(key, "secure"), (count,), torch.float64).numpy()
    return fixed_point.encode(how, part, uniform, None if secure.noise is None else _beside(secure.noise.share(key), part))


def encoding(secure: Secure, combine: Combine, part: Tree, cohort: int) -> Encoding:
    """How parts like ``part`` become vectors; the same at both ends, since nothing in it depends on anybody's data."""
    from metabayfl.privacy.secure_aggregation import fixed_point

    headroom = 0 if secure.noise is None else secure.noise.headroom
    return fixed_point.encoding(part, _ranges(secure, combine, part), bits=secure.options.bits, cohort=cohort, noise=headroom)


def total(secure: Secure, combine: Combine, stacks: Iterable[tuple[Message, Tensor]]) -> Tree:
    """The sum of the clients' parts as a server under secure aggregation learns it, from stacks of messages and keys ``(C,)``."""
    from metabayfl.privacy.secure_aggregation import fixed_point, secure_sum

    each = [single for messages, keys in stacks for single in _singles(messages, keys)]
    vectors = {str(place): vector(secure, combine, message, key, len(each)) for place, (message, key) in enumerate(each)}
    part = combine.partial(each[0][0])
    how, options = encoding(secure, combine, part, len(each)), secure.options
    bits = fixed_point.modulus_bits(how)
    if options.masks and len(each) > 1:
        summed = secure_sum(vectors, bits, colluding=options.colluding, dropouts=options.dropouts).total
    else:
        summed = np.add.reduce(list(vectors.values())) & np.uint64(2**bits - 1)
    return fixed_point.decode(how, summed, part)


def _singles(messages: Message, keys: Tensor) -> Iterator[tuple[Message, Key]]:
    """One client after the other, with a leading axis of 1."""
    for row in range(len(keys)):
        own = slice(row, row + 1)
        metrics = {name: value[own] for name, value in messages.metrics.items()}
        yield Message(tree.map(lambda leaf, own=own: leaf[own], messages.update), messages.weight[own], metrics), keys[row]


def _limited(secure: Secure, part: Tree) -> Tree:
    """Metrics only inform: one that is beyond its range counts as the range's end. Updates that must not become longer are cut towards zero."""
    most = secure.options.most_samples * secure.options.most_loss
    metrics = tree.map(lambda leaf: torch.nan_to_num(leaf).clamp(-most, most), part["metrics"])
    if not secure.exact:
        return {**part, "metrics": metrics}
    step = _step(secure.clip, secure.options.bits)
    return {**part, "metrics": metrics, "update": tree.map(lambda leaf: torch.trunc(leaf.double() / step) * step, part["update"])}


def _ranges(secure: Secure, combine: Combine, part: Tree) -> dict[str, float]:
    """The public range of every group of a part, in steps of powers of two, so that whole numbers are exact."""
    options = secure.options
    most = float(combine.weights(torch.tensor([float(options.most_samples)], dtype=torch.float64)))
    reach = {"update": most * secure.clip, "weight": most, "metrics": options.most_samples * options.most_loss}
    reach |= combine.reach(most) if combine.reach else {}
    steps = {name: _step(reach[name], options.bits) for name, value in part.items() if not isinstance(value, dict) or tree.leaves(value)}
    if secure.noise is not None:
        steps["update"] = secure.noise.step
    return {name: step * _levels(options.bits) for name, step in steps.items()}


def _step(reach: float, bits: int) -> float:
    """The least power of two with which codes of so many bits reach so far."""
    return float(2.0 ** math.ceil(math.log2(reach / _levels(bits))))


def _levels(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)


def _beside(noise: NDArray[np.int64], part: Tree) -> NDArray[np.int64]:
    """Noise for the update's numbers, in the order of the vector, and none for the others."""
    owners = [(path.startswith("update" + tree.SEPARATOR), leaf.numel()) for path, leaf in wire.ordered(part).items()]
    noisy = np.repeat(*(np.array(column) for column in zip(*owners, strict=True)))
    out = np.zeros(len(noisy), np.int64)
    out[noisy] = noise
    return out
