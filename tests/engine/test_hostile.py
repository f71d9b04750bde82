"""Hostile clients in the engine: who they are, what they send on every way through it, and what a defence makes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.aggregators import DefenceOptions, build_combine, geometric, uniform_mean
from metabayfl.aggregators.rows import rows
from metabayfl.algorithms import ALGORITHMS
from metabayfl.attacks import AttackOptions, hostile
from metabayfl.data import Federation
from metabayfl.engine import pipeline, rounds
from metabayfl.engine.options import TrainOptions
from metabayfl.errors import ConfigError, MetabayflError
from metabayfl.models import mlp
from metabayfl.types import Aggregate, Algorithm, Message, Tree

KEY = random.key(5)
COHORT = np.array([6, 1, 4, 0, 7, 3, 2])


@pytest.fixture(params=["fedavg", "meta_bayfl"])
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    """One that brings its own function for a block, and one that is mapped; in float64."""
    network = mlp((4,), 3, hidden=(6, 5))
    options = {"generator": "full", "up": "exact", "down": "exact"} if request.param == "meta_bayfl" else {}
    built = ALGORITHMS[request.param](network, **options)
    return built._replace(init=lambda key: tree.to(built.init(key), torch.float64))


def aggregate(algorithm: Algorithm, federation: Federation, options: TrainOptions) -> Aggregate:
    steps = pipeline.infiltrated(pipeline.build(options), options, federation.train, algorithm.model, 0)
    meta = algorithm.init(random.key(1))
    return rounds.run_cohort(algorithm, steps, {}, federation.train, COHORT, KEY, options, meta)


def numbers(update: Tree) -> torch.Tensor:
    return rows(tree.map(lambda leaf: leaf.unsqueeze(0), update))[0]


WAYS = [{"chunk": 3}, {"vectorise": False}]
DEFENCES = [None, DefenceOptions("trimmed_mean", share=0.2), DefenceOptions("geometric_median"), DefenceOptions("median", share=0.1, bucket=2)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("defence", DEFENCES)
@pytest.mark.parametrize("name", ["gaussian", "label_flip", "backdoor", "a_little"])
def test_every_way_gives_the_same_numbers(
    algorithm: Algorithm, federation: Federation, way: dict[str, int], defence: DefenceOptions | None, name: str
) -> None:
    options = {"weighting": "uniform", "defence": defence, "attack": AttackOptions(name, share=0.25)}
    whole, other = (aggregate(algorithm, federation, TrainOptions(**options, **more)) for more in ({}, way))
    torch.testing.assert_close(numbers(other.update), numbers(whole.update), rtol=1e-9, atol=1e-11)
    assert float(other.weight) == float(whole.weight)


def test_hostile_clients_turn_their_own_share_of_the_sum(algorithm: Algorithm, federation: Federation) -> None:
    """With all of them turned round the mean is turned round, and two of eight are the same two every time."""
    clean = aggregate(algorithm, federation, TrainOptions(weighting="uniform"))
    turned = aggregate(algorithm, federation, TrainOptions(weighting="uniform", attack=AttackOptions("sign_flip", share=1.0)))
    torch.testing.assert_close(numbers(turned.update), -numbers(clean.update), rtol=1e-9, atol=1e-11)
    nobody = aggregate(algorithm, federation, TrainOptions(weighting="uniform", attack=AttackOptions("sign_flip", share=0.0)))
    torch.testing.assert_close(numbers(nobody.update), numbers(clean.update), rtol=1e-9, atol=1e-11)


def test_passes_over_sums_are_the_whole_cohorts_geometric_median(algorithm: Algorithm, federation: Federation) -> None:
    seen: list[Message] = []

    def keep(messages: Message) -> Tree:
        seen.append(messages)
        return uniform_mean().partial(messages)

    meta = algorithm.init(random.key(1))
    watched = pipeline.Pipeline(uniform_mean()._replace(needs="each", linear=False, partial=keep))
    rounds.run_cohort(algorithm, watched, {}, federation.train, COHORT, KEY, TrainOptions(), meta)
    found = aggregate(algorithm, federation, TrainOptions(chunk=2, defence=DefenceOptions("geometric_median")))
    torch.testing.assert_close(numbers(found.update), geometric.geometric_median(rows(seen[0].update), 0), rtol=1e-9, atol=1e-11)


def test_an_empty_cohort_moves_nothing_under_any_defence(algorithm: Algorithm) -> None:
    meta = algorithm.init(random.key(1))
    for name in ("mean", "median", "geometric_median"):
        found = rounds.nobody(build_combine(DefenceOptions(name), uniform_mean()), meta)
        assert not numbers(found.update).any()


def test_a_defended_run_goes_through_bombs_and_says_how_many(algorithm: Algorithm, federation: Federation) -> None:
    attacked = AttackOptions("not_a_number", share=0.25)
    options = TrainOptions(rounds=4, cohort=6, validate_every=2, attack=attacked, defence=DefenceOptions("median"))
    infos = [info for _, info in rounds.rounds(algorithm, federation, options, 0)]
    assert all(info.loss is not None and math.isfinite(info.loss) for info in infos)
    assert {info.screened for info in infos} <= {0, 1, 2}
    assert any(info.screened for info in infos)


def test_an_undefended_run_dies_of_bombs_with_a_clear_error(algorithm: Algorithm, federation: Federation) -> None:
    options = TrainOptions(rounds=4, cohort=8, validate_every=0, attack=AttackOptions("not_a_number", share=0.25))
    with pytest.raises(MetabayflError, match=r"the training loss of .* is nan in round"):
        list(rounds.rounds(algorithm, federation, options, 0))


def test_the_same_clients_are_hostile_in_every_round_of_a_seed(federation: Federation) -> None:
    options = TrainOptions(attack=AttackOptions("sign_flip", share=0.25))
    network = mlp((4,), 3, hidden=(6,))
    first, again, other = (pipeline.infiltrated(pipeline.build(options), options, federation.train, network, seed).hostile for seed in (0, 0, 1))
    assert first is not None
    assert torch.equal(first, hostile(federation.train.ids, 0.25, random.key(0)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_options_refuse_what_cannot_work() -> None:
    with pytest.raises(ConfigError, match="krum has 4 messages"):
        TrainOptions(cohort=4, defence=DefenceOptions("krum"))
    with pytest.raises(ConfigError, match="unknown attack 'backdor': did you mean 'backdoor'"):
        TrainOptions(attack=AttackOptions("backdor"))
