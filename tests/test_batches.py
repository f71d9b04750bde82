"""Padded batches: minibatches visit every real example once an epoch, whatever the padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metabayfl import random
from metabayfl.batches import everything, examples, minibatches, take
from metabayfl.types import Batch
from scenarios import client, clients

KEY = random.key(1)


def numbered(real: int, padding: int = 0) -> Batch:
    """Examples whose value is their number; padded ones are negative."""
    x = torch.cat([torch.arange(real), -torch.ones(padding, dtype=torch.int64)])
    return Batch(x.unsqueeze(1).double(), x.clamp(min=0), (x >= 0).double())


def visited(part: Batch) -> list[float]:
    return part.x[part.mask > 0, 0].tolist()


@given(st.integers(0, 9), st.integers(0, 6), st.integers(1, 12), st.integers(1, 3))
def test_every_epoch_visits_each_real_example_once(real: int, padding: int, size: int, epochs: int) -> None:
    batch = numbered(real, padding)
    parts = minibatches(batch, size, epochs, KEY)
    per_epoch = -(-(real + padding) // size)
    assert len(parts) == epochs * per_epoch
    for epoch in range(epochs):
        own = parts[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(number for part in own for number in visited(part)) == list(range(real))
        full = [int(examples(part)) for part in own]
        assert full == sorted(full, reverse=True), "empty minibatches come last"


@given(st.integers(1, 9), st.integers(0, 6), st.integers(0, 12))
def test_padding_does_not_change_the_order(real: int, padding: int, size: int) -> None:
    plain = [visited(part) for part in minibatches(numbered(real), size, 2, KEY)]
    wide = [visited(part) for part in minibatches(numbered(real, padding), size, 2, KEY) if part.mask.sum() > 0]
    assert wide == plain


def test_orders_differ_between_epochs_and_keys() -> None:
    first, second = (visited(part) for part in minibatches(numbered(30), 30, 2, KEY))
    other = visited(minibatches(numbered(30), 30, 1, random.key(2))[0])
    assert first != second != other != first


def test_size_0_is_one_batch_with_real_examples_first() -> None:
    batch = numbered(3, 2)
    mixed = take(batch, torch.tensor([3, 0, 4, 1, 2]))
    parts = minibatches(mixed, 0, 2, KEY)
    assert [part.x[:, 0].tolist() for part in parts] == [[0, 1, 2, -1, -1]] * 2
    assert parts[0].mask.tolist() == [1, 1, 1, 0, 0]


def test_no_epochs_give_no_minibatches() -> None:
    assert minibatches(numbered(3), 2, 0, KEY) == []
    assert minibatches(numbered(3), 0, 0, KEY) == []


@pytest.mark.parametrize("size", [0, 4])
def test_vectorised_over_clients_equals_the_loop(size: int) -> None:
    tasks, keys = clients("classification"), random.keys(KEY, 4)
    together = torch.func.vmap(lambda task, key: [tuple(part) for part in minibatches(everything(task), size, 2, key)])(tasks, keys)
    for row in range(4):
        for part, alone in zip(together, minibatches(everything(client(tasks, row)), size, 2, keys[row]), strict=True):
            assert all(torch.equal(values[row], expected) for values, expected in zip(part, alone, strict=True))


def test_everything_is_support_then_query() -> None:
    task = client(clients("regression"), 0)
    both = everything(task)
    assert torch.equal(both.x, torch.cat([task.support.x, task.query.x]))
    assert torch.equal(both.y, torch.cat([task.support.y, task.query.y]))
    assert float(examples(both)) == 8


def test_take_repeats_and_reorders() -> None:
    taken = take(numbered(3, 1), torch.tensor([2, 2, 3]))
    assert taken.x[:, 0].tolist() == [2, 2, -1]
    assert taken.y.tolist() == [2, 2, 0]
    assert taken.mask.tolist() == [1, 1, 0]
