"""Counter-based randomness: known values, distributions, independence, and the same numbers wherever they are drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from metabayfl import random

GOLDEN = 0x9E3779B97F4A7C15
KEY = random.key(20)
COUNT = 20_000
DTYPES = [torch.float32, torch.float64]


def test_keys_are_splitmix64s_outputs() -> None:
    """The sequence of seed 1234567 that every implementation is checked against."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = [int(random.key(1234567 + step * GOLDEN)) % 2**64 for step in range(5)]
    assert found == known


def test_draws_continue_the_sequence_of_their_key() -> None:
    state = int(random.key(int(KEY) - GOLDEN))  # the finaliser of the key itself
    expected = [int(random.key(state + step * GOLDEN)) for step in range(4)]
    assert random.bits(KEY, (4,)).tolist() == expected


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64 - 1, 2**200])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert random.key(seed).shape == ()
    assert random.key(seed) == random.key(seed + 2**64)
    assert random.fold(KEY, seed) == random.fold(KEY, seed + 2**64)


def test_folding_tells_names_numbers_and_their_order_apart() -> None:
    found = {int(random.fold(KEY, *values)) for values in (("a",), ("b",), ("a", "b"), ("b", "a"), (1,), (2,), (1, 2), (2, 1), (0,), (0, 0), ())}
    assert len(found) == 11
    assert random.fold(KEY, "a", 3) == random.fold(random.fold(KEY, "a"), 3)
    assert random.fold(KEY, "a") == random.fold(KEY, random.digest("a"))


