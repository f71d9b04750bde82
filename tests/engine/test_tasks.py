"""Padded blocks: nothing is lost, nothing is doubled, and a client's task does not depend on its neighbours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from metabayfl import random
from metabayfl.data import Federation
from metabayfl.engine import tasks

CPU = torch.device("cpu")


def _block(federation: Federation, positions: list[int]) -> tasks.Block:
    index = np.array(positions)
    return tasks.block(federation.train, index, tasks.client_keys(random.key(0), federation.train, index), 0.5, CPU)


def test_support_and_query_hold_every_sample_once(federation: Federation) -> None:
    block = _block(federation, [0, 3])
    for row, position in enumerate((0, 3)):
        parts = [batch.x[row][batch.mask[row] > 0] for batch in block.tasks]
        found = np.sort(torch.cat(parts).numpy(), axis=0)
        np.testing.assert_array_equal(found, np.sort(federation.train.read(position)[0], axis=0))


def test_labels_stay_with_their_inputs(federation: Federation) -> None:
    x, y = federation.train.read(4)
    where = {row.tobytes(): label for row, label in zip(x, y, strict=True)}
    support = _block(federation, [4]).tasks.support
    assert all(where[row.numpy().tobytes()] == int(label) for row, label in zip(support.x[0], support.y[0], strict=True))


def test_a_clients_task_does_not_depend_on_its_place_or_its_neighbours(federation: Federation) -> None:
    alone, together = _block(federation, [1]), _block(federation, [4, 1, 3])
    for own, shared in zip(alone.tasks, together.tasks, strict=True):
        real = int(own.mask[0].sum())
        torch.testing.assert_close(own.x[0, :real], shared.x[1, :real], rtol=0, atol=0)
        assert float(shared.mask[1].sum()) == real
    assert int(alone.keys[0]) == int(together.keys[1])


def test_another_round_draws_another_split(federation: Federation) -> None:
    index = np.array([4])
    blocks = [
        tasks.block(federation.train, index, tasks.client_keys(random.fold(random.key(0), number), federation.train, index), 0.5, CPU)
        for number in (0, 1)
    ]
    assert not torch.equal(blocks[0].tasks.support.x, blocks[1].tasks.support.x)


def test_support_sizes_leave_a_sample_on_either_side() -> None:
    assert tasks.support_sizes(np.array([1, 2, 3, 100]), 0.01).tolist() == [1, 1, 1, 1]
    assert tasks.support_sizes(np.array([1, 2, 3, 100]), 0.99).tolist() == [1, 1, 2, 99]


def test_chunks_hold_everyone_once_within_the_limit() -> None:
    sizes = np.random.default_rng(0).integers(1, 200, 57)
    parts = tasks.chunks(sizes, 8)
    assert sorted(np.concatenate(parts).tolist()) == list(range(57))
    assert max(len(part) for part in parts) <= 8
    assert all(sizes[first].min() >= sizes[second].max() for first, second in itertools.pairwise(parts))


def test_chunks_have_the_least_padding_for_their_number() -> None:
    sizes, call = np.random.default_rng(1).integers(1, 60, 9), 40
    ordered = np.sort(sizes)[::-1]

    def cost(ends: tuple[int, ...]) -> int:
        return sum(ordered[begin] * (end - begin) + call for begin, end in itertools.pairwise((0, *ends, 9)))

    best = min(cost(ends) for count in range(9) for ends in itertools.combinations(range(1, 9), count))
    assert sum(sizes[part].max() * len(part) + call for part in tasks.chunks(sizes, 100, call)) == best


@pytest.mark.parametrize("call, number", [(0, 4), (10_000, 1)])
def test_a_dear_call_means_few_chunks(call: int, number: int) -> None:
    assert len(tasks.chunks(np.array([3, 9, 5, 7, 5]), 100, call)) == number


def test_a_round_takes_at_most_so_many_samples(federation: Federation) -> None:
    index = np.array([0, 4])
    keys = tasks.client_keys(random.key(0), federation.train, index)
    block = tasks.block(federation.train, index, keys, 0.5, CPU, 8)
    counts = block.tasks.support.mask.sum(1) + block.tasks.query.mask.sum(1)
    assert counts.tolist() == [5.0, 8.0]


def test_single_clients_keep_their_order() -> None:
    assert [part.tolist() for part in tasks.chunks(np.array([3, 9, 5]), 1)] == [[0], [1], [2]]
