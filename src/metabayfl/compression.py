"""Codecs: how trees of numbers travel between server and clients.

Every lossy codec rounds to the nearest level without a key (the strategy, on its way down) and at random with a key, so that the mean over keys
is the number itself (updates, on their way up: their errors cancel in the sum). ``round_trip`` gives exactly the numbers that
``decode(encode(...))`` gives, under ``torch.func.vmap`` too, so a simulation sees what a deployment sees. Integer leaves travel as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metabayfl import random, tree, wire
from metabayfl.errors import ArtifactError
from metabayfl.types import Codec, Key, Tree

LARGEST = 3e38
"""No number beyond it travels through a lossy codec: its rounded value could be infinite in float32."""

_TINY = torch.finfo(torch.float32).tiny


class _Form(NamedTuple):
    """One leaf on the wire; ``size`` and ``unpack`` take a leaf of the template for its shape and type."""

    size: Callable[[Tensor], int]
    rounded: Callable[[Tensor, Key | None], Tensor]
    pack: Callable[[Tensor, Key | None], bytes]
    unpack: Callable[[bytes, Tensor], Tensor]


_RAW = _Form(
    size=lambda like: like.numel() * like.element_size(),
    rounded=lambda leaf, key: leaf,
    pack=lambda leaf, key: wire.raw_bytes(leaf),
    unpack=wire.from_raw,
)


def _working(leaf: Tensor) -> Tensor:
    """Half precision is computed in single precision."""
    return leaf if leaf.dtype == torch.float64 else leaf.to(torch.float32)


def _scale(leaf: Tensor, levels: int) -> Tensor:
    """``max|x| / levels`` in float32, rounded up to 16 significant bits, shape ``()``.

    With so short a scale every ``code * scale`` is exact in float32. Hence decoding gives the same bits everywhere, and what was rounded to the
    nearest level once stays as it is when it is rounded again. Below the smallest normal number the scale is 0, and so is every value.
    """
    largest = leaf.abs().amax() if leaf.numel() else leaf.new_zeros(())
    bits = (largest.to(torch.float32) / levels).view(torch.int32)
    scale = ((bits + 0xFF) & ~0xFF).view(torch.float32)
    return torch.where(scale < _TINY, torch.zeros_like(scale), scale)


def quantise(leaf: Tensor, levels: int, key: Key | None) -> tuple[Tensor, Tensor]:
    """Integer codes and their scale, so that ``leaf ≈ codes * scale``.

    Args:
        leaf: floating-point numbers of any shape.
        levels: the largest code, 127 for eight bits and 7 for four.
        key: None rounds to nearest; a key rounds up with the probability of the fraction, which is unbiased (QSGD, Alistarh et al. 2017,
            section 3.1, with the maximum in place of the norm).

    Returns:
        ``codes`` int8 in the shape of ``leaf``, ``scale`` float32 of shape ``()``.

    Example:
        >>> codes, scale = quantise(torch.tensor([-1.27, 0.5, 0.004]), 127, None)
        >>> codes.tolist(), round(float(scale), 6)
        ([-127, 50, 0], 0.01)
    """
    numbers, scale = _working(leaf), _scale(leaf, levels)
    ratio = numbers / torch.where(scale > 0, scale, torch.ones_like(scale)).to(numbers.dtype)
    if key is None:
        codes = torch.round(ratio)
    else:
        below = torch.floor(ratio)
        codes = below + (random.uniform(key, tuple(leaf.shape), numbers.dtype) < ratio - below)
    return (torch.clamp(codes, -levels, levels) * (scale > 0)).to(torch.int8), scale


def restore(codes: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """``codes * scale`` in ``dtype``: the inverse of :func:`quantise` up to the rounding."""
    working = torch.float64 if dtype == torch.float64 else torch.float32
    return (codes.to(working) * scale.to(working)).to(dtype)


def _scaled(levels: int) -> _Form:
    base = 2 * levels + 1

    def rounded(leaf: Tensor, key: Key | None) -> Tensor:
        return restore(*quantise(leaf, levels, key), leaf.dtype)

    def pack(leaf: Tensor, key: Key | None) -> bytes:
        codes, scale = quantise(leaf, levels, key)
        return wire.raw_bytes(scale) + wire.pack(codes, base)

    def unpack(data: bytes, like: Tensor) -> Tensor:
        scale = wire.from_raw(data[:4], torch.empty((), dtype=torch.float32))
        if not 0 <= float(scale) * levels <= LARGEST * 1.001:
            raise ArtifactError(f"the scale of a block is {float(scale)}: the message was altered; send it again")
        codes = torch.from_numpy(wire.unpack(data[4:], base, like.numel()).astype(np.int8)).view(like.shape)
        return restore(codes, scale, like.dtype).to(like.device)

    return _Form(lambda like: 4 + wire.packed_bytes(like.numel(), base), rounded, pack, unpack)


def _brain(leaf: Tensor, key: Key | None) -> Tensor:
    """The nearest bfloat16, or with a key one of its two neighbours: 16 random bits are added before the low 16 are cut off."""
    if key is None:
        return leaf.to(torch.bfloat16)
    noise = (random.bits(key, tuple(leaf.shape)) & 0xFFFF).to(torch.int32)
    return ((leaf.to(torch.float32).view(torch.int32) + noise) & ~0xFFFF).view(torch.float32).to(torch.bfloat16)


def _unpack_brain(data: bytes, like: Tensor) -> Tensor:
    numbers = wire.from_raw(data, torch.empty(like.shape, dtype=torch.bfloat16)).to(like)
    if not torch.isfinite(numbers).all():
        raise ArtifactError("a block holds NaN or infinite numbers: the message was altered; send it again")
    return numbers


_BRAIN = _Form(
    size=lambda like: 2 * like.numel(),
    rounded=lambda leaf, key: _brain(leaf, key).to(leaf.dtype),
    pack=lambda leaf, key: wire.raw_bytes(_brain(leaf, key)),
    unpack=_unpack_brain,
)


def _require_finite(path: str, leaf: Tensor) -> None:
    if leaf.numel() and not leaf.abs().amax().item() <= LARGEST:
        raise ArtifactError(f"{path!r} holds NaN, infinite or larger numbers than {LARGEST:g}, so it cannot be sent: lower the learning rate")


def _codec(number: int, name: str, form: _Form) -> Codec:
    """A codec that sends floating-point leaves in ``form`` and all others raw."""

    def chosen(leaf: Tensor) -> _Form:
        return form if leaf.is_floating_point() else _RAW

    def key_of(path: str, key: Key | None) -> Key | None:
        return None if key is None else random.fold(key, path)

    def round_trip(value: Tree, key: Key | None) -> Tree:
        paths = tree.paths(value)
        return tree.map(lambda leaf: chosen(leaf).rounded(leaf, key_of(next(paths), key)), value)

    def encode(value: Tree, key: Key | None) -> bytes:
        parts: list[bytes] = []
        for path, leaf in wire.ordered(value).items():
            if chosen(leaf) is not _RAW:
                _require_finite(path, leaf)
            parts.append(chosen(leaf).pack(leaf, key_of(path, key)))
        return wire.seal(number, value, b"".join(parts))

    def decode(data: bytes, template: Tree) -> Tree:
        leaves = wire.ordered(template)
        sizes = [chosen(leaf).size(leaf) for leaf in leaves.values()]
        payload = wire.unseal(data, number, template, sum(sizes))
        found: dict[str, Tensor] = {}
        start = 0
        for (path, leaf), size in zip(leaves.items(), sizes, strict=True):
            found[path] = chosen(leaf).unpack(payload[start : start + size], leaf)
            start += size
        paths = tree.paths(template)
        return tree.map(lambda leaf: found[next(paths)], template)

    return Codec(name, round_trip, encode, decode)


@functools.cache
def exact() -> Codec:
    """Every number as it is."""
    return _codec(0, "exact", _RAW)


@functools.cache
def bfloat16() -> Codec:
    """Two bytes a number: eight significant bits, any magnitude."""
    return _codec(1, "bfloat16", _BRAIN)


@functools.cache
def int8() -> Codec:
    """One byte a number and four bytes a leaf: codes from -127 to 127 times one scale per leaf.

    Example:
        >>> len(int8().encode({"z": torch.linspace(-1, 1, 7000)}, None))
        7013
    """
    return _codec(2, "int8", _scaled(127))


@functools.cache
def int4() -> Codec:
    """Half a byte a number: codes from -7 to 7, two a byte."""
    return _codec(3, "int4", _scaled(7))


@functools.cache
def ternary() -> Codec:
    """A fifth of a byte a number: -1, 0 or 1 times the largest magnitude, five a byte (TernGrad, Wen et al. 2017, equation 3)."""
    return _codec(4, "ternary", _scaled(1))


CODECS: dict[str, Callable[[], Codec]] = {"exact": exact, "bfloat16": bfloat16, "int8": int8, "int4": int4, "ternary": ternary}
"""Codecs by name."""
