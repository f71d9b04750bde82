"""Combines: weighted and uniform means, in one piece or in sums of partials."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch

from metabayfl import tree
from metabayfl.aggregators import COMBINES, Combine, uniform_mean, weighted_mean
from metabayfl.types import Message

GENERATOR = np.random.default_rng(0)
WEIGHT = np.array([3.0, 0.0, 1.0, 6.0])
UPDATE = GENERATOR.standard_normal((4, 2, 3))
LOSS = np.array([1.0, 0.0, 2.0, 4.0])


def stack(rows: list[int]) -> Message:
    numbers = [torch.from_numpy(values[rows]) for values in (UPDATE, WEIGHT, LOSS)]
    return Message({"w": {"inner": numbers[0]}, "b": numbers[0][:, 0, 0]}, numbers[1], {"loss": numbers[2], "examples": numbers[1]})


@pytest.mark.parametrize("combine, weight", [(weighted_mean(), WEIGHT), (uniform_mean(), np.array([1.0, 0.0, 1.0, 1.0]))])
def test_mean_and_sums(combine: Combine, weight: np.ndarray) -> None:
    found = combine.finish(combine.partial(stack([0, 1, 2, 3])))
    expected = np.average(UPDATE, axis=0, weights=weight)
    np.testing.assert_allclose(found.update["w"]["inner"].numpy(), expected, rtol=1e-13)
    np.testing.assert_allclose(found.update["b"].numpy(), expected[0, 0], rtol=1e-13)
    assert float(found.weight) == weight.sum()
    assert {name: float(value) for name, value in found.metrics.items()} == {"loss": 7.0, "examples": 10.0}
    np.testing.assert_allclose(combine.weights(torch.from_numpy(WEIGHT)).numpy(), weight)


@pytest.mark.parametrize("name", COMBINES)
@pytest.mark.parametrize("split", [[[0, 1], [2, 3]], [[3], [0], [2, 1]]])
def test_partials_add_up_in_any_order(name: str, split: list[list[int]]) -> None:
    combine = COMBINES[name]()
    assert combine.name == name
    whole = combine.finish(combine.partial(stack([0, 1, 2, 3])))
    parts = combine.finish(reduce(tree.add, [combine.partial(stack(rows)) for rows in split]))
    torch.testing.assert_close(parts, whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", COMBINES)
def test_clients_without_examples_give_no_update(name: str) -> None:
    combine = COMBINES[name]()
    found = combine.finish(combine.partial(stack([1, 1])))
    assert torch.count_nonzero(found.update["w"]["inner"]) == 0
    assert float(found.weight) == 0.0


@pytest.mark.parametrize("name", COMBINES)
def test_one_client_is_its_own_mean_in_its_own_precision(name: str) -> None:
    combine, message = COMBINES[name](), stack([3])
    single = Message(tree.to(message.update, torch.float32), message.weight, message.metrics)
    found = combine.finish(combine.partial(single))
    torch.testing.assert_close(found.update["w"]["inner"], single.update["w"]["inner"][0])
    assert found.update["w"]["inner"].dtype == torch.float32