def test_folding_tensors_gives_tensors_of_keys() -> None:
    grid = random.fold(KEY, torch.arange(3).unsqueeze(1), torch.arange(2))
    assert grid.tolist() == [[int(random.fold(KEY, row, column)) for column in range(2)] for row in range(3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", [random.uniform, random.normal])
def test_a_prefix_is_the_shorter_draw_and_vmap_is_the_loop(draw, dtype: torch.dtype) -> None:
    long = draw(KEY, (10, 3), dtype)
    assert torch.equal(draw(KEY, (4, 3), dtype), long[:4])
    assert long.dtype == dtype
    keys = random.keys(KEY, 5)
    together = torch.func.vmap(lambda key: draw(key, (7,), dtype))(keys)
    assert torch.equal(together, torch.stack([draw(key, (7,), dtype) for key in keys]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, random.RUN, random.RUN + 1, 2 * random.RUN, 3 * random.RUN - 1, 5 * random.RUN + 7])
def test_normal_numbers_stay_where_they_are_in_longer_draws(count: int, dtype: torch.dtype) -> None:
    assert torch.equal(random.normal(KEY, (count,), dtype), random.normal(KEY, (6 * random.RUN,), dtype)[:count])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_of_normal_numbers_follows_on_the_one_before(dtype: torch.dtype) -> None:
    long = random.normal(KEY, (2 * random.BLOCK + 5,), dtype)
    for count in (random.BLOCK, random.BLOCK + 3, 2 * random.BLOCK + 1):
        assert torch.equal(random.normal(KEY, (count,), dtype), long[:count])
    assert len(torch.unique(long)) > 0.99 * len(long)


def test_cosines_and_sines_of_the_same_hashes_are_independent() -> None:
    pairs = random.normal(KEY, (100 * 2 * random.RUN,)).double().view(100, 2, random.RUN)
    left, right = (pairs[:, part].flatten().numpy() for part in (0, 1))
    for one, other in ((left, right), (left**2, right**2)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(len(left))
    table = np.histogram2d(stats.norm.cdf(left), stats.norm.cdf(right), 16, [(0, 1), (0, 1)])[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_keep_has_the_prefix_property_and_is_vmapped_to_the_bit() -> None:
    assert torch.equal(random.keep(KEY, (5, 3), 0.5), random.keep(KEY, (9, 3), 0.5)[:5])
    keys = random.keys(KEY, 5)
    together = torch.func.vmap(lambda key: random.keep(key, (7,), 0.3))(keys)
    assert torch.equal(together, torch.stack([random.keep(key, (7,), 0.3) for key in keys]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_distribution(dtype: torch.dtype) -> None:
    draw = random.uniform(KEY, (COUNT,), dtype).double().numpy()
    assert ((draw > 0) & (draw < 1)).all()
    assert stats.kstest(draw, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.histogram(draw, 100, (0, 1))[0]).pvalue > 1e-3


def test_uniform_never_reaches_its_ends() -> None:
    """The extreme hashes in either precision, through the same arithmetic."""
    for digits, dtype in ((23, torch.float32), (52, torch.float64)):
        ends = (torch.tensor([0, 2**digits - 1]).to(dtype) + 0.5) * 2.0**-digits
        assert 0 < float(ends[0]) < float(ends[1]) < 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_distribution(dtype: torch.dtype) -> None:
    draw = random.normal(KEY, (COUNT,), dtype).double().numpy()
    assert abs(draw.mean()) < 4 / math.sqrt(COUNT)
    assert abs(draw.var() - 1) < 4 * math.sqrt(2 / COUNT)
    assert abs(stats.skew(draw)) < 4 * math.sqrt(6 / COUNT)
    assert abs(stats.kurtosis(draw)) < 4 * math.sqrt(24 / COUNT)
    assert stats.kstest(draw, "norm").pvalue > 1e-3


def test_every_bit_and_byte_of_the_hashes_is_uniform() -> None:
    raw = random.bits(KEY, (COUNT,)).numpy().view(np.uint8)
    ones = np.unpackbits(raw).reshape(COUNT, 64).sum(0)
    assert (np.abs(ones - COUNT / 2) < 4.5 * math.sqrt(COUNT / 4)).all()
    assert stats.chisquare(np.bincount(raw, minlength=256)).pvalue > 1e-3


@pytest.mark.parametrize("relative", [random.fold(KEY, 1), random.fold(KEY, "a"), KEY + 1, KEY ^ (1 << 62), random.key(21)])
def test_draws_of_neighbouring_keys_are_independent(relative: torch.Tensor) -> None:
    left, right = (random.normal(key, (COUNT,)).double().numpy() for key in (KEY, relative))
    assert abs(np.corrcoef(left, right)[0, 1]) < 4 / math.sqrt(COUNT)
    assert abs(np.corrcoef(left[1:], right[:-1])[0, 1]) < 4 / math.sqrt(COUNT)
    table = np.histogram2d(stats.norm.cdf(left), stats.norm.cdf(right), 8, [(0, 1), (0, 1)])[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_first_draws_of_successive_keys_are_uniform_and_uncorrelated() -> None:
    """One number per client: the keys must be as good across clients as along one client's draws."""
    keys = random.fold(KEY, torch.arange(COUNT))
    first = torch.func.vmap(lambda key: random.uniform(key, (1,), torch.float64))(keys).squeeze(1).numpy()
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4 / math.sqrt(COUNT)


def test_one_bit_of_a_key_turns_half_the_bits() -> None:
    turned = [bin(int(random.fold(KEY, 0) ^ random.fold(KEY ^ (1 << bit), 0)) % 2**64).count("1") for bit in range(62)]
    assert 30 < np.mean(turned) < 34
    assert min(turned) > 12


def test_many_keys_do_not_collide() -> None:
    keys = random.fold(KEY, torch.arange(300).unsqueeze(1), torch.arange(300))
    assert len(torch.unique(keys)) == 90_000


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_keep_keeps_its_share(rate: float) -> None:
    kept = random.keep(KEY, (COUNT,), rate).double()
    assert abs(float(kept.mean()) - (1 - rate)) < 4 * math.sqrt(0.25 / COUNT)


def test_the_four_lanes_of_keep_are_independent() -> None:
    lanes = random.keep(KEY, (COUNT, 4), 0.5).numpy()
    for left, right in itertools.combinations(range(4), 2):
        assert abs(np.corrcoef(lanes[:, left], lanes[:, right])[0, 1]) < 4 / math.sqrt(COUNT)


def test_dropout_keeps_the_mean_and_rests_without_key_or_rate() -> None:
    x = torch.full((COUNT,), 2.0)
    dropped = random.dropout(x, KEY, 0.25)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 2.0 / 0.75]))
    assert abs(float(dropped.mean()) - 2.0) < 0.03
    assert random.dropout(x, None, 0.25) is x
    assert random.dropout(x, KEY, 0.0) is x


def test_permutations_are_uniform() -> None:
    orders = random.permutation(random.fold(KEY, torch.arange(4800)), torch.ones(4))
    numbers = (orders * torch.tensor([64, 16, 4, 1])).sum(1)
    _, counts = torch.unique(numbers, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_permutation_puts_real_examples_first_in_an_order_that_padding_leaves_alone() -> None:
    plain = random.permutation(KEY, torch.ones(6))
    assert sorted(plain.tolist()) == list(range(6))
    real = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0, 1, 0])
    places = torch.nonzero(real).squeeze(1)
    order = random.permutation(KEY, real)
    assert torch.equal(order[:6], places[plain])
    assert order[6:].tolist() == [0, 3, 7, 9]


def test_permutation_of_several_keys_or_clients_is_the_loop() -> None:
    keys, masks = random.keys(KEY, 3), (torch.arange(8) < torch.tensor([[3], [8], [0]])).float()
    at_once = random.permutation(keys, masks[0])
    assert torch.equal(at_once, torch.stack([random.permutation(key, masks[0]) for key in keys]))
    together = torch.func.vmap(random.permutation)(keys, masks)
    assert torch.equal(together, torch.stack([random.permutation(key, mask) for key, mask in zip(keys, masks, strict=True)]))
