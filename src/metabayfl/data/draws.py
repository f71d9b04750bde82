"""Seeded draws for partitions and splits: one generator per (seed, purpose), so that no draw moves another."""

from __future__ import annotations

import hashlib

import numpy as np

from metabayfl.data.raw import Array


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """A numpy generator that depends on the seed and the purpose's words alone.

    Example:
        >>> a, b = generator(0, "split"), generator(0, "split")
        >>> bool((a.permutation(9) == b.permutation(9)).all())
        True
    """
    digest = hashlib.blake2b("\0".join(purpose).encode(), digest_size=16).digest()
    words = [int.from_bytes(digest[start : start + 4], "little") for start in range(0, 16, 4)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed % 2**64, *words])))


def sizes(number: int, smallest: int, largest: int, law: str, skew: float, rng: np.random.Generator) -> Array:
    """Rows of ``number`` clients, ``(number,)`` int64 between ``smallest`` and ``largest``.

    Args:
        law: ``uniform``; ``lognormal`` with median ``sqrt(smallest largest)`` and sigma ``skew``, cut to the range; ``power``: P(n) ~ n^-skew.
    """
    if law == "uniform":
        return rng.integers(smallest, largest + 1, number)
    if law == "lognormal":
        drawn = np.exp(rng.normal(0.5 * np.log(smallest * largest), skew, number))
        return np.clip(np.round(drawn), smallest, largest).astype(np.int64)
    values = np.arange(smallest, largest + 1)
    weight = values ** -float(skew)
    return rng.choice(values, number, p=weight / weight.sum())
