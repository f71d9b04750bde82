"""Three ways to the same aggregate, and combines that need every client."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from metabayfl import aggregators, compression, random, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Federation
from metabayfl.engine import cohort, rounds
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.pipeline import Pipeline
from metabayfl.models import mlp
from metabayfl.types import Aggregate, Algorithm, Message, Tree

EVERYONE = np.arange(8)


def _algorithm(name: str) -> Algorithm:
    return ALGORITHMS[name](mlp((4,), 3, hidden=(6, 5)))


def _run(algorithm: Algorithm, federation: Federation, options: TrainOptions, combine: aggregators.Combine | None = None) -> Aggregate:
    meta = tree.to(algorithm.init(random.key(1)), torch.float64)
    chosen = combine or aggregators.COMBINES[options.weighting]()
    return rounds.run_cohort(algorithm, Pipeline(chosen), {}, federation.train, EVERYONE, random.key(2), options, meta)


def _assert_equal(a: Aggregate, b: Aggregate) -> None:
    for left, right in zip(tree.leaves(a.update), tree.leaves(b.update), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)
    for name in a.metrics:
        torch.testing.assert_close(a.metrics[name], b.metrics[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_vectorised_equals_looped_for_every_algorithm(name: str, weighting: str, federation: Federation) -> None:
    options = TrainOptions(weighting=weighting)
    algorithm = _algorithm(name)._replace(up=compression.exact(), down=compression.exact())
    _assert_equal(_run(algorithm, federation, options), _run(algorithm, federation, dataclasses.replace(options, vectorise=False)))


@pytest.mark.parametrize("name", sorted(name for name in ALGORITHMS if _algorithm(name).objective is not None))
def test_one_pass_for_the_cohort_equals_the_sum_of_the_clients(name: str, federation: Federation) -> None:
    algorithm = _algorithm(name)._replace(up=compression.exact(), down=compression.exact(), clients=None)
    assert cohort.takes_one_pass(algorithm)
    _assert_equal(_run(algorithm, federation, TrainOptions()), _run(algorithm._replace(objective=None), federation, TrainOptions()))


def test_chunks_change_nothing(federation: Federation) -> None:
    algorithm = _algorithm("fedavg")
    _assert_equal(_run(algorithm, federation, TrainOptions(chunk=1)), _run(algorithm, federation, TrainOptions(chunk=100)))


def test_the_total_of_partials_leaves_them_as_they_are() -> None:
    parts = [{"update": torch.full((2,), float(number))} for number in (1, 2, 4)]
    for count, expected in ((1, 1.0), (2, 3.0), (3, 7.0)):
        assert cohort.total(iter(parts[:count]))["update"].tolist() == [expected] * 2
    assert [float(part["update"][0]) for part in parts] == [1.0, 2.0, 4.0]


def _first_client() -> aggregators.Combine:
    def partial(messages: Message) -> Tree:
        order = torch.argsort(messages.weight)  # a combine that no sum can express
        return {"update": tree.map(lambda leaf: leaf[order[0]], messages.update), "weight": messages.weight[order[0]], "count": messages.weight}

    def finish(total: Tree) -> Aggregate:
        return Aggregate(total["update"], total["weight"], {"clients": torch.tensor(len(total["count"]))})

    return aggregators.Combine("first", "each", lambda examples: examples, partial, finish)


def test_a_combine_that_needs_each_update_sees_the_whole_cohort(federation: Federation) -> None:
    algorithm = _algorithm("maml")
    found = _run(algorithm, federation, TrainOptions(chunk=2), _first_client())
    assert int(found.metrics["clients"]) == len(EVERYONE)
    assert float(found.weight) == 5.0


def test_compressed_messages_are_not_taken_in_one_pass() -> None:
    algorithm = _algorithm("maml")
    assert not cohort.takes_one_pass(algorithm._replace(up=compression.int8()))
