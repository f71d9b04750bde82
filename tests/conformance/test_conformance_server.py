"""What every ``begin`` and ``server`` must do, whatever the method."""

from __future__ import annotations

import pytest
import torch
from battery import CASES, FEDERATED, assert_close, assert_finite, case, messages, vectorised

from metabayfl import compression, tree
from metabayfl.aggregators import weighted_mean
from metabayfl.types import Aggregate, Message, ServerState

MEAN = weighted_mean()
ROUNDS = 8


def aggregate(message: Message) -> Aggregate:
    return MEAN.finish(MEAN.partial(message))


def one_round(name: str, kind: str) -> ServerState:
    one = case(name, kind)
    return one.algorithm.server(one.algorithm.begin(one.meta), aggregate(messages(name, kind)))


def assert_same_form(left: dict, right: dict) -> None:
    forms = [{path: (leaf.shape, leaf.dtype) for path, leaf in tree.flatten(value).items()} for value in (left, right)]
    assert forms[0] == forms[1]
    assert list(forms[0]) == list(forms[1])


@pytest.mark.parametrize("name, kind", CASES)
def test_a_round_keeps_the_form_of_the_state_and_its_inputs(name: str, kind: str) -> None:
    one, start = case(name, kind), case(name, kind).algorithm.begin(case(name, kind).meta)
    before = tree.map(torch.clone, start.meta), tree.map(torch.clone, start.optimizer)
    after = one.algorithm.server(start, aggregate(messages(name, kind)))
    assert_same_form(after.meta, start.meta)
    assert_same_form(after.optimizer, start.optimizer)
    assert_close((start.meta, start.optimizer), before, tolerance=0.0)
    assert_finite(after.meta)


@pytest.mark.parametrize("name, kind", FEDERATED)
def test_a_round_changes_the_strategy(name: str, kind: str) -> None:
    change = tree.norm(tree.subtract(one_round(name, kind).meta, case(name, kind).meta))
    assert change > 1e-6


@pytest.mark.parametrize("name, kind", [pair for pair in CASES if pair not in FEDERATED])
def test_nothing_is_learned_where_nothing_is_communicated(name: str, kind: str) -> None:
    assert_close(one_round(name, kind).meta, case(name, kind).meta, tolerance=0.0)


@pytest.mark.parametrize("name, kind", FEDERATED)
def test_the_order_of_clients_is_irrelevant(name: str, kind: str) -> None:
    together, order = messages(name, kind), torch.tensor([2, 0, 3, 1])
    metrics = {key: value[order] for key, value in together.metrics.items()}
    shuffled = Message(tree.map(lambda leaf: leaf[order], together.update), together.weight[order], metrics)
    assert_close(aggregate(shuffled), aggregate(together), tolerance=1e-12)


@pytest.mark.parametrize("name, kind", FEDERATED)
def test_a_stored_state_goes_on_to_the_same_bits(name: str, kind: str) -> None:
    one, state, codec = case(name, kind), one_round(name, kind), compression.exact()
    stored = ServerState(*(codec.decode(codec.encode(part, None), part) for part in state))
    total = aggregate(messages(name, kind))
    assert_close(one.algorithm.server(stored, total), one.algorithm.server(state, total), tolerance=0.0)


@pytest.mark.parametrize("name, kind", CASES)
def test_what_travels_arrives_in_the_same_form(name: str, kind: str) -> None:
    one, update = case(name, kind), tree.map(lambda leaf: leaf[0], messages(name, kind).update)
    for codec, value, key in ((one.algorithm.down, one.meta, None), (one.algorithm.up, update, one.keys[0])):
        arrived = codec.round_trip(value, key)
        assert_same_form(arrived, value)
        assert_close(codec.decode(codec.encode(value, key), value), arrived, tolerance=0.0)


@pytest.mark.parametrize("name, kind", FEDERATED)
def test_training_loss_falls_on_an_easy_problem(name: str, kind: str) -> None:
    one, losses = case(name, kind), []
    state = one.algorithm.begin(one.meta)
    for _ in range(ROUNDS):
        total = aggregate(vectorised(one._replace(meta=state.meta), one.tasks))
        losses.append(float(total.metrics["loss"] / total.metrics["examples"]))
        state = one.algorithm.server(state, total)
    assert losses[-1] < losses[0]
