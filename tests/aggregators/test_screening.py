"""Screening of numbers that no honest client sends, and bounds on the norms of blocks and leaves."""

from __future__ import annotations

import math

import pytest
import torch

from metabayfl import tree
from metabayfl.aggregators import screening
from metabayfl.errors import ConfigError
from metabayfl.types import Message


def messages(count: int = 5) -> Message:
    update = {"z": {"a": torch.ones(count, 2, 2), "b": torch.full((count, 1), 2.0)}, "k": torch.ones(count)}
    weight = torch.full((count,), 10.0)
    return Message(update, weight, {"loss": torch.full((count,), 7.0), "examples": weight.clone()})


def screened(given: Message) -> tuple[Message, torch.Tensor]:
    out = screening.faulty(given, 1e6)
    return screening.screen(given, out), out


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", ["z/a", "z/b", "k"])
def test_one_number_that_is_none_screens_its_client(path: str, bad: float) -> None:
    given = messages()
    tree.flatten(given.update)[path].view(5, -1)[3, -1] = bad
    kept, out = screened(given)
    assert out.tolist() == [False, False, False, True, False]
    assert all(not leaf[3].any() for leaf in (*tree.leaves(kept.update), kept.weight, *kept.metrics.values()))
    assert all((leaf[:3] == old[:3]).all() for leaf, old in zip(tree.leaves(kept.update), tree.leaves(given.update), strict=True))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 1e7])
def test_a_size_that_nobody_has_is_screened(weight: float) -> None:
    given = messages()
    given.weight[0] = weight
    kept, out = screened(given)
    assert out.tolist() == [True, False, False, False, False]
    assert float(kept.weight.sum()) == 40.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e12])
def test_an_absurd_metric_is_screened(loss: float) -> None:
    given = messages()
    given.metrics["loss"][1] = loss
    kept, out = screened(given)
    assert out.tolist() == [False, True, False, False, False]
    assert float(kept.metrics["loss"].sum()) == 28.0


def test_honest_messages_and_empty_clients_pass() -> None:
    given = messages()
    given.weight[2] = 0.0
    kept, out = screened(given)
    assert not out.any()
    torch.testing.assert_close(kept, given)


def test_a_block_is_scaled_to_its_bound_as_a_whole() -> None:
    kept = screening.bound_blocks(messages(), {"z": math.sqrt(2.0)})  # its norm is sqrt 8
    torch.testing.assert_close(kept.update["z"]["a"], torch.full((5, 2, 2), 0.5))
    torch.testing.assert_close(kept.update["z"]["b"], torch.full((5, 1), 1.0))
    torch.testing.assert_close(kept.update["k"], torch.ones(5))
    torch.testing.assert_close(screening.bound_blocks(messages(), {"z": 3.0, "k": 0.25}).update["k"], torch.full((5,), 0.25))


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="no block 'head' to bound: its blocks are z, k"):
        screening.bound_blocks(messages(), {"head": 1.0})


def test_a_leaf_is_scaled_to_the_lower_quartile_of_those_that_count() -> None:
    given = messages()
    given.update["k"][:] = torch.tensor([1.0, 0.0, 3.0, -90.0, 500.0])
    counted = torch.tensor([True, True, True, True, False])  # of 1, 3 and 90 the lower quartile is 1: who is silent does not count
    kept = screening.bound_leaves(given, 2.0, counted)
    torch.testing.assert_close(kept.update["k"], torch.tensor([1.0, 0.0, 2.0, -2.0, 2.0]))
    torch.testing.assert_close(kept.update["z"], given.update["z"])


def test_without_anyone_that_counts_leaves_stay() -> None:
    torch.testing.assert_close(screening.bound_leaves(messages(), 2.0, torch.zeros(5, dtype=torch.bool)), messages())
