"""Masks: the cipher's stream read as integers, uniform, never the same twice, and gone when subtracted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metabayfl.privacy.secure_aggregation import masks
from metabayfl.privacy.secure_aggregation.keys import commitment, pair_mask, parcels, self_mask
from metabayfl.privacy.secure_aggregation.primitives import agreement, fresh, keystream, public_key
from secure_round import setup

KEYS = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("bits", [1, 8, 9, 16, 23, 32, 33, 64])
@pytest.mark.parametrize("count", [0, 1, 7, 70_000])  # 70,000 numbers are more than a block
def test_a_mask_is_the_keystream_in_words_modulo_two_to_the_bits(bits: int, count: int) -> None:
    word = masks.word(bits)
    expected = np.frombuffer(keystream(bytes(range(32)), count * word.itemsize), word).astype(object) % 2**bits
    found = masks.add(np.zeros(count, np.uint64), [bytes(range(32))], [], bits)
    assert found.tolist() == expected.tolist()


def test_words_are_no_larger_than_they_must_be() -> None:
    assert [masks.word(bits).itemsize for bits in (1, 8, 9, 16, 17, 32, 33, 64)] == [1, 1, 2, 2, 4, 4, 8, 8]


@settings(max_examples=50, deadline=None)
@given(bits=st.integers(1, 64), plus=st.lists(KEYS, max_size=4), minus=st.lists(KEYS, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_masks_add_and_subtract_modulo_two_to_the_bits(bits: int, plus: list[bytes], minus: list[bytes], seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2**bits - 1, 9, dtype=np.uint64, endpoint=True)
    alone = {key: masks.add(np.zeros(9, np.uint64), [key], [], bits).astype(object) for key in {*plus, *minus}}
    expected = (numbers.astype(object) + sum(alone[key] for key in plus) - sum(alone[key] for key in minus)) % 2**bits
    hidden = masks.add(numbers, plus, minus, bits)
    assert hidden.tolist() == expected.tolist()
    assert masks.add(hidden, minus, plus, bits).tolist() == numbers.tolist()


@settings(deadline=None)
@given(st.lists(KEYS, min_size=2, max_size=2, unique=True))
def test_two_secrets_never_give_one_mask(pair: list[bytes]) -> None:
    """Sixteen words of 20 bits: that two masks were the same by chance has a probability of 2^-320."""
    one, other = (masks.add(np.zeros(16, np.uint64), [key], [], 20).tolist() for key in pair)
    assert one != other


def test_no_key_comes_back_in_another_round_session_pair_or_for_another_purpose() -> None:
    secrets = [fresh() for _ in range(4)]
    rounds = [setup(2, 3, number=number)._replace(session=bytes([tag] * 16)) for number in (1, 2) for tag in (1, 2)]
    found: list[bytes] = []
    for of in rounds:
        for i, secret in enumerate(secrets):
            found += [self_mask(secret, of, f"{i}"), commitment(secret, of, f"{i}")]
            for j in range(i):
                agreed = agreement(secret)(public_key(secrets[j]))
                found += [pair_mask(agreed, of, f"{i}", f"{j}"), *parcels(agreed, of, f"{i}", f"{j}")]
    assert len(set(found)) == len(found) == 4 * (4 * 2 + 6 * 3)
    streams = {masks.add(np.zeros(4, np.uint64), [key], [], 64).tobytes() for key in found}
    assert len(streams) == len(found)


def test_both_ends_of_a_pair_have_the_same_keys() -> None:
    of, one, other = setup(2, 3), fresh(), fresh()
    here, there = agreement(one)(public_key(other)), agreement(other)(public_key(one))
    assert pair_mask(here, of, "a", "b") == pair_mask(there, of, "b", "a")
    sent, received = parcels(here, of, "a", "b"), parcels(there, of, "b", "a")
    assert (sent.out, sent.back) == (received.back, received.out)
    assert sent.out != sent.back


def test_masks_are_uniform() -> None:
    found = masks.add(np.zeros(200_000, np.uint64), [fresh()], [], 10)
    assert stats.chisquare(np.bincount(found, minlength=1024)).pvalue > 1e-6
