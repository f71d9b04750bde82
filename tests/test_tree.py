"""Trees of tensors: the algebra, the round trip to paths, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metabayfl import tree
from metabayfl.types import Tree

NAMES = st.text("abc", min_size=1, max_size=3)
LEAVES = st.lists(st.floats(-9, 9), min_size=1, max_size=3).map(lambda values: torch.tensor(values, dtype=torch.float64))
TREES = st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=6).map(
    lambda value: value if isinstance(value, dict) else {"only": value}
)

A: Tree = {"w": torch.tensor([3.0, 0.0]), "inner": {"b": torch.tensor(4.0)}}
B: Tree = {"w": torch.tensor([1.0, 2.0]), "inner": {"b": torch.tensor(-1.0)}}


def same(found: Tree, w: list[float], b: float) -> bool:
    return list(found) == ["w", "inner"] and found["w"].tolist() == w and float(found["inner"]["b"]) == b


@given(TREES)
def test_paths_and_back(value: Tree) -> None:
    flat = tree.flatten(value)
    torch.testing.assert_close(tree.unflatten(flat), value, rtol=0, atol=0)
    torch.testing.assert_close(tree.like(value, tree.leaves(value)), value, rtol=0, atol=0)
    assert list(tree.paths(value)) == list(flat)
    assert tree.size(value) == sum(leaf.numel() for leaf in flat.values())


@given(TREES, st.floats(-3, 3))
def test_algebra_is_that_of_the_concatenated_vector(value: Tree, factor: float) -> None:
    vector = np.concatenate([leaf.numpy() for leaf in tree.leaves(value)])
    combined = tree.step(tree.add(value, tree.scale(value, factor)), value, 0.5)
    np.testing.assert_allclose(np.concatenate([leaf.numpy() for leaf in tree.leaves(combined)]), (0.5 + factor) * vector, atol=1e-12)
    np.testing.assert_allclose(float(tree.dot(value, combined)), (0.5 + factor) * vector @ vector, atol=1e-9)
    np.testing.assert_allclose(float(tree.norm(value)), np.linalg.norm(vector), atol=1e-9)
    assert float(tree.norm(tree.subtract(value, value))) == 0.0


def test_each_operation_keeps_order_and_values() -> None:
    assert same(tree.add(A, B), [4.0, 2.0], 3.0)
    assert same(tree.subtract(A, B), [2.0, -2.0], 5.0)
    assert same(tree.scale(A, torch.tensor(2.0)), [6.0, 0.0], 8.0)
    assert same(tree.zeros_like(A), [0.0, 0.0], 0.0)
    assert float(tree.norm(A)) == 5.0
    assert float(tree.dot(A, B)) == -1.0
    assert tree.size(A) == 3


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)])
def test_a_step_goes_down(rate: float | torch.Tensor) -> None:
    assert same(tree.step(A, B, rate), [2.5, -1.0], 4.5)


def test_where_takes_a_whole_tree_also_under_vmap() -> None:
    assert same(tree.where(torch.tensor(True), A, B), [3.0, 0.0], 4.0)
    assert same(tree.where(torch.tensor(False), A, B), [1.0, 2.0], -1.0)
    both = torch.func.vmap(lambda chosen: tree.where(chosen, A, B))(torch.tensor([True, False]))
    assert both["w"].tolist() == [[3.0, 0.0], [1.0, 2.0]]


def test_another_type_is_for_floating_point_leaves_alone() -> None:
    value = {"x": torch.ones(2), "count": torch.tensor(3)}
    found = tree.to(value, torch.float64)
    assert (found["x"].dtype, found["count"].dtype) == (torch.float64, torch.int64)


@pytest.mark.parametrize("device", ["meta", torch.device("meta")])
def test_another_device_is_for_all_leaves(device: str | torch.device) -> None:
    moved = tree.to({"x": torch.ones(2), "count": torch.tensor(3)}, device)
    assert {leaf.device.type for leaf in tree.leaves(moved)} == {"meta"}


def test_trees_of_other_keys_or_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keys \['w'\] against \['v'\]"):
        tree.add({"w": torch.ones(1)}, {"v": torch.ones(1)})
    with pytest.raises(ValueError, match=r"keys \['b'\] against \['c'\]"):
        tree.add({"w": {"b": torch.ones(1)}}, {"w": {"c": torch.ones(1)}})
    with pytest.raises(ValueError, match="shorter"):
        tree.like(A, [torch.ones(1)])
    with pytest.raises(ValueError, match="shorter"):
        tree.dot(A, {"w": torch.ones(2)})


def test_operations_carry_gradients() -> None:
    slope = torch.func.grad(lambda value: tree.norm(tree.step(value, B, 1.0)))(A)
    torch.testing.assert_close(slope, tree.scale(tree.subtract(A, B), 33**-0.5))
