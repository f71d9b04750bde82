"""Populations that come and go: the promised frequencies, cohorts that the seed decides, liars, and rounds in which nobody is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from metabayfl import config, random, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Clients, Federation
from metabayfl.engine import job, pipeline, population, tasks
from metabayfl.engine.asynchronous import AsynchronousOptions
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.population import Population, PopulationOptions, Turnout
from metabayfl.engine.rounds import RoundInfo, begin, one_round, rounds, run_cohort
from metabayfl.errors import ConfigError
from metabayfl.models import mlp
from metabayfl.types import Aggregate, Algorithm

COUNT = 20_000


def named(count: int) -> Clients:
    sizes = np.full(count, 10)
    return Clients(tuple(f"client-{number}" for number in range(count)), sizes, sizes, lambda position: pytest.fail("nobody asked for data"))


def crowd(count: int = COUNT, sampler: str = "uniform", seed: int = 0, **options: object) -> Population:
    return population.settle(PopulationOptions(**options), sampler, named(count), seed)  # type: ignore[arg-type]


def turn_up(people: Population, cohort: int, number: int, seed: int = 0) -> tuple[list[int], Turnout]:
    key = random.fold(random.key(seed), "round", number)
    positions, turnout = population.turn_up(people, cohort, np.random.default_rng([seed, number]), key, number)
    return positions.tolist(), turnout


def near(share: float, expected: float, draws: int = COUNT) -> bool:
    """Within five standard deviations of a binomial share."""
    return abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws)


@pytest.fixture
def algorithm() -> Algorithm:
    network = mlp((4,), 3, hidden=(6,))
    return ALGORITHMS["fedavg"](network)._replace(init=lambda key: tree.to(network.init(key), torch.float64))


def test_without_options_everyone_is_always_there_and_answers_at_once() -> None:
    people = crowd(50)
    assert population.present(people, 12345).all()
    positions, turnout = turn_up(people, 10, 3)
    assert positions == np.random.default_rng([0, 3]).choice(50, 10, replace=False).tolist()
    assert turnout == Turnout(clients=10, available=50, sampled=10, lost=0, duration=1.0)


def test_a_random_trace_has_a_probability_for_each_client() -> None:
    people = crowd(trace="random", low=0.2, high=0.6)
    there = np.stack([population.present(people, hour) for hour in range(200)])
    assert near(float(there.mean()), 0.4, there.size)
    lazy, busy = people.chance < 0.1, people.chance > 0.9
    assert near(float(there[:, lazy].mean()), 0.2 + 0.4 * float(people.chance[lazy].mean()), int(200 * lazy.sum()))
    assert near(float(there[:, busy].mean()), 0.2 + 0.4 * float(people.chance[busy].mean()), int(200 * busy.sum()))


def test_a_day_is_a_cosine_between_low_and_high_that_the_clients_share_in_one_time_zone() -> None:
    people = crowd(trace="diurnal", low=0.1, high=0.8, rounds_per_day=24.0, phase_spread=0.0)
    shares = [float(population.present(people, hour).mean()) for hour in range(48)]
    for hour, share in enumerate(shares):
        assert near(share, 0.1 + 0.7 * (1 + np.cos(2 * np.pi * hour / 24)) / 2)


def test_days_shifted_all_over_the_world_are_the_same_at_every_hour() -> None:
    people = crowd(trace="diurnal", low=0.1, high=0.8, rounds_per_day=24.0)
    assert all(near(float(population.present(people, hour).mean()), 0.45) for hour in range(24))
    wave = np.stack([population.probability(people, hour) for hour in range(24)])
    np.testing.assert_allclose(wave.mean(0), 0.45)
    np.testing.assert_array_less(0.1 + 0.7 * 0.99, wave.max(0))


def test_the_promised_share_drops_out_anew_in_every_round() -> None:
    people = crowd(dropout=0.3)
    first, second = ({*turn_up(people, COUNT, number)[0]} for number in (0, 1))
    assert near(len(first) / COUNT, 0.7)
    assert near(len(first & second) / COUNT, 0.49)


def test_clients_join_leave_and_come_back_in_this_order() -> None:
    people = crowd(join_share=0.4, leave_share=0.5, return_share=0.2, turnover=100.0)
    leavers, back = np.isfinite(people.leaves), np.isfinite(people.returns)
    assert (people.joins <= people.leaves).all()
    assert (people.leaves <= people.returns).all()
    assert (people.returns[back] <= 100.0).all()
    assert near(float((people.joins > 0).mean()), 0.4)
    assert near(float(leavers.mean()), 0.5)
    assert near(float(back.mean()), 0.1)
    assert near(float(population.belongs(people, 101).mean()), 0.5 + 0.1)
    middle = population.belongs(people, 50)
    np.testing.assert_array_equal(middle, ((people.joins <= 50) & (people.leaves > 50)) | (people.returns <= 50))


def test_response_times_are_log_normal_and_those_beyond_the_deadline_are_lost() -> None:
    people = crowd(slowness=0.8, jitter=0.6, deadline=2.0)
    everyone, keys = np.arange(COUNT), random.keys(random.key(4), COUNT)
    free = population.answers(people._replace(options=PopulationOptions(slowness=0.8, jitter=0.6)), everyone, keys)
    logs = np.log(free.time)
    assert abs(logs.mean()) < 5 / np.sqrt(COUNT)
    assert abs(logs.std() - 1.0) < 5 / np.sqrt(2 * COUNT)
    late = population.answers(people, everyone, keys)
    np.testing.assert_array_equal(late.lost, free.time > 2.0)
    np.testing.assert_array_equal(late.time, np.minimum(free.time, 2.0))
    assert near(float(late.lost.mean()), float(norm.sf(np.log(2.0))))


def test_a_client_is_the_same_whoever_else_there_is() -> None:
    options = {"trace": "diurnal", "join_share": 0.5, "leave_share": 0.5, "slowness": 1.0, "liars": 0.5}
    few, many = crowd(100, **options), crowd(200, **options)
    for name in ("phase", "joins", "leaves", "pace", "claims"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:100])
    np.testing.assert_array_equal(population.present(few, 7), population.present(many, 7)[:100])


def test_the_seed_decides_the_cohorts() -> None:
    options = {"trace": "diurnal", "dropout": 0.3, "slowness": 0.5, "jitter": 0.5, "deadline": 3.0, "overselect": 1.3}
    once, again, other = (crowd(1000, seed=seed, **options) for seed in (0, 0, 1))
    assert [turn_up(once, 10, number) for number in range(20)] == [turn_up(again, 10, number) for number in range(20)]
    assert turn_up(once, 10, 0)[0] != turn_up(other, 10, 0, seed=1)[0]


def test_only_clients_that_are_there_are_asked() -> None:
    people = crowd(1000, trace="diurnal", low=0.0, high=0.3, phase_spread=0.0)
    for number in range(24):
        positions, turnout = turn_up(people, 10, number)
        there = population.present(people, number)
        assert there[positions].all()
        assert (turnout.available, turnout.sampled) == (there.sum(), min(10, there.sum()))


def test_more_are_asked_so_that_the_first_answers_fill_the_cohort() -> None:
    people = crowd(1000, dropout=0.3, slowness=1.0, overselect=2.0)
    for number in range(20):
        positions, turnout = turn_up(people, 10, number)
        asked = people.sampler(np.random.default_rng([0, number]), 20, np.arange(1000))
        keys = tasks.client_keys(random.fold(random.key(0), "round", number), named(1000), asked)
        own = population.answers(people, asked, keys)
        fastest = np.sort(own.time[~own.lost])[:10]
        assert positions == asked[~own.lost & (own.time <= fastest[-1])].tolist()
        assert turnout == Turnout(len(positions), 1000, 20, int(own.lost.sum()), fastest[-1] if len(positions) == 10 else own.time.max())


def test_a_round_that_loses_answers_waits_for_the_last_one() -> None:
    turnout = turn_up(crowd(1000, dropout=0.5, slowness=1.0, deadline=4.0), 200, 0)[1]
    assert turnout.clients + turnout.lost == turnout.sampled == 200
    assert turnout.duration == 4.0


def aggregate(algorithm: Algorithm, federation: Federation, options: TrainOptions, people: Population | None = None) -> Aggregate:
    own = people or population.settle(options.population, options.sampler, federation.train, 0)
    return one_round(algorithm, federation.train, own, pipeline.build(options), options, 0, begin(algorithm, options, 0))[1]


@pytest.mark.parametrize("name", ["fedavg", "meta_bayfl"])
def test_a_liar_counts_for_as_many_examples_as_it_claims(name: str, federation: Federation) -> None:
    network = mlp((4,), 3, hidden=(6, 5))
    given = {"generator": "full", "up": "exact", "down": "exact"} if name == "meta_bayfl" else {}
    built = ALGORITHMS[name](network, **given)
    method = built._replace(init=lambda key: tree.to(built.init(key), torch.float64))
    options = TrainOptions(cohort=8, population=PopulationOptions(liars=0.4, lie=5.0))
    people = population.settle(options.population, "uniform", federation.train, 0)
    assert set(people.claims) == {1.0, 5.0}
    key, meta = random.fold(random.key(0), "round", 0), begin(method, options, 0).server.meta
    singles = [run_cohort(method, pipeline.build(options), {}, federation.train, np.array([at]), key, options, meta) for at in range(8)]
    weights = people.claims * federation.train.sizes / (people.claims * federation.train.sizes).sum()
    expected = [
        sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)) for leaves in zip(*(tree.leaves(one.update) for one in singles), strict=True)
    ]
    lied, fair = aggregate(method, federation, options), aggregate(method, federation, TrainOptions(cohort=8))
    for left, right in zip(tree.leaves(lied.update), expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
    assert tree.norm(tree.subtract(lied.update, fair.update)) > 1e-3 * tree.norm(fair.update)
    assert float(lied.metrics["examples"]) == float(fair.metrics["examples"])


def test_lies_about_size_gain_nothing_where_every_client_counts_the_same(algorithm: Algorithm, federation: Federation) -> None:
    lied, fair = (
        aggregate(algorithm, federation, TrainOptions(cohort=8, weighting="uniform", population=PopulationOptions(liars=share)))
        for share in (0.5, 0.0)
    )
    for left, right in zip(tree.leaves(lied.update), tree.leaves(fair.update), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)


def test_sampling_by_size_believes_the_liars() -> None:
    people = crowd(10, sampler="size", liars=0.5, lie=4.0)
    liars = people.claims > 1.0
    drawn = np.array([population.ask(people, np.random.default_rng(seed), 1, np.arange(10))[0] for seed in range(4000)])
    assert 0 < liars.sum() < 10
    assert near(float(liars[drawn].mean()), float(people.claims[liars].sum() / people.claims.sum()), 4000)


@pytest.mark.parametrize("sampler", ["uniform", "poisson", "size", "diverse"])
def test_a_round_with_nobody_changes_nothing(sampler: str, algorithm: Algorithm, federation: Federation) -> None:
    nobody = PopulationOptions(trace="diurnal", low=0.0, high=1e-9, phase_spread=0.0)
    options = TrainOptions(rounds=2, cohort=3, sampler=sampler, validate_every=0, population=nobody)
    start = begin(algorithm, options, 0)
    for state, info in rounds(algorithm, federation, options, 0):
        assert (info.clients, info.available, info.sampled, info.lost, info.loss, info.duration) == (0, 0, 0, 0, None, 0.0)
        assert all(torch.equal(left, right) for left, right in zip(tree.leaves(state.best), tree.leaves(start.best), strict=True))


def test_a_stopped_run_goes_on_with_the_same_clients(algorithm: Algorithm, federation: Federation, tmp_path: Path) -> None:
    faults = PopulationOptions(trace="diurnal", dropout=0.3, join_share=0.3, leave_share=0.5, turnover=6, slowness=0.5, deadline=1.5, liars=0.3)
    options = TrainOptions(rounds=8, cohort=5, validate_every=2, checkpoint_every=3, population=faults)
    whole = list(job.run(tmp_path / "whole", algorithm, federation, options, 0, "a"))
    stopped = job.run(tmp_path / "stopped", algorithm, federation, options, 0, "a")
    first = [info for _, info in (next(stopped) for _ in range(4))]
    stopped.close()
    rest = list(job.run(tmp_path / "stopped", algorithm, federation, options, 0, "a"))
    infos = [info._replace(seconds=0.0) for info in (*first, *(info for _, info in rest))]
    assert infos == [info._replace(seconds=0.0) for _, info in whole]
    assert all(torch.equal(left, right) for left, right in zip(tree.leaves(rest[-1][0].best), tree.leaves(whole[-1][0].best), strict=True))
    assert [row["lost"] for row in job.read_metrics(tmp_path / "stopped" / job.METRICS)] == [info.lost for info in infos]
    assert {*job.read_metrics(tmp_path / "whole" / job.METRICS)[0]} == {*RoundInfo._fields}


def test_a_config_gives_population_and_server_as_tables(tmp_path: Path) -> None:
    text = '[data]\nsource = "digits"\n[model]\nname = "mlp"\n[train]\ncohort = 5\n[train.population]\ntrace = "diurnal"\ndropout = 0.3\n'
    text += "[train.asynchronous]\nbuffer = 4\n"
    (tmp_path / "a.toml").write_text(text + '[algorithm.fedavg]\ntrain.population.trace = "random"\n')
    read = config.read(tmp_path / "a.toml")
    assert read.train.population == PopulationOptions(trace="diurnal", dropout=0.3)
    assert read.train.asynchronous == AsynchronousOptions(buffer=4)
    assert config.train_options(read, "fedavg").population == PopulationOptions(trace="random")
    (tmp_path / "b.toml").write_text(text.replace("dropout", "drop_out"))
    with pytest.raises(ConfigError, match="did you mean 'dropout'"):
        config.read(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trace": "dirunal"}, "did you mean 'diurnal'"),
        ({"low": 0.9, "high": 0.1}, "not below low"),
        ({"low": 0.0, "high": 0.0}, "above 0"),
        ({"dropout": 1.0}, "a share below 1"),
        ({"dropout": float("nan")}, "between 0 and 1"),
        ({"liars": -0.1}, "liars is -0.1, expected a share between 0 and 1"),
        ({"rounds_per_day": 0.0}, "rounds_per_day is 0.0, expected a number above 0"),
        ({"deadline": -1.0}, "deadline is -1.0, expected 0 or more"),
        ({"overselect": 0.9}, "overselect is 0.9, expected 1 or more"),
    ],
)
def test_options_refuse_populations_that_cannot_be(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PopulationOptions(**wrong)  # type: ignore[arg-type]


def test_poisson_cohorts_cannot_be_filled_up() -> None:
    with pytest.raises(ConfigError, match="no fixed cohort"):
        TrainOptions(sampler="poisson", population=PopulationOptions(overselect=1.3))
