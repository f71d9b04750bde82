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

LARGEST = 2.0**127
"""No number beyond it travels through a lossy codec: its rounded value could be infinite in float32."""

_TINY = torch.finfo(torch.float32).tiny


class _Form(NamedTuple):
    """Floating-point leaves on the wire. All leaves are rounded in one go: many small operations cost more than the arithmetic."""

    rounded: Callable[[list[Tensor], Key | None], list[Tensor]]
    pack: Callable[[list[Tensor], Key | None], list[bytes]]
    size: Callable[[Tensor], int]  # bytes of a leaf like this one
    unpack: Callable[[bytes, Tensor], Tensor]  # the second argument is a leaf of the template


_RAW = _Form(
    rounded=lambda leaves, key: leaves,
    pack=lambda leaves, key: [wire.raw_bytes(leaf) for leaf in leaves],
    size=lambda like: like.numel() * like.element_size(),
    unpack=wire.from_raw,
)


def _flat(leaves: list[Tensor]) -> Tensor:
    """All numbers in a row; half precision is computed in single precision."""
    double = any(leaf.dtype == torch.float64 for leaf in leaves)
    return torch.cat([leaf.flatten().to(torch.float64 if double else torch.float32) for leaf in leaves])


def _split(flat: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The inverse of :func:`_flat` as to shapes; types stay."""
    return [part.view(leaf.shape) for part, leaf in zip(flat.split_with_sizes([leaf.numel() for leaf in leaves]), leaves, strict=True)]


def _typed(values: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    return [value.to(leaf.dtype) for value, leaf in zip(values, leaves, strict=True)]


def _scales(leaves: list[Tensor], levels: int) -> Tensor:
    """``max|x| / levels`` of each leaf in float32, rounded up to 16 significant bits, shape ``(L,)``.

    With so short a scale every ``code * scale`` is exact in float32. Hence decoding gives the same bits everywhere, and what was rounded to the
    nearest level once stays as it is when it is rounded again. Below the smallest normal number the scale is 0, and so is every value.
    """
    largest = torch.stack([(leaf.abs().amax() if leaf.numel() else leaf.new_zeros(())).to(torch.float32) for leaf in leaves])
    scales = (((largest / levels).view(torch.int32) + 0xFF) & ~0xFF).view(torch.float32)
    return torch.where(scales < _TINY, torch.zeros_like(scales), scales)


def _codes(leaves: list[Tensor], levels: int, key: Key | None) -> tuple[Tensor, Tensor, Tensor]:
    """Codes ``(P,)`` int8 of all numbers in a row, the scales ``(L,)``, and each number's own scale ``(P,)``."""
    numbers, scales = _flat(leaves), _scales(leaves, levels)
    sizes = torch.tensor([leaf.numel() for leaf in leaves], device=numbers.device)
    scale = scales[torch.repeat_interleave(sizes, output_size=len(numbers))]
    ratio = numbers / torch.where(scale > 0, scale, torch.ones_like(scale)).to(numbers.dtype)
    if key is None:
        codes = torch.round(ratio)
    else:
        below = torch.floor(ratio)
        codes = below + (random.uniform(key, tuple(numbers.shape), numbers.dtype) < ratio - below)
    return (torch.clamp(codes, -levels, levels) * (scale > 0)).to(torch.int8), scales, scale


def quantise(leaves: list[Tensor], levels: int, key: Key | None) -> tuple[list[Tensor], Tensor]:
    """Integer codes and a scale for each leaf, so that ``leaf ≈ codes * scale``.

    Args:
        leaves: ``L`` tensors of floating-point numbers, of any shape.
        levels: the largest code, 127 for eight bits and 7 for four.
        key: None rounds to nearest; a key rounds up with the probability of the fraction, which is unbiased (QSGD, Alistarh et al. 2017,
            section 3.1, with the maximum in place of the norm).

    Returns:
        Codes int8 in the shapes of ``leaves``, scales float32 ``(L,)``.

    Example:
        >>> codes, scales = quantise([torch.tensor([-1.27, 0.5, 0.004])], 127, None)
        >>> codes[0].tolist(), round(float(scales[0]), 6)
        ([-127, 50, 0], 0.01)
    """
    if not leaves:
        return [], torch.zeros(0)
    codes, scales, _ = _codes(leaves, levels, key)
    return _split(codes, leaves), scales


def restore(codes: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """``codes * scale`` in ``dtype``: the inverse of :func:`quantise` up to the rounding."""
    return (codes.to(torch.float32) * scale).to(dtype)


def _scaled(levels: int) -> _Form:
    base = 2 * levels + 1

    def rounded(leaves: list[Tensor], key: Key | None) -> list[Tensor]:
        if not leaves:
            return []
        codes, _, scale = _codes(leaves, levels, key)
        return _typed(_split(restore(codes, scale), leaves), leaves)

    def pack(leaves: list[Tensor], key: Key | None) -> list[bytes]:
        codes, scales = quantise(leaves, levels, key)
        return [wire.raw_bytes(scale) + wire.pack(code, base) for code, scale in zip(codes, scales, strict=True)]

    def unpack(data: bytes, like: Tensor) -> Tensor:
        scale = wire.from_raw(data[:4], torch.empty((), dtype=torch.float32))
        if not 0 <= float(scale) * levels <= LARGEST * 1.001:
            raise ArtifactError(f"the scale of a block is {float(scale)}: the message was altered; send it again")
        codes = torch.from_numpy(wire.unpack(data[4:], base, like.numel()).astype(np.int8)).view(like.shape)
        return restore(codes, scale, like.dtype).to(like.device)

    return _Form(rounded, pack, lambda like: 4 + wire.packed_bytes(like.numel(), base), unpack)


def _brain(leaves: list[Tensor], key: Key | None) -> list[Tensor]:
    """The nearest bfloat16, or with a key one of its two neighbours: 16 random bits are added before the low 16 are cut off."""
    if not leaves:
        return []
    numbers = _flat(leaves).to(torch.float32)
    if key is not None:
        noise = (random.bits(key, tuple(numbers.shape)) & 0xFFFF).to(torch.int32)
        numbers = ((numbers.view(torch.int32) + noise) & ~0xFFFF).view(torch.float32)
    return _split(numbers.to(torch.bfloat16), leaves)


def _unpack_brain(data: bytes, like: Tensor) -> Tensor:
    numbers = wire.from_raw(data, torch.empty(like.shape, dtype=torch.bfloat16)).to(like)
    if not torch.isfinite(numbers).all():
        raise ArtifactError("a block holds NaN or infinite numbers: the message was altered; send it again")
    return numbers


_BRAIN = _Form(
    rounded=lambda leaves, key: _typed(_brain(leaves, key), leaves),
    pack=lambda leaves, key: [wire.raw_bytes(leaf) for leaf in _brain(leaves, key)],
    size=lambda like: 2 * like.numel(),
    unpack=_unpack_brain,
)


def _require_finite(path: str, leaf: Tensor) -> None:
    if leaf.numel() and not leaf.abs().amax().item() <= LARGEST:
        raise ArtifactError(f"{path!r} holds NaN, infinite or larger numbers than {LARGEST:g}, so it cannot be sent: lower the learning rate")


def _codec(number: int, name: str, form: _Form) -> Codec:
    """A codec that sends floating-point leaves in ``form`` and all others raw."""

    def chosen(leaf: Tensor) -> _Form:
        return form if leaf.is_floating_point() else _RAW

    def floating(value: Tree) -> dict[str, Tensor]:
        return {path: leaf for path, leaf in wire.ordered(value).items() if leaf.is_floating_point()}

    def round_trip(value: Tree, key: Key | None) -> Tree:
        leaves, paths = floating(value), tree.paths(value)
        seen = dict(zip(leaves, form.rounded(list(leaves.values()), key), strict=True))
        return tree.map(lambda leaf: seen[path] if (path := next(paths)) in seen else leaf, value)

    def encode(value: Tree, key: Key | None) -> bytes:
        leaves = floating(value)
        for path, leaf in leaves.items():
            if form is not _RAW:
                _require_finite(path, leaf)
        packed = dict(zip(leaves, form.pack(list(leaves.values()), key), strict=True))
        payload = b"".join(packed[path] if path in packed else wire.raw_bytes(leaf) for path, leaf in wire.ordered(value).items())
        return wire.seal(number, value, payload)

    def decode(data: bytes, template: Tree) -> Tree:
        leaves = wire.ordered(template)
        sizes = [chosen(leaf).size(leaf) for leaf in leaves.values()]
        rest = memoryview(wire.unseal(data, number, template, sum(sizes)))
        found: dict[str, Tensor] = {}
        for (path, leaf), size in zip(leaves.items(), sizes, strict=True):
            found[path], rest = chosen(leaf).unpack(bytes(rest[:size]), leaf), rest[size:]
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
