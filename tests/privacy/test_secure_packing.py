"""Integers of b bits in bytes, against Python's own large integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metabayfl.errors import ArtifactError
from metabayfl.privacy.secure_aggregation.packing import largest, pack, packed_bytes, unpack


@settings(max_examples=200, deadline=None)
@given(bits=st.integers(1, 64), count=st.integers(0, 200), seed=st.integers(0, 2**32 - 1))
def test_packing_is_one_large_number_in_little_endian_bytes(bits: int, count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, int(largest(bits)), count, dtype=np.uint64, endpoint=True)
    expected = sum(int(number) << bits * i for i, number in enumerate(numbers)).to_bytes(packed_bytes(count, bits), "little")
    assert pack(numbers, bits) == expected
    assert unpack(expected, bits, count).tolist() == numbers.tolist()


@pytest.mark.parametrize("bits", [1, 7, 8, 23, 32, 63, 64])
def test_the_extremes_survive(bits: int) -> None:
    numbers = np.array([0, int(largest(bits)), 0, int(largest(bits))] * 20, np.uint64)
    assert unpack(pack(numbers, bits), bits, 80).tolist() == numbers.tolist()
    assert int(largest(bits)) == 2**bits - 1


def test_another_length_is_refused() -> None:
    data = pack(np.arange(10, dtype=np.uint64), 12)
    for other in (data[:-1], data + b"\0", b""):
        with pytest.raises(ArtifactError, match="expected 15 for 10 of 12 bits"):
            unpack(other, 12, 10)


def test_bits_beyond_the_last_number_are_refused() -> None:
    data = pack(np.array([1, 2, 3], np.uint64), 12)
    with pytest.raises(ArtifactError, match="more than 3 of 12 bits"):
        unpack(data[:-1] + b"\x10", 12, 3)


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ArtifactError, match="expected 1 to 64"):
        pack(np.zeros(3, np.uint64), bits)
