"""Sums over clients give numpy's moments of the concatenation, also where the mean is huge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metabayfl.data.normalisation import add, centre, mean_and_scale, statistics


def moments(clients: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, scale and number of values from the sums of two rounds over the clients."""
    first = add(statistics(x) for x in clients)
    about = centre(first)
    return (*mean_and_scale(about, add(statistics(x, about) for x in clients)), first.number)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(arrays(np.float64, st.tuples(st.integers(1, 9), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6),
    st.sampled_from([0.0, 1e3, 1e9]),
)
def test_equals_numpy_on_the_concatenation(parts: list[np.ndarray], offset: float) -> None:
    clients = [part + offset for part in parts]
    mean, scale, number = moments(clients)
    whole = np.concatenate(clients)
    assert np.allclose(mean, whole.mean(0), rtol=1e-12, atol=1e-9)
    # The scale of a column that is constant to within rounding is 0 by definition.
    constant = whole.std(0) <= 1e-9 * np.abs(whole.mean(0)) + 1e-9
    assert np.allclose(scale[~constant], whole.std(0)[~constant], rtol=1e-6)
    assert number.tolist() == [len(whole)] * 3


def test_keeps_its_digits_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    clients = [1e8 + rng.normal(size=(200, 1)) for _ in range(50)]
    _, scale, _ = moments(clients)
    assert scale[0] == pytest.approx(np.concatenate(clients).std(), rel=1e-7)


def test_client_order_and_grouping_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 4)) * [1, 10, 1e-3, 1e4] + [0, 5, 1, -1e5]
    once = moments([x])
    again = moments(np.split(x[::-1], 6))
    assert all(np.allclose(a, b, rtol=1e-12) for a, b in zip(once, again, strict=True))


def test_missing_values_are_left_out() -> None:
    clients = [np.array([[1.0, np.nan], [np.nan, np.nan]]), np.array([[3.0, 7.0]])]
    mean, scale, number = moments(clients)
    assert mean.tolist() == [2.0, 7.0]
    assert scale.tolist() == [1.0, 0.0]
    assert number.tolist() == [2, 1]


def test_an_empty_column_is_nan_and_a_constant_one_has_scale_zero() -> None:
    mean, scale, number = moments([np.array([[np.nan, 0.1], [np.nan, 0.1]]), np.array([[np.nan, 0.1]])])
    assert np.isnan(mean[0])
    assert number.tolist() == [0, 3]
    assert scale[1] == 0.0


def test_whole_number_pixels_sum_exactly() -> None:
    x = np.full((1000, 1), 255, np.uint8)
    total = add([statistics(x), statistics(x)])
    assert total.total.tolist() == [510000.0]
    assert total.squares.tolist() == [2000 * 255.0**2]
