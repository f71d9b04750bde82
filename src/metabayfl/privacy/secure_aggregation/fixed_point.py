"""Trees of real numbers as integers modulo ``2^b``, so that their sum over a cohort is exact and cannot overflow.

A leaf has a public range ``R``: its numbers lie in ``[-R, R]``, which clipping before ensures, or are refused. They become codes from ``-Q`` to
``Q`` with ``Q = 2^(bits - 1) - 1``, so a code stands for ``step = R / Q``. With ``noise`` the largest noise that one client may add, no sum over
``cohort`` clients exceeds ``cohort (Q + noise)``, and ``b`` is the smallest number of bits for that: without noise at most
``bits + ceil(log2 cohort)``.

Stochastic rounding, ``floor(x / step + u)`` with ``u`` uniform on ``[0, 1)``, is off by less than a step and by zero on average. The sum of ``C``
clients is off by less than ``C step``, with a standard error of at most ``sqrt(C) step / 2``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import tree, wire
from metabayfl.errors import ArtifactError, ConfigError
from metabayfl.privacy.secure_aggregation import packing
from metabayfl.types import Tree

LARGEST_BITS = 32
"""Of a code: beyond it float64 could not tell the codes of a sum apart."""


class Encoding(NamedTuple):
    """How a tree becomes a vector; both ends must have the same one (:func:`digest`)."""

    paths: tuple[str, ...]  # of the leaves, in the order in which they stand in the vector
    shapes: tuple[tuple[int, ...], ...]
    ranges: tuple[float, ...]  # R of each leaf
    bits: int  # of a code
    cohort: int  # the most clients that are summed
    noise: int  # the largest noise of one client, in steps


class Error(NamedTuple):
    """What stochastic rounding does to a number of the sum, in the number's own unit."""

    worst: float  # the error is less than this
    standard: float  # its standard deviation is at most this


def encoding(template: Tree, ranges: Mapping[str, float], *, bits: int, cohort: int, noise: int = 0) -> Encoding:
    """The encoding of trees like ``template``.

    Args:
        template: names and shapes.
        ranges: ``R`` by path; a group's holds for all leaves under it that have none of their own. :func:`levels` makes the step 1, so that whole
            numbers, such as weights, are exact.
        bits: of a code, from 2 to 32; ``2^bits - 1`` levels.
        cohort: the most clients that will be summed.
        noise: headroom for noise that a client adds, in steps.

    Raises:
        ConfigError: if a leaf has no range, a range no leaf, or the sum needs more than 64 bits.

    Example:
        >>> how = encoding({"z": torch.zeros(3), "weight": torch.zeros(())}, {"z": 0.5, "weight": levels(16)}, bits=16, cohort=100)
        >>> modulus_bits(how), length(how)
        (23, 4)
    """
    leaves = wire.ordered(template)
    found = tuple(_range(path, ranges) for path in leaves)
    unused = [name for name in ranges if not any(path == name or path.startswith(name + tree.SEPARATOR) for path in leaves)]
    if unused:
        raise ConfigError(f"ranges for {unused}, and no such block is sent: expected paths among {sorted(leaves)}")
    if not (2 <= bits <= LARGEST_BITS and cohort >= 1 and noise >= 0):
        raise ConfigError(
            f"bits = {bits}, cohort = {cohort}, noise = {noise}: expected 2 to {LARGEST_BITS} bits, a client at least and no negative noise"
        )
    how = Encoding(tuple(leaves), tuple(tuple(leaf.shape) for leaf in leaves.values()), found, bits, cohort, noise)
    if modulus_bits(how) > packing.WORD:
        raise ConfigError(
            f"{cohort} clients with {bits} bits and noise up to {noise} need {modulus_bits(how)} bits: the most is {packing.WORD}, take fewer"
        )
    return how


def levels(bits: int) -> int:
    """``Q``: the largest code, and the range with which the step is 1."""
    return (1 << (bits - 1)) - 1


def modulus_bits(how: Encoding) -> int:
    """``b``: the smallest with ``2^b > 2 cohort (Q + noise)``, so that every sum and its sign fit."""
    return (2 * _reach(how)).bit_length()


def length(how: Encoding) -> int:
    """``L``: numbers in the vector."""
    return sum(_sizes(how))


def digest(how: Encoding) -> bytes:
    """32 bytes that agree where encodings do."""
    return hashlib.sha256(repr(tuple(how)).encode()).digest()


