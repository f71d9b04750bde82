"""Synthetic clients: nothing twice, sizes as asked, proportions as asked, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metabayfl.data.draws import generator, sizes
from metabayfl.data.partition import Want, dirichlet, iid, shards
from metabayfl.errors import DataError

CODES = np.repeat(np.arange(5), 400)
NAMES = tuple("abcde")


def _deal(kind: str, wants: list[Want], seed: int) -> list[np.ndarray]:
    rng = generator(seed, "partition")
    if kind == "iid":
        return iid(len(CODES), wants, rng)
    if kind == "dirichlet":
        return dirichlet(CODES, NAMES, wants, 0.5, rng)
    return shards(CODES, NAMES, wants, (2, 3), rng)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["iid", "dirichlet", "shards"]),
    wants=st.lists(st.builds(Want, st.integers(3, 12), st.integers(0, 10)), min_size=1, max_size=12),
    seed=st.integers(0, 2**40),
)
def test_no_row_twice_and_sizes_as_wanted(kind: str, wants: list[Want], seed: int) -> None:
    dealt = _deal(kind, wants, seed)
    assert [len(rows) for rows in dealt] == [want.support + want.test for want in wants]
    rows = np.concatenate(dealt)
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0
    assert rows.max() < len(CODES)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
def test_a_seed_decides_everything(kind: str) -> None:
    wants = [Want(10, 5)] * 6
    once, again, other = (_deal(kind, wants, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(once, other, strict=True))


def test_shards_give_two_or_three_classes_in_equal_parts() -> None:
    dealt = _deal("shards", [Want(20, 30)] * 20, 1)
    numbers = set()
    for rows in dealt:
        support, test = (np.bincount(CODES[part], minlength=5) for part in (rows[:20], rows[20:]))
        numbers.add(int(np.count_nonzero(support)))
        assert np.array_equal(support > 0, test > 0)
        assert np.ptp(support[support > 0]) <= 1
    assert numbers == {2, 3}


def test_dirichlet_is_uneven_within_clients_and_even_over_them() -> None:
    codes = np.repeat(np.arange(5), 20000)
    counts = [np.bincount(codes[rows], minlength=5) / 200 for rows in dirichlet(codes, NAMES, [Want(200, 0)] * 300, 0.3, generator(0, "p"))]
    assert np.abs(np.mean(counts, axis=0) - 0.2).max() < 0.04
    # Var p_k = m (1 - m) / (K alpha + 1) with m = 1/K, and the multinomial's share m (1 - m) (1 - 1 / (K alpha + 1)) / n
    expected = 0.16 / 2.5 + 0.16 * (1 - 1 / 2.5) / 200
    assert np.mean(np.var(counts, axis=0)) == pytest.approx(expected, rel=0.15)


def test_dirichlet_tests_follow_the_support_proportions() -> None:
    codes = np.repeat(np.arange(5), 20000)
    dealt = dirichlet(codes, NAMES, [Want(500, 500)] * 20, 0.3, generator(0, "p"))
    gaps = [np.abs(np.bincount(codes[rows[:500]], minlength=5) - np.bincount(codes[rows[500:]], minlength=5)).max() / 500 for rows in dealt]
    assert max(gaps) < 0.15


def test_iid_has_the_proportions_of_the_pool() -> None:
    rows = iid(len(CODES), [Want(500, 0)], generator(0, "p"))[0]
    assert np.abs(np.bincount(CODES[rows]) / 500 - 0.2).max() < 0.06


def test_dirichlet_redraws_until_there_are_classes_enough() -> None:
    dealt = dirichlet(CODES, NAMES, [Want(6, 0)] * 40, 0.05, generator(0, "p"), min_classes=2)
    assert min(len(np.unique(CODES[rows])) for rows in dealt) == 2
    with pytest.raises(DataError, match="raise alpha"):
        dirichlet(CODES, NAMES, [Want(1, 0)], 0.05, generator(0, "p"), min_classes=2)


def test_a_pool_that_is_too_small_is_named() -> None:
    with pytest.raises(DataError, match="3 clients want 2100 rows, it has 2000"):
        iid(len(CODES), [Want(700, 0)] * 3, generator(0, "p"))
    with pytest.raises(DataError, match=r"wants \d+ rows of class '[a-e]', \d+ of 400 are left"):
        shards(CODES, NAMES, [Want(300, 0)] * 9, (1, 1), generator(0, "p"))
    with pytest.raises(DataError, match="classes_per_client = 6, but the pool has 5 classes"):
        shards(CODES, NAMES, [Want(300, 0)], (2, 6), generator(0, "p"))


@pytest.mark.parametrize("law", ["uniform", "lognormal", "power"])
def test_sizes_stay_in_their_range(law: str) -> None:
    drawn = sizes(4000, 20, 200, law, 1.0, generator(0, "sizes"))
    assert drawn.min() >= 20
    assert drawn.max() <= 200
    assert drawn.dtype == np.int64


def test_size_laws_have_their_shapes() -> None:
    uniform, lognormal, power = (sizes(20000, 10, 1000, law, 1.0, generator(0, "sizes")) for law in ("uniform", "lognormal", "power"))
    assert np.mean(uniform) == pytest.approx(505, rel=0.02)
    assert np.median(lognormal) == pytest.approx(100, rel=0.05)  # sqrt(10 * 1000)
    assert np.mean(power <= 100) == pytest.approx(np.sum(1 / np.arange(10, 101)) / np.sum(1 / np.arange(10, 1001)), abs=0.02)


def test_a_purpose_has_its_own_draws() -> None:
    first, second = (generator(7, name).integers(0, 2**60) for name in ("split", "rows"))
    assert first != second
    assert generator(-1, "a").integers(0, 2**60) == generator(-1, "a").integers(0, 2**60)
