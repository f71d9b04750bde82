"""Guards: their halves run in order and in reverse, on every way through the engine, and their state is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.aggregators import Combine, DefenceOptions, fixed_mean, uniform_mean, weighted_mean
from metabayfl.aggregators.comparison import SHUT
from metabayfl.algorithms import ALGORITHMS
from metabayfl.attacks import AttackOptions, hostile
from metabayfl.data import Federation
from metabayfl.engine import job, pipeline, rounds, standing, tasks
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.pipeline import Pipeline
from metabayfl.models import mlp
from metabayfl.types import Aggregate, Algorithm, Guard, Key, Message, Tree

KEY = random.key(5)


def scaling(name: str, factor: float, seen: list[str]) -> Guard:
    """Multiplies every message, counts rounds, and adds a constant to the aggregate."""

    def server(state: Tree, aggregate: Aggregate, key: Key) -> tuple[Tree, Aggregate]:
        seen.append(name)
        moved = tree.map(lambda leaf: leaf + random.uniform(key, (), leaf.dtype), aggregate.update)
        return {"rounds": state["rounds"] + 1}, aggregate._replace(update=moved)

    def client(state: Tree, message: Message, key: Key) -> Message:
        return message._replace(update=tree.scale(message.update, factor), metrics={})

    return Guard(name, lambda meta: {"rounds": torch.zeros((), dtype=torch.int64)}, client, server)


@pytest.fixture
def algorithm() -> Algorithm:
    network = mlp((4,), 3, hidden=(6,))
    return ALGORITHMS["fedavg"](network)._replace(init=lambda key: tree.to(network.init(key), torch.float64))


def cohort(algorithm: Algorithm, federation: Federation, steps: Pipeline, options: TrainOptions, count: int = 8) -> Aggregate:
    meta = algorithm.init(random.key(1))
    return rounds.run_cohort(algorithm, steps, pipeline.begin(steps, meta), federation.train, np.arange(count), KEY, options, meta)


@pytest.mark.parametrize("options", [TrainOptions(), TrainOptions(chunk=3), TrainOptions(vectorise=False)])
@pytest.mark.parametrize("combine", [weighted_mean(), weighted_mean()._replace(needs="each")])
def test_guards_see_every_message_on_every_way(algorithm: Algorithm, federation: Federation, options: TrainOptions, combine: Combine) -> None:
    plain = cohort(algorithm, federation, Pipeline(combine), options)
    guarded = cohort(algorithm, federation, Pipeline(combine, (scaling("a", 3.0, []), scaling("b", 0.5, []))), options)
    assert guarded.metrics == {}
    for left, right in zip(tree.leaves(guarded.update), tree.leaves(plain.update), strict=True):
        torch.testing.assert_close(left, 1.5 * right, rtol=1e-10, atol=1e-12)


def test_one_backward_pass_is_not_taken_past_a_guard(federation: Federation) -> None:
    network = mlp((4,), 3, hidden=(6, 5))
    exact = ALGORITHMS["meta_bayfl"](network, generator="full", up="exact", down="exact")
    assert Pipeline(weighted_mean()).plain
    assert not Pipeline(weighted_mean(), (scaling("a", 2.0, []),)).plain
    built = exact._replace(init=lambda key: tree.to(exact.init(key), torch.float64))
    once, twice = (cohort(built, federation, Pipeline(weighted_mean(), guards), TrainOptions()) for guards in ((), (scaling("a", 2.0, []),)))
    for left, right in zip(tree.leaves(twice.update), tree.leaves(once.update), strict=True):
        torch.testing.assert_close(left, 2.0 * right, rtol=1e-9, atol=1e-11)


def test_server_halves_run_in_reverse_with_noise_of_their_own() -> None:
    seen: list[str] = []
    steps = Pipeline(uniform_mean(), (scaling("a", 1.0, seen), scaling("b", 1.0, seen)))
    aggregate = Aggregate({"w": torch.zeros(2)}, torch.tensor(1.0), {})
    states, moved = pipeline.on_aggregate(steps, pipeline.begin(steps, aggregate.update), aggregate, KEY)
    assert seen == ["b", "a"]
    assert {name: int(state["rounds"]) for name, state in states.items()} == {"a": 1, "b": 1}
    expected = sum(float(random.uniform(random.fold(KEY, name), (), torch.float32)) for name in "ab")
    torch.testing.assert_close(moved.update["w"], torch.full((2,), expected))


def test_the_fixed_mean_divides_by_the_expected_number_and_skips_clients_without_examples() -> None:
    messages = Message({"w": torch.tensor([[2.0], [4.0], [8.0]])}, torch.tensor([5.0, 1.0, 0.0]), {})
    combine = fixed_mean(4.0)
    aggregate = combine.finish(combine.partial(messages))
    assert aggregate.update["w"].tolist() == [1.5]
    assert float(aggregate.weight) == 2.0


def test_an_empty_cohort_moves_nothing(algorithm: Algorithm, federation: Federation) -> None:
    aggregate = cohort(algorithm, federation, Pipeline(weighted_mean()), TrainOptions(), count=0)
    assert all(not leaf.any() for leaf in tree.leaves(aggregate.update))
    assert rounds.mean_loss(aggregate) == (None, 0)


def test_standings_are_learned_and_lie_in_the_checkpoint(algorithm: Algorithm, federation: Federation, tmp_path: Path) -> None:
    base = TrainOptions(cohort=6, validate_every=0, checkpoint_every=2, defence=DefenceOptions(memory=1.0), attack=AttackOptions("sign_flip"))

    def run(counts: tuple[int, ...], folder: str) -> rounds.TrainState:
        for count in counts:
            options = dataclasses.replace(base, rounds=count)
            screened.append([info.screened for _, info in job.run(tmp_path / folder, algorithm, federation, options, 0, "a")])
        return job.restore(tmp_path / folder, algorithm, options, 0, "a")

    screened: list[list[int]] = []
    twice, whole = run((5, 12), "twice"), run((12,), "whole")
    assert screened[0] + screened[1] == screened[2]
    assert screened[2][0] == 0
    assert sum(screened[2]) > 0
    known = whole.guards[standing.STANDINGS]
    seats = standing.seated(tasks.names(federation.train.ids), known["names"])
    bad = known["cause"][seats] / (known["rounds"][seats] + standing.DOUBT) > SHUT
    assert (bad == hostile(federation.train.ids, 0.2, random.key(0))).all()
    assert all((left == right).all() for left, right in zip(tree.leaves(twice.guards), tree.leaves(whole.guards), strict=True))
    assert known["rounds"].sum() == 12 * 6


def test_guards_states_lie_in_the_checkpoint(algorithm: Algorithm, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build", lambda options: Pipeline(uniform_mean(), (scaling("a", 1.0, []),)))
    for count in (2, 5):  # the second run goes on from the first one's checkpoint
        options = TrainOptions(rounds=count, cohort=3, validate_every=0, checkpoint_every=2)
        infos = [info for _, info in job.run(tmp_path, algorithm, federation, options, 0, "a")]
    state = job.restore(tmp_path, algorithm, options, 0, "a")
    assert len(infos) == 3
    assert [info.loss for info in infos] == [None] * 3
    assert int(state.guards["a"]["rounds"]) == 5