def encode(how: Encoding, value: Tree, uniform: NDArray[np.float64], noise: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
    """A tree as a vector of integers modulo ``2^b``.

    Args:
        how: the encoding.
        value: finite numbers in the template's shapes.
        uniform: ``(L,)`` in ``[0, 1)``, for the rounding.
        noise: ``(L,)`` in steps, added before the reduction.

    Returns:
        uint64 ``(L,)``, what :func:`.session.secure_sum` takes.

    Raises:
        ArtifactError: if a number is NaN or out of its block's range, if noise is beyond its headroom, or the tree is another one.
    """
    leaves = wire.ordered(value)
    if tuple(leaves) != how.paths or tuple(tuple(leaf.shape) for leaf in leaves.values()) != how.shapes:
        raise ArtifactError(f"the tree has blocks {_shown(leaves)}, which is not what was agreed on: both ends must have one model and configuration")
    for (path, leaf), reach in zip(leaves.items(), how.ranges, strict=True):
        _require_range(path, leaf, reach)
    scaled = np.concatenate([_numbers(leaf) * (levels(how.bits) / reach) for leaf, reach in zip(leaves.values(), how.ranges, strict=True)])
    if uniform.shape != scaled.shape or not ((uniform >= 0) & (uniform < 1)).all():
        raise ConfigError(f"uniform numbers {list(uniform.shape)}, expected [{len(scaled)}] from 0 below 1")
    codes = np.clip(np.floor(scaled + uniform), -levels(how.bits), levels(how.bits)).astype(np.int64)  # the division may round up at the range's end
    return (codes + _checked(how, noise)).view(np.uint64) & packing.largest(modulus_bits(how))


def decode(how: Encoding, total: NDArray[np.uint64], template: Tree) -> Tree:
    """The sum of encoded trees as a tree in the types of ``template``; the arithmetic is float64's.

    Raises:
        ArtifactError: if the sum is beyond what the cohort can reach: a client did not keep to its range.
    """
    bits = modulus_bits(how)
    shift = np.uint64(packing.WORD - bits)
    codes = (total << shift).view(np.int64) >> np.int64(packing.WORD - bits)  # the highest of the b bits is the sign
    if total.shape != (length(how),) or _largest(codes) > _reach(how):
        raise ArtifactError(
            f"the sum {list(total.shape)} reaches {_largest(codes)}, expected [{length(how)}] up to {_reach(how)}: a client broke the encoding"
        )
    parts = np.split(codes.astype(np.float64), np.cumsum(_sizes(how))[:-1])
    found = {path: torch.from_numpy(part * (reach / levels(how.bits))) for path, part, reach in zip(how.paths, parts, how.ranges, strict=True)}
    paths = tree.paths(template)
    return tree.map(lambda leaf: _typed(found[next(paths)], leaf), template)


def errors(how: Encoding, clients: int) -> dict[str, Error]:
    """The error of a sum over ``clients``, by path: ``clients step`` at worst, ``sqrt(clients) step / 2`` at most as a standard deviation.

    Example:
        >>> how = encoding({"z": torch.zeros(3)}, {"z": 127.0}, bits=8, cohort=16)
        >>> errors(how, 16)["z"]
        Error(worst=16.0, standard=2.0)
    """
    steps = {path: reach / levels(how.bits) for path, reach in zip(how.paths, how.ranges, strict=True)}
    return {path: Error(clients * step, clients**0.5 * step / 2) for path, step in steps.items()}


def _range(path: str, ranges: Mapping[str, float]) -> float:
    """The range of the longest name that the path begins with."""
    words = path.split(tree.SEPARATOR)
    names = [tree.SEPARATOR.join(words[:count]) for count in range(len(words), 0, -1)]
    given = next((float(ranges[name]) for name in names if name in ranges), None)
    if given is None or not 0 < given < float("inf"):
        raise ConfigError(f"the block {path!r} has the range {given}: give a finite positive one, for it or for a group above it")
    return given


def _reach(how: Encoding) -> int:
    return how.cohort * (levels(how.bits) + how.noise)


def _sizes(how: Encoding) -> list[int]:
    return [int(np.prod(shape)) for shape in how.shapes]


def _shown(leaves: dict[str, Tensor]) -> str:
    return ", ".join(f"{path} {list(leaf.shape)}" for path, leaf in leaves.items())


def _numbers(leaf: Tensor) -> NDArray[np.float64]:
    return leaf.detach().cpu().to(torch.float64).numpy().reshape(-1)


def _require_range(path: str, leaf: Tensor, reach: float) -> None:
    largest = float(leaf.detach().to(torch.float64).abs().amax()) if leaf.numel() else 0.0
    if not largest <= reach:  # NaN is not either
        raise ArtifactError(
            f"the block {path!r} reaches {largest:g}, and its public range is {reach:g}: nothing was sent; clip it, or agree on a wider range"
        )


def _checked(how: Encoding, noise: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if noise is None:
        return np.zeros(length(how), np.int64)
    if noise.shape != (length(how),) or _largest(noise) > how.noise:
        raise ArtifactError(
            f"noise {list(noise.shape)} up to {_largest(noise)}, expected [{length(how)}] up to {how.noise}: agree on more headroom for it"
        )
    return noise


def _largest(numbers: NDArray[np.int64]) -> int:
    """The largest magnitude; NumPy's ``abs`` gives back ``-2^63`` for itself."""
    return max(int(numbers.max(initial=0)), -int(numbers.min(initial=0)))


def _typed(numbers: Tensor, like: Tensor) -> Tensor:
    shaped = numbers.view(like.shape)
    return (shaped if like.is_floating_point() else shaped.round()).to(like)
