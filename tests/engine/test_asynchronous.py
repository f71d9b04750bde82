"""Buffered asynchronous aggregation: rounds as a special case, staleness by hand, the same bits after a stop, and an end where nobody comes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metabayfl import tree
from metabayfl.aggregators import uniform_mean
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Clients, Federation, in_memory
from metabayfl.engine import asynchronous, job, pipeline, population
from metabayfl.engine.asynchronous import AsynchronousOptions
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.pipeline import Pipeline
from metabayfl.engine.population import Population, PopulationOptions, Turnout
from metabayfl.engine.rounds import TrainState, begin, one_buffer, rounds
from metabayfl.errors import ConfigError, MetabayflError
from metabayfl.models import mlp
from metabayfl.types import Aggregate, Algorithm, Guard, Key, Message, ServerState, Task, Tree

RATE = 0.25
SLOW = PopulationOptions(slowness=0.7, jitter=0.5, dropout=0.2)


def built(name: str, **arguments: object) -> Algorithm:
    method = ALGORITHMS[name](mlp((4,), 3, hidden=(6, 5)), **arguments)
    return method._replace(init=lambda key: tree.to(method.init(key), torch.float64))


def pulled(targets: tuple[float, ...]) -> tuple[Algorithm, Clients]:
    """The scalar quadratics ``(w - b_c)^2 / 2`` from ``w = 0``: client ``c`` answers with its gradient, and the server's rate is :data:`RATE`."""

    def client(meta: Tree, task: Task, key: Key) -> Message:
        return Message({"w": meta["w"] - task.query.x.sum()}, torch.ones((), dtype=torch.float64), {})

    def server(state: ServerState, aggregate: Aggregate) -> ServerState:
        return state._replace(meta=tree.step(state.meta, aggregate.update, RATE))

    method = built("fedavg")._replace(init=lambda key: {"w": torch.zeros((), dtype=torch.float64)}, client=client, server=server, clients=None)
    data = [(np.full((2, 1), target), np.zeros(2, dtype=np.int64)) for target in targets]  # one sample is support, the other the query
    return method, in_memory("abcdef"[: len(targets)], data, [2] * len(targets))


def settled(clients: Clients, pace: tuple[float, ...]) -> Population:
    """Clients that take exactly ``pace`` to answer."""
    return population.settle(PopulationOptions(), "uniform", clients, 0)._replace(pace=np.array(pace))


def walk(targets: tuple[float, ...], pace: tuple[float, ...], count: int, **given: object) -> tuple[list[float], list[Turnout], TrainState]:
    """The scalar's way, who took part in each step, and the last state."""
    method, clients = pulled(targets)
    options = TrainOptions(asynchronous=AsynchronousOptions(**given))  # type: ignore[arg-type]
    people, state, way, turnouts = settled(clients, pace), begin(method, options, 0), [], []
    for _ in range(count):
        state, _, turnout = one_buffer(method, clients, people, pipeline.build(options), options, 0, state)
        way.append(float(state.server.meta["w"]))
        turnouts.append(turnout)
    return way, turnouts, state


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "maml", "meta_bayfl"])
@pytest.mark.parametrize("cohort", [3, 8])
def test_equal_clients_that_fill_the_buffer_at_once_are_a_round(name: str, cohort: int, federation: Federation) -> None:
    method = built(name, **({"generator": "full"} if name == "meta_bayfl" else {}))
    options = TrainOptions(rounds=5, cohort=cohort, validate_every=2)
    buffered = TrainOptions(rounds=5, validate_every=2, asynchronous=AsynchronousOptions(concurrency=cohort, buffer=cohort))
    for (one, here), (other, there) in zip(rounds(method, federation, options, 3), rounds(method, federation, buffered, 3), strict=True):
        assert here._replace(seconds=0.0) == there._replace(seconds=0.0)
        for left, right in zip(tree.leaves(one.server._asdict()), tree.leaves(other.server._asdict()), strict=True):
            torch.testing.assert_close(left, right, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, method in ALGORITHMS.items() if method(mlp((4,), 3, hidden=(6, 5))).federated])
def test_every_federated_algorithm_runs(name: str, federation: Federation) -> None:
    options = TrainOptions(rounds=3, validate_every=0, population=SLOW, asynchronous=AsynchronousOptions(concurrency=5, buffer=3))
    infos = [info for _, info in rounds(built(name), federation, options, 0)]
    assert [info.clients for info in infos] == [3, 3, 3]
    assert all(info.loss is not None and math.isfinite(info.loss) for info in infos)


