"""Randomness as an argument: counter-based, the same numbers on every device, in every batch position and under ``vmap``.

A key is one int64 number. Value ``i`` of a draw is a hash of ``(key, i)``: SplitMix64's finaliser (Steele, Lea, Flood 2014, "Fast splittable
pseudorandom number generators", section 3), which passes BigCrush. So the first rows of a padded draw are those of the unpadded draw, and a
client's numbers depend on (seed, round, client, purpose) alone. Not for secrets: see the privacy modules for those.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from metabayfl.types import Key

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd number next to 2^64 / golden ratio
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB

RUN = 1024
"""Half of the normal numbers that are drawn together: small, so that few are drawn in vain, and long enough for whole vectors at once."""

BLOCK = 64 * RUN
"""Normal numbers that are made at a time: their hashes stay in a core's cache."""


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch shifts int64 arithmetically, so the copies of the sign are masked away."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """A new tensor; what is new is changed in place here and below, since draws of weights are bound by memory."""
    z = (z ^ _shift(z, 30)).mul_(_MIX_1)
    z = z.bitwise_xor_(_shift(z, 27)).mul_(_MIX_2)
    return z.bitwise_xor_(_shift(z, 31))


def key(seed: int, device: torch.device | str = "cpu") -> Key:
    """A key from a number."""
    return _mix(torch.tensor(_wrap(seed), dtype=torch.int64, device=device) + _GOLDEN)


def _wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def digest(name: str) -> int:
    """The number that stands for a name in :func:`fold`."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _number(value: int | str | Tensor) -> int | Tensor:
    if isinstance(value, str):
        return digest(value)
    return value if isinstance(value, Tensor) else _wrap(value)


def fold(key: Key, *values: int | str | Tensor) -> Key:
    """A new key from a key and names or numbers; another order gives another key. Tensors of numbers give tensors of keys.

    Example:
        >>> a = fold(key(0), 3, "client-7", "dropout")
        >>> bool(a == fold(key(0), 3, "client-7", "dropout")), bool(a == fold(key(0), 3, "client-8", "dropout"))
        (True, False)
    """
    for value in values:
        key = _mix((key ^ _number(value)) * _MIX_1 + _GOLDEN)
    return key


def keys(key: Key, count: int) -> Tensor:
    """``count`` keys, shape ``(count,)``, to map over."""
    return bits(key, (count,))


def bits(key: Key, shape: tuple[int, ...], start: int = 0) -> Tensor:
    """Hashes, int64, uniform over all 64-bit patterns; the ``start``-th and those after it."""
    counter = torch.arange(start + 1, start + math.prod(shape) + 1, device=key.device, dtype=torch.int64)
    return _mix(_mix(key) + counter * _GOLDEN).view(shape)


def uniform(key: Key, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, start: int = 0) -> Tensor:
    """Uniform on the open interval (0, 1): 23 random bits in float32, 52 in float64, so that the half step stays exact.

    Example:
        >>> draw = uniform(key(1), (1000,))
        >>> bool(((draw > 0) & (draw < 1)).all())
        True
    """
    digits = 52 if dtype == torch.float64 else 23
    return _shift(bits(key, shape, start), 64 - digits).to(dtype).add_(0.5).mul_(2.0**-digits)


def normal(key: Key, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal by Box and Muller, from the two halves of each hash in float32 and from two hashes in float64.

    A hash gives two numbers, its cosine's and its sine's; in every run of ``2 RUN`` numbers the cosines come first, however many follow.
    """
    count = math.prod(shape)
    parts = [_normal(key, first, min(BLOCK, count - first), dtype) for first in range(0, max(count, 1), BLOCK)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(shape)


def _normal(key: Key, first: int, count: int, dtype: torch.dtype) -> Tensor:
    """Number ``first``, where a run begins, and those after it."""
    runs, rest = divmod(count, 2 * RUN)
    whole, paired = runs * RUN, runs * RUN + max(rest - RUN, 0)
    radius, angle = _polar(key, first // 2, whole + min(rest, RUN), dtype)
    sines = angle[:paired].sin().mul_(radius[:paired])
    cosines = angle.cos_().mul_(radius)
    full = torch.cat([part[:whole].view(runs, RUN) for part in (cosines, sines)], 1)
    return torch.cat([full.view(-1), cosines[whole:], sines[whole:]]) if rest else full.view(-1)


def _polar(key: Key, first: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Radius and angle ``(count,)`` of points that are standard normal in the plane."""
    if dtype == torch.float64:
        radius, angle = (uniform(fold(key, part), (count,), dtype, first) for part in (1, 2))
    else:
        raw = bits(key, (count,), first)
        radius = _shift(raw, 41).to(dtype).add_(0.5).mul_(2.0**-23)
        angle = raw.bitwise_and_(0xFFFFFF).to(dtype).mul_(2.0**-24)
    return radius.log_().mul_(-2.0).sqrt_(), angle.mul_(2.0 * math.pi)


def keep(key: Key, shape: tuple[int, ...], rate: float) -> Tensor:
    """A boolean mask that keeps each element with probability ``1 - rate`` to 2^-16: four 16-bit draws a hash, for dropout."""
    count = math.prod(shape)
    raw = bits(key, (-(-count // 4),))
    lanes = (raw.unsqueeze(-1) >> torch.arange(48, -1, -16, device=key.device)).bitwise_and_(0xFFFF)
    return (lanes.flatten()[:count] >= round(rate * 2**16)).view(shape)


def dropout(x: Tensor, key: Key | None, rate: float) -> Tensor:
    """Inverted dropout; nothing happens without a key or with rate 0."""
    if key is None or rate == 0.0:
        return x
    return x * keep(key, tuple(x.shape), rate) * (1.0 / (1.0 - rate))


def permutation(key: Key, mask: Tensor) -> Tensor:
    """Indices in random order, the real examples (mask 1) first; their order does not depend on how much padding there is, or where.

    Args:
        key: one key, shape ``()``, or keys of any shape ``(...)`` for as many orders at once.
        mask: ``(N,)``, or ``(..., N)`` for a mask of its own to each key.

    Returns:
        ``(N,)``, or ``(..., N)``.
    """
    real = mask > 0
    order = _shift(_mix(_mix(key).unsqueeze(-1) + torch.cumsum(real, -1) * _GOLDEN), 2)  # a number per example's rank among the real ones
    return torch.argsort(torch.where(real, order, torch.iinfo(torch.int64).max), dim=-1, stable=True)
