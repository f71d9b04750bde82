"""Integers of ``b`` bits in as few bytes as hold them, by whole 64-bit words: after every ``64 / gcd(b, 64)`` numbers the pattern repeats.

All repetitions are shifted to their place in one pass, so there are some dozen passes whatever the length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from metabayfl.errors import ArtifactError

WORD = 64
"""Bits of the words that are computed with, and the most that a number may have."""


def packed_bytes(count: int, bits: int) -> int:
    """Length of :func:`pack` for ``count`` numbers."""
    return -(-count * bits // 8)


def largest(bits: int) -> np.uint64:
    """``2^bits - 1``: the largest number, and the mask that reduces others."""
    return np.uint64((1 << bits) - 1)


def pack(numbers: NDArray[np.uint64], bits: int) -> bytes:
    """Number ``i`` in the bits from ``i b`` to ``(i + 1) b - 1`` of a little-endian string; what is left of the last byte is zero.

    Args:
        numbers: uint64 ``(L,)``, all below ``2^bits``.
        bits: ``b``, from 1 to 64.

    Example:
        >>> pack(np.array([1, 2, 3], np.uint64), 12).hex()
        '0120000300'
    """
    period, words = _period(bits)
    repetitions = -(-len(numbers) // period)
    padded = np.zeros(repetitions * period, np.uint64)
    padded[: len(numbers)] = numbers
    columns = np.ascontiguousarray(padded.reshape(repetitions, period).T)
    out = np.zeros((words, repetitions), np.uint64)
    for column, (word, shift) in zip(columns, _places(bits), strict=True):
        out[word] |= column << np.uint64(shift)
        if shift + bits > WORD:
            out[word + 1] |= column >> np.uint64(WORD - shift)
    return out.T.astype("<u8").tobytes()[: packed_bytes(len(numbers), bits)]


def unpack(data: bytes, bits: int, count: int) -> NDArray[np.uint64]:
    """The inverse of :func:`pack`, uint64 ``(count,)``.

    Raises:
        ArtifactError: if the length is another, or the bits that fill the last byte are not zero.
    """
    if len(data) != packed_bytes(count, bits):
        raise ArtifactError(f"{len(data)} bytes of packed numbers, expected {packed_bytes(count, bits)} for {count} of {bits} bits: send them again")
    if count * bits % 8 and data[-1] >> count * bits % 8:
        raise ArtifactError(f"the packed numbers are more than {count} of {bits} bits: the message was altered; send it again")
    period, words = _period(bits)
    repetitions = -(-count // period)
    padded = np.frombuffer(data.ljust(repetitions * words * 8, b"\0"), "<u8").reshape(repetitions, words)
    rows = np.ascontiguousarray(padded.T, np.uint64)
    out, mask = np.empty((period, repetitions), np.uint64), largest(bits)
    for column, (word, shift) in zip(out, _places(bits), strict=True):
        np.right_shift(rows[word], np.uint64(shift), out=column)
        if shift + bits > WORD:
            column |= rows[word + 1] << np.uint64(WORD - shift)
        column &= mask
    return out.T.reshape(-1)[:count]


def _period(bits: int) -> tuple[int, int]:
    """Numbers and words after which the pattern repeats."""
    if not 1 <= bits <= WORD:
        raise ArtifactError(f"numbers of {bits} bits: expected 1 to {WORD}")
    common = math.gcd(bits, WORD)
    return WORD // common, bits // common


def _places(bits: int) -> Iterator[tuple[int, int]]:
    """Word and shift of each number of a repetition."""
    return (divmod(start, WORD) for start in range(0, _period(bits)[0] * bits, bits))
