"""Shamir's sharing: against arithmetic of polynomials by hand, its secrecy by counting, and hostile shares."""

from __future__ import annotations

import itertools
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metabayfl.errors import ArtifactError
from metabayfl.privacy.secure_aggregation.shamir import ORDER, coefficient_bytes, combine, share


def times(a: int, b: int) -> int:
    """The product in GF(2^16), bit by bit."""
    out = 0
    while b:
        out ^= a if b & 1 else 0
        a = a << 1 ^ (0x1100B if a >> 15 else 0)
        b >>= 1
    return out


def elements(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u2").tolist()


def fresh_shares(secret: bytes, holders: list[int], threshold: int) -> list[tuple[int, bytes]]:
    drawn = secrets.token_bytes(coefficient_bytes(len(secret), threshold))
    return list(zip(holders, share(secret, holders, threshold, drawn), strict=True))


@given(secret=st.binary(min_size=4, max_size=4), drawn=st.binary(min_size=8, max_size=8), place=st.integers(1, ORDER))
def test_a_share_is_the_polynomial_at_its_holders_place(secret: bytes, drawn: bytes, place: int) -> None:
    (found,) = share(secret, [place], 3, drawn)
    polynomial = zip(elements(secret), elements(drawn[:4]), elements(drawn[4:]), strict=True)
    assert elements(found) == [c ^ times(a, place) ^ times(b, times(place, place)) for c, a, b in polynomial]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_threshold_of_shares_gives_the_secret(data: st.DataObject) -> None:
    holders = data.draw(st.lists(st.integers(1, ORDER), min_size=1, max_size=40, unique=True))
    threshold = data.draw(st.integers(1, len(holders)))
    secret = secrets.token_bytes(32)
    shares = fresh_shares(secret, holders, threshold)
    some = data.draw(st.permutations(shares))[: data.draw(st.integers(threshold, len(shares)))]
    assert combine(some, threshold) == secret


def test_every_choice_of_three_in_five_gives_the_secret_and_two_do_not() -> None:
    secret = secrets.token_bytes(32)
    shares = fresh_shares(secret, [1, 2, 3, 4, 5], 3)
    for some in itertools.combinations(shares, 3):
        assert combine(some, 3) == secret
    for some in itertools.combinations(shares, 2):
        assert combine(some, 2) != secret


def test_one_share_fewer_than_the_threshold_says_nothing() -> None:
    """Over all coefficients, a holder's share of a threshold of two takes every value once, whatever the secret."""
    drawn = np.arange(2**16, dtype="<u2").tobytes()
    for secret in (0, 1, 0xBEEF):
        (found,) = share(np.full(2**16, secret, "<u2").tobytes(), [12345], 2, drawn)
        assert sorted(elements(found)) == list(range(2**16))


def test_large_cohorts_share_too() -> None:
    secret = secrets.token_bytes(64)
    shares = fresh_shares(secret, list(range(ORDER, ORDER - 1000, -1)), 501)
    assert combine(shares[400:901], 501) == secret


GOOD = [(1, bytes(32)), (2, bytes(32)), (3, bytes(32))]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (GOOD[:2], "2 shares of .* expected 3"),
        ([], "0 shares"),
        ([*GOOD[:2], (2, bytes(32))], "two shares come from one place"),
        ([*GOOD[:2], (0, bytes(32))], "expected places from 1"),
        ([*GOOD[:2], (ORDER + 1, bytes(32))], "expected places from 1"),
        ([*GOOD[:2], (-3, bytes(32))], "expected places from 1"),
        ([*GOOD[:2], (3, bytes(31))], "of one even length"),
        ([(place, bytes(31)) for place in (1, 2, 3)], "of one even length"),
    ],
)
def test_hostile_shares_are_refused(shares: list[tuple[int, bytes]], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        combine(shares, 3)


def test_sharing_among_impossible_holders_is_refused() -> None:
    for holders in ([1, 1, 2], [0, 1, 2], [1, 2, ORDER + 1]):
        with pytest.raises(ArtifactError, match="place"):
            fresh_shares(bytes(2), holders, 2)
    with pytest.raises(ArtifactError, match="threshold 0"):
        share(bytes(2), [1, 2], 0, b"")