@pytest.mark.parametrize("name", ["fedavg", "meta_bayfl", "per_fedavg"])
def test_stale_buffers_are_the_same_on_every_way_through_the_engine(name: str, federation: Federation) -> None:
    method = built(name, **({"generator": "full", "up": "exact", "down": "exact"} if name == "meta_bayfl" else {}))
    options = TrainOptions(rounds=6, validate_every=0, population=SLOW, asynchronous=AsynchronousOptions(concurrency=6, buffer=3))
    ends = [list(rounds(method, federation, way, 0))[-1] for way in (options, replace(options, chunk=1), replace(options, vectorise=False))]
    assert ends[0][1].staleness > 0
    for state, _ in ends[1:]:
        for left, right in zip(tree.leaves(state.server.meta), tree.leaves(ends[0][0].server.meta), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("exponent", [0.5, 0.0, 2.0])
def test_staleness_by_hand_on_a_scalar(exponent: float) -> None:
    a, b = 1.0, -2.0
    way, turnouts, _ = walk((a, b), (1.0, 2.5), 5, concurrency=2, buffer=1, exponent=exponent)
    # a answers at 1, 2, 3, 4; b at 2.5 (from version 0, when there are 2) and at 5 (from version 3, when there are 4 or 5)
    w0, w1 = 0.0, RATE * a
    w2 = w1 - RATE * (w1 - a)
    w3 = w2 - RATE * (w0 - b) * 3.0**-exponent
    w4 = w3 - RATE * (w2 - a) * 2.0**-exponent
    w5 = w4 - RATE * (w4 - a)
    assert way == pytest.approx([w1, w2, w3, w4, w5], rel=1e-12)
    assert [turnout.staleness for turnout in turnouts] == [0.0, 0.0, 2.0, 1.0, 0.0]
    assert [turnout.duration for turnout in turnouts] == [1.0, 1.0, 0.5, 0.5, 1.0]


def test_a_buffer_is_the_mean_of_scaled_updates() -> None:
    way, turnouts, _ = walk((1.0, -2.0), (1.0, 1.5), 2, concurrency=2, buffer=2)
    w1 = RATE * (1.0 - 2.0) / 2  # a at 1 and b at 1.5; a is on its way again since 1, with version 0 too
    w2 = w1 - RATE * ((0.0 - 1.0) / math.sqrt(2) + (w1 + 2.0)) / 2  # that a at 2, and b at 3, before a, whom the server asked later
    assert way == pytest.approx([w1, w2], rel=1e-12)
    assert [turnout.duration for turnout in turnouts] == [1.5, 1.5]
    assert [turnout.staleness for turnout in turnouts] == [0.0, 0.5]


def test_messages_that_are_too_stale_are_dropped_and_so_are_their_strategies() -> None:
    way, turnouts, state = walk((1.0, -2.0), (1.0, 2.5), 4, concurrency=2, buffer=1, max_staleness=1)
    ws = [0.0]
    for _ in range(4):  # b's message at 2.5 is two steps stale: only a counts
        ws.append(ws[-1] - RATE * (ws[-1] - 1.0))
    assert way == pytest.approx(ws[1:], rel=1e-12)
    assert [turnout.lost for turnout in turnouts] == [0, 0, 1, 0]
    assert len(state.flights["strategies"]) == 2


def test_a_queue_of_answers_of_one_moment_is_worked_off_before_time_goes_on() -> None:
    _, turnouts, _ = walk((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (1.0,) * 6, 6, concurrency=6, buffer=2)
    assert [turnout.duration for turnout in turnouts] == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert [turnout.staleness for turnout in turnouts] == [0.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert [turnout.sampled for turnout in turnouts] == [6, 2, 2, 2, 2, 2]


def test_guards_run_on_messages_before_they_are_scaled() -> None:
    def clip(state: Tree, message: Message, key: Key) -> Message:
        return message._replace(update=tree.map(lambda leaf: leaf.clamp(-0.1, 0.1), message.update))

    method, clients = pulled((1.0, -2.0))
    steps = Pipeline(uniform_mean()._replace(needs="each"), (Guard("clip", lambda meta: {}, clip, lambda state, aggregate, key: (state, aggregate)),))
    options = TrainOptions(asynchronous=AsynchronousOptions(concurrency=2, buffer=1))
    people, state, seen = settled(clients, (1.0, 2.5)), begin(method, options, 0)._replace(guards={"clip": {}}), []
    for _ in range(3):
        state, aggregate, _ = one_buffer(method, clients, people, steps, options, 0, state)
        seen.append(float(aggregate.update["w"]))
    assert seen == pytest.approx([-0.1, -0.1, 0.1 / math.sqrt(3)], rel=1e-12)


def test_liars_count_for_what_they_claim_in_a_buffer_too() -> None:
    method, clients = pulled((1.0, -2.0))
    options = TrainOptions(asynchronous=AsynchronousOptions(concurrency=2, buffer=2))
    people = settled(clients, (1.0, 1.0))._replace(claims=np.array([1.0, 3.0]))
    _, aggregate, _ = one_buffer(method, clients, people, pipeline.build(options), options, 0, begin(method, options, 0))
    assert float(aggregate.update["w"]) == pytest.approx((-1.0 + 3.0 * 2.0) / 4.0, rel=1e-12)


OPTIONS = TrainOptions(
    rounds=9,
    validate_every=2,
    checkpoint_every=4,
    population=PopulationOptions(
        trace="diurnal", rounds_per_day=3.0, slowness=0.7, jitter=0.5, dropout=0.2, liars=0.3, leave_share=0.3, turnover=6.0
    ),
    asynchronous=AsynchronousOptions(concurrency=5, buffer=2, max_staleness=4),
)


def finished(folder: Path, federation: Federation) -> tuple[TrainState, list[dict[str, object]]]:
    list(job.run(folder, built("fedadam"), federation, OPTIONS, 0, "a"))
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in job.read_metrics(folder / job.METRICS)]
    return job.restore(folder, built("fedadam"), OPTIONS, 0, "a"), rows


def everything(state: TrainState) -> Tree:
    return {"server": state.server._asdict(), "best": state.best, "flights": state.flights}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, federation: Federation) -> tuple[TrainState, list[dict[str, object]]]:
    return finished(tmp_path_factory.mktemp("whole"), federation)


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_run_that_was_stopped_after_any_step_ends_with_the_same_bits(
    stop: int, whole: tuple[TrainState, list[dict[str, object]]], federation: Federation, tmp_path: Path
) -> None:
    run = job.run(tmp_path, built("fedadam"), federation, OPTIONS, 0, "a")
    for _ in range(stop):
        next(run)
    if stop % 2:  # leaving the loop saves the last step; the others go on from the last checkpoint or the beginning, as after a kill
        run.close()
    else:
        kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        run.close()
        for path in tmp_path.iterdir():
            path.unlink()
        for name, content in kept.items():
            (tmp_path / name).write_bytes(content)
    state, rows = finished(tmp_path, federation)
    assert rows == whole[1]
    for left, right in zip(tree.leaves(everything(state)), tree.leaves(everything(whole[0])), strict=True):
        assert torch.equal(left, right)
    assert any(float(str(row["staleness"])) > 0 for row in rows)
    assert any(int(str(row["lost"])) for row in rows)


def test_the_server_waits_through_a_night_in_which_nobody_is_there(federation: Federation) -> None:
    night = PopulationOptions(trace="diurnal", low=0.0, high=1.0, phase_spread=0.0, rounds_per_day=40.0)
    options = TrainOptions(rounds=40, validate_every=0, population=night, asynchronous=AsynchronousOptions(concurrency=4, buffer=4))
    durations = [info.duration for _, info in rounds(built("fedavg", local_epochs=1), federation, options, 0)]
    assert sum(durations) > 40.0
    assert max(durations) > 3.0


def test_a_server_to_whom_nobody_comes_gives_up(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "FRUITLESS", 20)
    options = TrainOptions(population=PopulationOptions(deadline=0.5), asynchronous=AsynchronousOptions(concurrency=4, buffer=4))
    with pytest.raises(MetabayflError, match="no message of use in 20 events, at virtual time 10: raise low, deadline"):
        next(rounds(built("fedavg"), federation, options, 0))


def test_fewer_clients_than_places_are_enough(federation: Federation) -> None:
    options = TrainOptions(rounds=4, validate_every=0, asynchronous=AsynchronousOptions(concurrency=50, buffer=10))
    infos = [info for _, info in rounds(built("fedavg"), federation, options, 0)]
    assert [info.clients for info in infos] == [10] * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"concurrency": 0}, "concurrency is 0, expected 1 or more"),
        ({"buffer": 0}, "buffer is 0, expected 1 or more"),
        ({"max_staleness": -1}, "max_staleness is -1, expected 0 or more"),
        ({"exponent": -0.5}, "exponent is -0.5, expected 0 or more"),
    ],
)
def test_options_refuse_servers_that_cannot_work(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AsynchronousOptions(**wrong)  # type: ignore[arg-type]


def test_what_belongs_to_rounds_is_refused() -> None:
    with pytest.raises(ConfigError, match="no fixed cohort"):
        TrainOptions(sampler="poisson", asynchronous=AsynchronousOptions())
    with pytest.raises(ConfigError, match="raise concurrency instead"):
        TrainOptions(population=PopulationOptions(overselect=1.3), asynchronous=AsynchronousOptions())
