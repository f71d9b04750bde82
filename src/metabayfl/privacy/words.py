"""Where noise gets its random bits: streams of uniform 64-bit words.

A guarantee holds only if nobody can predict the noise. So production takes its words from the operating system's cryptographic generator; a
stream from a key repeats its words, as simulations must, and hides nothing from anyone who knows or guesses the seed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from metabayfl import random
from metabayfl.types import Key

Words = Callable[[int], NDArray[np.uint64]]
"""``count -> (count,)`` words that were never given out before."""

SLACK = 2.0**-36
"""Relative error that :func:`bernoulli` allows a floating-point probability; all that depends on it is how often whole numbers decide."""


def secure() -> Words:
    """Words from the operating system's generator (``secrets``): for every release that is to be private."""
    return lambda count: np.frombuffer(secrets.token_bytes(8 * count), dtype=np.uint64)


def seeded(key: Key) -> Words:
    """The words that follow from a key, one after the other: for simulations, which must repeat to the bit.

    Example:
        >>> stream, whole = seeded(random.key(0)), seeded(random.key(0))
        >>> (np.concatenate([stream(2), stream(3)]) == whole(5)).all()
        np.True_
    """
    given = 0

    def words(count: int) -> NDArray[np.uint64]:
        nonlocal given
        first, given = given, given + count
        return random.bits(key.cpu(), (count,), first).numpy().view(np.uint64)

    return words


def integers(words: Words, limit: NDArray[np.int64]) -> NDArray[np.int64]:
    """An integer uniform on ``0 .. limit - 1`` for each limit: words beyond the last whole multiple are drawn again, so that there is no bias.

    Args:
        words: the stream.
        limit: ``(N,)``, from 1.
    """
    out = np.empty(len(limit), dtype=np.int64)
    open_ = np.arange(len(limit))
    while len(open_):
        bound = limit[open_].astype(np.uint64)
        drawn = words(len(open_))
        whole = drawn < np.uint64(2**64 - 1) - np.uint64(2**64 - 1) % bound
        out[open_[whole]] = (drawn[whole] % bound[whole]).astype(np.int64)
        open_ = open_[~whole]
    return out


def bernoulli(words: Words, probability: NDArray[np.float64], exact: Callable[[int, int], int]) -> NDArray[np.bool_]:
    """Events of given probabilities, decided exactly: a uniform number is compared with bounds around the floating-point probability, and where it
    falls between them the comparison is repeated in whole numbers, with as many bits as it takes.

    Args:
        words: the stream.
        probability: ``(N,)``, each right to a relative :data:`SLACK`.
        exact: position and number of bits ``b`` -> ``floor(2^b p)``.
    """
    drawn = words(len(probability))
    scaled, at = probability * 2.0**64, drawn.astype(np.float64)
    out: NDArray[np.bool_] = at < scaled * (1.0 - SLACK) - 1.0
    unsure = ~out & (at < scaled * (1.0 + SLACK) + 1.0)
    for position in np.flatnonzero(unsure):
        out[position] = _decide(words, int(drawn[position]), partial(exact, int(position)))
    return out


def _decide(words: Words, drawn: int, exact: Callable[[int], int]) -> bool:
    bits = 64
    while drawn == exact(bits):
        drawn, bits = (drawn << 64) | int(words(1)[0]), bits + 64
    return drawn < exact(bits)


def uniform(words: Words, count: int) -> NDArray[np.float64]:
    """Uniform on the open interval (0, 1): odd multiples of 2^-53."""
    return ((words(count) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
