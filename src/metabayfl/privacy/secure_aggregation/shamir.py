"""Shamir's secret sharing over GF(2^16): any ``threshold`` shares give the secret, fewer say nothing about it (Shamir 1979, "How to share a secret").

Two bytes are one element of the field, so 32 bytes are 16 elements and every secret is valid: a prime field would need one of more than 256 bits,
Python's large integers and a case for secrets beyond the prime. Small elements are looked up in tables by NumPy for all shares at once, and there
are 65,535 places for holders where GF(2^8) has 255, too few for a cohort of 1,000 that shares among all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metabayfl.errors import ArtifactError

ORDER = 2**16 - 1
"""Places for holders are the numbers from 1 to this; it is also the order of the field's multiplicative group."""

_POLYNOMIAL = 0x1100B  # x^16 + x^12 + x^3 + x + 1, of which x is a generator
_ELEMENT = np.dtype("<u2")


@functools.cache
def _tables() -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    """Logarithms and powers of the generator. Zero has a logarithm too: so large a one that its power is found in a tail of zeros."""
    powers = np.zeros(4 * ORDER, np.uint16)
    value = 1
    for exponent in range(ORDER):
        powers[exponent] = powers[exponent + ORDER] = value
        value = value << 1 ^ (_POLYNOMIAL if value >> 15 else 0)
    logs = np.full(ORDER + 1, 2 * ORDER, np.int32)
    logs[powers[:ORDER]] = np.arange(ORDER)
    return logs, powers


def coefficient_bytes(length: int, threshold: int) -> int:
    """How many random bytes :func:`share` takes for a secret of ``length`` bytes."""
    return length * (threshold - 1)


def share(secret: bytes, holders: Sequence[int], threshold: int, coefficients: bytes) -> list[bytes]:
    """``y_j = secret + sum_i a_i x_j^i`` for every holder's place ``x_j``, for each element of the secret.

    Args:
        secret: an even number of bytes.
        holders: places from 1 to :data:`ORDER`, all different.
        threshold: how many shares give the secret back.
        coefficients: :func:`coefficient_bytes` uniform secret bytes, the ``a_i``.

    Returns:
        A share, as long as the secret, for every holder.

    Example:
        >>> shares = share(b"key!", [1, 2, 3], 2, b"\\x07\\x01\\x00\\xff")
        >>> combine([(3, shares[2]), (1, shares[0])], 2)
        b'key!'
    """
    _check(holders, threshold)
    logs, powers = _tables()
    polynomial = np.frombuffer(secret + coefficients, _ELEMENT).reshape(threshold, -1)
    places = logs[np.asarray(holders)][:, None]
    values = np.zeros((len(holders), polynomial.shape[1]), np.uint16)
    for coefficient in polynomial[::-1]:  # Horner's rule, for all holders and elements together
        values = powers[logs[values] + places] ^ coefficient
    return [row.astype(_ELEMENT).tobytes() for row in values]


def combine(shares: Sequence[tuple[int, bytes]], threshold: int) -> bytes:
    """The secret from the first ``threshold`` of the shares, by Lagrange's interpolation at 0.

    Raises:
        ArtifactError: if there are too few shares, two from one place, or some of another length or from an impossible place.
    """
    _check([place for place, _ in shares], threshold)
    lengths = {len(value) for _, value in shares}
    if len(shares) < threshold or len(lengths) != 1 or min(lengths) % _ELEMENT.itemsize:
        raise ArtifactError(
            f"{len(shares)} shares of {sorted(lengths)} bytes were given, expected {threshold} of one even length: ask for the others"
        )
    logs, powers = _tables()
    values = np.frombuffer(b"".join(value for _, value in shares[:threshold]), _ELEMENT).reshape(threshold, -1)
    weights = _weights(tuple(place for place, _ in shares[:threshold]))
    return bytes(np.bitwise_xor.reduce(powers[logs[values] + weights[:, None]], 0).astype(_ELEMENT).tobytes())


@functools.lru_cache(64)
def _weights(places: tuple[int, ...]) -> NDArray[np.int32]:
    """Logarithms of ``prod_{j != i} x_j / (x_j - x_i)``: in a field of characteristic 2 a difference is an exclusive or."""
    x = np.asarray(places, np.uint16)
    logs, _ = _tables()
    differences = logs[x[:, None] ^ x[None, :]].astype(np.int64)
    np.fill_diagonal(differences, 0)
    total = logs[x].astype(np.int64).sum() - logs[x] - differences.sum(1)
    return np.asarray(total % ORDER, np.int32)


def _check(places: Sequence[int], threshold: int) -> None:
    if threshold < 1 or not all(1 <= place <= ORDER for place in places):
        raise ArtifactError(
            f"shares at the places {sorted(places)} with threshold {threshold}: expected places from 1 to {ORDER} and 1 share at least"
        )
    if len(set(places)) != len(places):
        raise ArtifactError(f"two shares come from one place ({sorted(places)}): a share counts once, leave the second out")
