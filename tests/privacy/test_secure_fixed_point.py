"""Trees as integers: exact sums, stated errors, and everything that does not fit refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabayfl import random, tree
from metabayfl.errors import ArtifactError, ConfigError
from metabayfl.privacy.secure_aggregation import fixed_point, secure_sum
from metabayfl.privacy.secure_aggregation.fixed_point import Encoding, decode, digest, encode, encoding, errors, levels, modulus_bits
from metabayfl.types import Tree

TEMPLATE: Tree = {"update": {"z": torch.zeros(4, 3), "mu": torch.zeros(5, dtype=torch.float64)}, "weight": torch.zeros(()), "count": torch.tensor(0)}
RANGES = {"update": 0.5, "update/mu": 4.0, "weight": levels(16), "count": levels(16)}
HOW = encoding(TEMPLATE, RANGES, bits=16, cohort=20)
LENGTH = 19


def message(number: int) -> Tree:
    key = random.key(number)
    z = (random.uniform(random.fold(key, "z"), (4, 3)) - 0.5).clamp(-0.5, 0.5)
    mu = 8.0 * random.uniform(random.fold(key, "mu"), (5,), torch.float64) - 4.0
    return {"update": {"z": z, "mu": mu}, "weight": torch.tensor(float(20 + number)), "count": torch.tensor(3 * number)}


def uniform(number: int, length: int = LENGTH) -> np.ndarray:
    return random.uniform(random.fold(random.key(number), "rounding"), (length,), torch.float64).numpy()


def added(vectors: list[np.ndarray], how: Encoding) -> np.ndarray:
    bits = modulus_bits(how)
    return np.array([sum(int(vector[i]) for vector in vectors) % 2**bits for i in range(fixed_point.length(how))], np.uint64)


def test_a_sum_is_off_by_less_than_the_stated_error_and_whole_numbers_are_exact() -> None:
    messages = [message(number) for number in range(20)]
    total = decode(HOW, added([encode(HOW, value, uniform(i)) for i, value in enumerate(messages)], HOW), TEMPLATE)
    stated = errors(HOW, 20)
    for path, leaf in tree.flatten(total).items():
        exact = sum(tree.flatten(value)[path].double() for value in messages)
        assert (leaf.double() - exact).abs().max() < stated[path].worst * (1 + 1e-6) + 1e-6
        assert leaf.dtype == tree.flatten(TEMPLATE)[path].dtype
    assert total["weight"] == sum(value["weight"] for value in messages)
    assert total["count"] == sum(value["count"] for value in messages)
    assert list(tree.flatten(total)) == list(tree.flatten(TEMPLATE))


def test_the_secure_sum_of_encoded_trees_is_the_sum_of_their_codes() -> None:
    vectors = {f"site-{i}": encode(HOW, message(i), uniform(i)) for i in range(5)}
    outcome = secure_sum(vectors, modulus_bits(HOW), drop={"mask": {"site-2"}})
    expected = added([vectors[name] for name in ("site-0", "site-1", "site-3", "site-4")], HOW)
    assert outcome.total.tolist() == expected.tolist()
    assert decode(HOW, outcome.total, TEMPLATE)["weight"] == 20 + 21 + 23 + 24


def test_rounding_is_unbiased_with_the_stated_standard_error() -> None:
    draws = 100_000
    value = {"x": torch.full((draws,), 0.37, dtype=torch.float64)}
    how = encoding(value, {"x": 1.0}, bits=4, cohort=1)
    found = decode(how, encode(how, value, uniform(0, draws)), value)["x"]
    stated = errors(how, 1)["x"]
    assert abs(float(found.mean()) - 0.37) < 5 * stated.standard / math.sqrt(draws)
    assert float(found.std()) <= stated.standard * 1.02
    assert stated == (1 / 7, 1 / 14)


@settings(max_examples=100, deadline=None)
@given(bits=st.integers(2, 32), cohort=st.integers(1, 5000), noise=st.integers(0, 2**30))
def test_no_sum_of_a_cohort_can_overflow(bits: int, cohort: int, noise: int) -> None:
    how = encoding({"x": torch.zeros(1)}, {"x": 1.0}, bits=bits, cohort=cohort, noise=noise)
    furthest, modulus = cohort * (levels(bits) + noise), 2 ** modulus_bits(how)
    assert modulus / 4 <= furthest < modulus / 2
    if not noise:
        assert modulus_bits(how) <= bits + math.ceil(math.log2(cohort))
    for sign in (1, -1):
        total = np.array([sign * furthest % modulus], np.uint64)
        assert float(decode(how, total, {"x": torch.zeros(1, dtype=torch.float64)})["x"]) == pytest.approx(sign * furthest / levels(bits))


def test_the_ends_of_the_range_stay_in_it_whatever_the_rounding() -> None:
    for reach in (0.1, 1 / 3, 1e-30, 3e37):
        how = encoding({"x": torch.zeros(2)}, {"x": reach}, bits=17, cohort=1)
        value = {"x": torch.tensor([reach, -reach], dtype=torch.float64)}
        for draw in (0.0, 0.5, np.nextafter(1.0, 0.0)):
            high, low = encode(how, value, np.full(2, draw)).astype(np.int64)
            assert levels(17) - 1 <= high <= levels(17)
            assert levels(17) - 1 <= 2**17 - low <= levels(17)


def test_noise_is_added_in_steps_within_its_headroom() -> None:
    how = encoding({"x": torch.zeros(3)}, {"x": levels(8)}, bits=8, cohort=4, noise=1000)
    noise = np.array([1000, -1000, 7], np.int64)
    value = {"x": torch.tensor([127.0, -127.0, 0.0])}
    found = decode(how, encode(how, value, np.zeros(3), noise), value)["x"]
    assert found.tolist() == [1127.0, -1127.0, 7.0]
    assert modulus_bits(how) == 14
    for bad in (noise + 1, np.array([0, 0, -1001]), np.array([np.iinfo(np.int64).min, 0, 0]), np.zeros(2, np.int64)):
        with pytest.raises(ArtifactError, match=r"expected \[3\] up to 1000: agree on more headroom"):
            encode(how, value, np.zeros(3), bad)


@pytest.mark.parametrize("bad", [0.5001, -0.6, math.inf, -math.inf, math.nan])
def test_what_is_out_of_range_is_refused_with_block_and_numbers(bad: float) -> None:
    value = message(1)
    value["update"]["z"][1, 2] = bad
    with pytest.raises(ArtifactError, match=rf"'update/z' reaches {abs(bad):g}, and its public range is 0\.5: nothing was sent"):
        encode(HOW, value, uniform(0))


def test_another_tree_is_refused() -> None:
    for value in ({"update": message(1)["update"]}, message(1) | {"weight": torch.zeros(1)}):
        with pytest.raises(ArtifactError, match="not what was agreed on"):
            encode(HOW, value, uniform(0))


@pytest.mark.parametrize("bad", [np.zeros(LENGTH - 1), np.ones(LENGTH), np.full(LENGTH, -0.1), np.full(LENGTH, math.nan)])
def test_uniform_numbers_that_are_not_uniform_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"expected \[19\] from 0 below 1"):
        encode(HOW, message(1), bad)


def test_a_sum_that_the_cohort_cannot_reach_is_refused() -> None:
    with pytest.raises(ArtifactError, match="a client broke the encoding"):
        decode(HOW, np.full(LENGTH, 2 ** (modulus_bits(HOW) - 1), np.uint64), TEMPLATE)
    with pytest.raises(ArtifactError, match=r"expected \[19\]"):
        decode(HOW, np.zeros(LENGTH + 1, np.uint64), TEMPLATE)
    wide = encoding({"x": torch.zeros(1)}, {"x": 1.0}, bits=32, cohort=2**32 - 1)
    with pytest.raises(ArtifactError, match="reaches 9223372036854775808"):
        decode(wide, np.array([2**63], np.uint64), {"x": torch.zeros(1)})


@pytest.mark.parametrize(
    ("ranges", "options", "message"),
    [
        ({"update": 1.0, "weight": 1.0}, {}, "'count' has the range None"),
        (RANGES | {"updat": 1.0}, {}, r"ranges for \['updat'\]"),
        (RANGES | {"weight": 0.0}, {}, "'weight' has the range 0.0"),
        (RANGES | {"weight": math.inf}, {}, "'weight' has the range inf"),
        (RANGES | {"weight": math.nan}, {}, "'weight' has the range nan"),
        (RANGES, {"bits": 1}, "bits = 1"),
        (RANGES, {"bits": 33}, "bits = 33"),
        (RANGES, {"cohort": 0}, "cohort = 0"),
        (RANGES, {"noise": -1}, "noise = -1"),
        (RANGES, {"bits": 32, "cohort": 2**40}, "need 72 bits"),
    ],
)
def test_encodings_that_make_no_sense_are_refused(ranges: dict[str, float], options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoding(TEMPLATE, ranges, **({"bits": 16, "cohort": 20} | options))


def test_encodings_agree_where_their_digests_do() -> None:
    again = encoding(dict(reversed(TEMPLATE.items())), RANGES, bits=16, cohort=20)
    others = [encoding(TEMPLATE, RANGES | change, bits=16, cohort=20) for change in ({}, {"weight": 5.0})]
    assert digest(again) == digest(HOW) == digest(others[0]) != digest(others[1])
    assert len(digest(HOW)) == 32
