"""Masks: keys drawn out to as many integers modulo ``2^b`` as a message has, and added.

A mask is uniform over words of 8, 16, 32 or 64 bits, the smallest that hold ``b``. Sums wrap in words by themselves; since ``2^b`` divides the word's
modulus, one reduction at the end gives the sum modulo ``2^b``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from metabayfl.privacy.secure_aggregation import packing
from metabayfl.privacy.secure_aggregation.primitives import stream

BLOCK_BYTES = 1 << 17
"""Keystream that is made and added at a time: it stays in a core's cache."""

_ZEROS = memoryview(bytes(BLOCK_BYTES))


def word(bits: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds ``bits`` bits."""
    return np.dtype(next(f"<u{size}" for size in (1, 2, 4, 8) if 8 * size >= bits))


def add(numbers: NDArray[np.uint64], plus: Iterable[bytes], minus: Iterable[bytes], bits: int) -> NDArray[np.uint64]:
    """``numbers + sum of masks of plus - sum of masks of minus`` modulo ``2^bits``.

    Args:
        numbers: uint64 ``(L,)``.
        plus: keys of 32 bytes; each is for one mask, never to be used for another.
        minus: the same; subtracting a mask undoes its addition.
        bits: ``b``.

    Example:
        >>> hidden = add(np.array([5, 6], np.uint64), [bytes(32)], [], 12)
        >>> add(hidden, [], [bytes(32)], 12).tolist()
        [5, 6]
    """
    total = numbers.astype(word(bits))  # a copy; what goes beyond the word is lost, as it should
    parts = [total[start : start + BLOCK_BYTES // total.itemsize] for start in range(0, len(total), BLOCK_BYTES // total.itemsize)]
    buffer = bytearray(min(BLOCK_BYTES, total.nbytes))
    mask = np.frombuffer(buffer, total.dtype)
    for keys, change in ((plus, np.add), (minus, np.subtract)):
        for key in keys:
            source = stream(key)
            for part in parts:
                source.update_into(_ZEROS[: part.nbytes], buffer)
                change(part, mask[: len(part)], out=part)
    return total.astype(np.uint64) & packing.largest(bits)
