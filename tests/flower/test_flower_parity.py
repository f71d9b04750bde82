"""A run over Flower's apps gives the engine's numbers to the last bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch
from hospitals import MakeJob, config

from metabayfl import study, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.artifact import Strategy, load_strategy, strategy_from_bytes
from metabayfl.data import Federation, Schema, build_federation
from metabayfl.engine import job as engine_job
from metabayfl.engine.rounds import TrainState
from metabayfl.flower.in_process import grid_of, rehearse
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import experiment
from metabayfl.tree_file import load_tree
from metabayfl.types import Tree


def engine(folder: Path, rows: pd.DataFrame, algorithm: str, **changes: str) -> tuple[TrainState, Strategy, Federation, list[dict[str, object]]]:
    """The same run in the engine, where all rows are in one place."""
    rows.to_csv(folder / "patients.csv", index=False)
    read = config(folder, algorithm=algorithm, **changes)
    data = dataclasses.replace(read.data, validation_clients=None, heldout_clients=None)
    federation = build_federation(data, 0)
    run = study.prepare(read, algorithm, 0, federation, folder / "engine")
    for state, _ in engine_job.run(run.directory, run.algorithm, federation, run.options, 0, "engine"):
        last = state
    strategy = strategy_from_bytes(study.strategy(run, last, {}).to_bytes())
    return last, strategy, federation, engine_job.read_metrics(run.directory / engine_job.METRICS)


def same(a: Tree, b: Tree) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


FEDERATED = [name for name in ALGORITHMS if name != "local"]


@pytest.mark.parametrize("algorithm", FEDERATED)
def test_every_algorithm_gives_the_engines_bits(algorithm: str, tmp_path: Path, rows: pd.DataFrame, sites: list[Site], make_job: MakeJob) -> None:
    last, strategy, federation, metrics = engine(tmp_path, rows, algorithm)
    job = make_job(algorithm=algorithm)
    shipped = rehearse(job, sites)
    assert Schema.from_json(shipped.schema) == federation.schema
    assert same(shipped.meta, strategy.meta)
    checkpoint = _checkpoint(job.out)
    assert same(checkpoint["meta"], last.server.meta)
    assert same(checkpoint["optimizer"], last.server.optimizer)
    told = [{name: row[name] for name in ("round", "loss", "examples", "clients")} for row in engine_job.read_metrics(job.out / "metrics.jsonl")]
    assert told == [{name: row[name] for name in ("round", "loss", "examples", "clients")} for row in metrics]


def _checkpoint(out: Path) -> Tree:
    return load_tree(out / "checkpoint.safetensors", kind="checkpoint")[0]


def test_regression_gives_the_engines_bits(tmp_path: Path, rows: pd.DataFrame, sites: list[Site], make_job: MakeJob) -> None:
    _, strategy, federation, _ = engine(tmp_path, rows, "meta_bayfl", target="dose")
    shipped = rehearse(make_job(target="dose", algorithm="meta_bayfl"), sites)
    assert Schema.from_json(shipped.schema) == federation.schema
    assert same(shipped.meta, strategy.meta)


@pytest.mark.parametrize(
    "defence",
    ['defence.combine = "median"', "defence = {memory = 0.9, leaf_bound = 1.0}", 'sampler = "poisson"', 'sampler = "size"', "task_samples = 6"],
)
def test_defences_and_samplers_give_the_engines_bits(defence: str, tmp_path: Path, rows: pd.DataFrame, sites: list[Site], make_job: MakeJob) -> None:
    _, strategy, _, _ = engine(tmp_path, rows, "fedavg", extra=defence)
    assert same(rehearse(make_job(algorithm="fedavg", extra=defence), sites).meta, strategy.meta)


def test_several_clients_at_a_site_give_the_engines_bits(tmp_path: Path, rows: pd.DataFrame, make_job: MakeJob) -> None:
    """With the schema given; sites that sum over their clients first would round its means differently in the last bit."""
    _, strategy, federation, _ = engine(tmp_path, rows, "meta_bayfl")
    sites = []
    for name, hospitals in {"north": ["h0", "h3", "h5"], "south": ["h1", "h2", "h4"]}.items():
        rows[rows["hospital"].isin(hospitals)].to_csv(tmp_path / f"{name}.csv", index=False)
        sites.append(Site(name, tmp_path / f"{name}.csv", tmp_path / "kept" / name, "hospital"))
    shipped = rehearse(make_job(sites=2, algorithm="meta_bayfl", schema=federation.schema), sites)
    assert same(shipped.meta, strategy.meta)
    agreed = rehearse(make_job("agreed", sites=2), sites)
    assert Schema.from_json(agreed.schema).columns == federation.schema.columns
    for mine, theirs in zip(Schema.from_json(agreed.schema).features, federation.schema.features, strict=True):
        assert mine.mean == pytest.approx(theirs.mean, rel=1e-12)
        assert mine.scale == pytest.approx(theirs.scale, rel=1e-12)


def test_node_ids_and_the_order_of_sites_play_no_part(whole: Path, sites: list[Site], make_job: MakeJob) -> None:
    assert same(rehearse(make_job(), sites[::-1]).meta, load_strategy(whole / "strategy.safetensors").meta)


def test_the_seed_plays_its_part(whole: Path, sites: list[Site], make_job: MakeJob) -> None:
    assert not same(rehearse(make_job("b", seed=1), sites).meta, load_strategy(whole / "strategy.safetensors").meta)
    assert experiment(make_job("a").plan) != experiment(make_job("b", seed=1).plan)


def test_flowers_own_loop_runs_the_same_rounds(whole: Path, sites: list[Site], make_job: MakeJob) -> None:
    """Its round is ours cut in two; it has neither checkpoints nor a second try."""
    from flwr.app import ArrayRecord
    from flwr.serverapp.strategy import Strategy as FlowerStrategy

    from metabayfl.flower.codec import PREFIX
    from metabayfl.flower.strategy import FederatedStrategy

    grid = grid_of(sites)
    strategy = FederatedStrategy(make_job("flower"), grid.clock)
    result = FlowerStrategy.start(strategy, grid, ArrayRecord(), num_rounds=3, timeout=10.0)
    numbers = {name.removeprefix(PREFIX): torch.from_numpy(array.numpy()) for name, array in result.arrays.items()}
    assert all(torch.equal(numbers[path], leaf) for path, leaf in tree.flatten(_checkpoint(whole)["meta"]).items())
    assert sorted(result.evaluate_metrics_clientapp) == [2, 3]
    with pytest.raises(Exception, match="the plan decides"):
        FederatedStrategy(make_job("other"), grid.clock).start(grid, num_rounds=3)


def test_the_server_app_reads_its_job_from_a_file(whole: Path, sites: list[Site], make_job: MakeJob) -> None:
    from flwr.app import Context, RecordDict

    from metabayfl.flower import jobs
    from metabayfl.flower.server_app import server_app

    job, grid = make_job("file"), grid_of(sites)
    jobs.save(job.out / "job.json", job)
    server_app(clock=grid.clock)(grid, Context(1, 1, {}, RecordDict(), {"job": str(job.out / "job.json")}))
    assert same(load_strategy(job.out / "strategy.safetensors").meta, load_strategy(whole / "strategy.safetensors").meta)
