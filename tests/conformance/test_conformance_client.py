"""What every ``client`` function must do, whatever the method."""

from __future__ import annotations

import pytest
import torch
from battery import CASES, FEDERATED, OBJECTIVES, assert_close, assert_finite, case, messages, row_of, single, vectorised

from metabayfl import tree
from metabayfl.aggregators import weighted_mean
from metabayfl.types import Batch, Task
from scenarios import client, padded_task, stack, unpadded_task

ROWS = range(4)


@pytest.mark.parametrize("name, kind", CASES)
def test_update_has_the_structure_of_the_strategy(name: str, kind: str) -> None:
    one, update = case(name, kind), row_of(messages(name, kind), 0).update
    assert list(tree.paths(update)) == list(tree.paths(one.meta))
    for path, leaf in tree.flatten(update).items():
        expected = tree.flatten(one.meta)[path]
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype), path


@pytest.mark.parametrize("name, kind", CASES)
def test_vectorised_equals_one_client_at_a_time(name: str, kind: str) -> None:
    one, together = case(name, kind), messages(name, kind)
    for row in ROWS:
        assert_close(row_of(together, row), single(one, client(one.tasks, row), row))


@pytest.mark.parametrize("name, kind", CASES)
def test_a_padded_client_sends_what_it_sends_without_padding(name: str, kind: str) -> None:
    one, together = case(name, kind), messages(name, kind)
    for row in ROWS:
        assert_close(row_of(together, row), single(one, unpadded_task(client(one.tasks, row)), row))


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("name, kind", CASES)
def test_huge_padded_rows_change_nothing(name: str, kind: str, extra: int) -> None:
    one = case(name, kind)
    huge = stack([padded_task(client(one.tasks, row), extra) for row in ROWS])
    assert_close(vectorised(one, huge), messages(name, kind))


@pytest.mark.parametrize("name, kind", CASES)
def test_a_client_without_examples_counts_for_nothing(name: str, kind: str) -> None:
    one = case(name, kind)
    empty = Task(*(Batch(part.x, part.y, torch.zeros_like(part.mask)) for part in client(one.tasks, 0)))
    message = single(one, empty, 0)
    assert_finite(message.update)
    assert_finite(message.metrics)
    assert (message.weight, message.metrics["examples"], message.metrics["loss"]) == (0, 0, 0)


@pytest.mark.parametrize("name, kind", CASES)
def test_messages_are_finite_sums_over_examples(name: str, kind: str) -> None:
    one, together = case(name, kind), messages(name, kind)
    count = one.tasks.support.mask.sum(1) + one.tasks.query.mask.sum(1)
    assert_finite(together.update)
    assert_finite(together.metrics)
    assert together.metrics.keys() >= {"loss", "examples"}
    assert ((together.weight > 0) & (together.weight <= count)).all()
    assert ((together.metrics["examples"] > 0) & (together.metrics["examples"] <= count)).all()


@pytest.mark.parametrize("name, kind", CASES)
def test_same_key_same_bits_and_inputs_stay_as_they_are(name: str, kind: str) -> None:
    one = case(name, kind)
    before = tree.map(torch.clone, one.meta), stack([client(one.tasks, row) for row in ROWS]), one.keys.clone()
    assert_close(vectorised(one, one.tasks), messages(name, kind), tolerance=0.0)
    assert_close((one.meta, one.tasks, one.keys), before, tolerance=0.0)


@pytest.mark.parametrize("name, kind", CASES)
def test_another_key_gives_another_finite_message(name: str, kind: str) -> None:
    one = case(name, kind)
    other = one._replace(keys=one.keys + 1)
    message = vectorised(other, one.tasks)
    assert_finite(message.update)
    assert_close(message.weight, messages(name, kind).weight, tolerance=0.0)


@pytest.mark.parametrize("name, kind", OBJECTIVES)
def test_update_is_the_gradient_of_the_objective(name: str, kind: str) -> None:
    one = case(name, kind)
    for row in ROWS[:2]:
        message, task = row_of(messages(name, kind), row), client(one.tasks, row)
        gradient, metrics = torch.func.grad(one.algorithm.objective, has_aux=True)(one.meta, task, one.keys[row])
        assert_close((message.update, message.metrics), (gradient, metrics))


@pytest.mark.parametrize("name, kind", OBJECTIVES)
def test_one_backward_pass_for_the_cohort_is_the_weighted_mean(name: str, kind: str) -> None:
    one, together, combine = case(name, kind), messages(name, kind), weighted_mean()

    def cohort_loss(meta: tree.Tree) -> torch.Tensor:
        losses, _ = torch.func.vmap(one.algorithm.objective, in_dims=(None, 0, 0))(meta, one.tasks, one.keys)
        return torch.sum(together.weight * losses) / together.weight.sum()

    assert_close(combine.finish(combine.partial(together)).update, torch.func.grad(cohort_loss)(one.meta))


@pytest.mark.parametrize("name, kind", [pair for pair in CASES if pair not in FEDERATED])
def test_a_method_that_is_not_federated_sends_zeros(name: str, kind: str) -> None:
    assert all(torch.count_nonzero(leaf) == 0 for leaf in tree.leaves(messages(name, kind).update))
