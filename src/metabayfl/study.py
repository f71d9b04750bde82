"""A study: every algorithm on every seed, trained, judged on held-out clients, and written down.

``DIR`` holds ``summary.json``, ``metrics.jsonl``, ``figures.json``, ``strategy.safetensors``, ``report.html``, ``model_card.md``, and under ``runs/``
a directory a run with its checkpoint, so that a study that was stopped goes on where it was. ``study.json`` is there before the first round and says
which runs are meant, and each run's ``run.json`` how many rounds it takes and what its messages weigh: so another process can follow
(:mod:`metabayfl.watch`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy
import torch

from metabayfl import personal, provenance, random, storage, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.artifact import Strategy, load_strategy
from metabayfl.config import Config, builder_options, check_algorithm, model_options, train_options
from metabayfl.data import build_federation
from metabayfl.data.federation import Federation
from metabayfl.engine import job, private
from metabayfl.engine.memory import peak_memory_mb, reset_peak
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.rounds import RoundInfo, TrainState, begin
from metabayfl.errors import ConfigError, SchemaError
from metabayfl.evaluation import calibrate, coverage, evaluate, over_seeds, payload, pooled, summarise, timings
from metabayfl.models import build_model
from metabayfl.privacy import ledger
from metabayfl.privacy.forecast import Forecast, forecast
from metabayfl.report import write_report
from metabayfl.types import Algorithm, Tree

STUDY, RUN = "study.json", "run.json"


class Trained(NamedTuple):
    """One round of one run is done."""

    algorithm: str
    seed: int
    rounds: int  # at most
    info: RoundInfo


class Scored(NamedTuple):
    """One run is trained and judged."""

    algorithm: str
    seed: int
    figures: dict[str, float | None]


Event: TypeAlias = Trained | Scored


class Run(NamedTuple):
    """Everything that one run needs."""

    name: str
    seed: int
    algorithm: Algorithm
    options: TrainOptions
    federation: Federation
    directory: Path
    spec: dict[str, Any]  # rebuilds the algorithm: names and arguments alone


def compare(config: Config, algorithms: tuple[str, ...], seeds: tuple[int, ...], out: Path) -> Generator[Event, None, None]:
    """Train and judge every algorithm on every seed and write ``out``; yields an event a round and a run.

    Runs that ``out`` already holds are not repeated, and one that was stopped goes on from its checkpoint to the same bits.

    Raises:
        ConfigError: for an unknown algorithm, or none.
        DataError: if the data cannot become the federation that the config asks for.
        ArtifactError: if a checkpoint in ``out`` belongs to another study.
    """
    if not algorithms or not seeds:
        raise ConfigError("nothing to compare: name at least one algorithm and one seed")
    for name in algorithms:
        check_algorithm(name)
    data = []
    for seed in seeds:
        federation = build_federation(config.data, seed)
        data.append(provenance.data_facts(federation, seed))
        for name in algorithms:
            run = prepare(config, name, seed, federation, out)
            announce(config, algorithms, seeds, out)  # not before: a config that cannot run leaves nothing behind
            yield from train_and_score(run)
    write_outputs(config, algorithms, seeds, data, out)


def announce(config: Config, algorithms: tuple[str, ...], seeds: tuple[int, ...], out: Path) -> None:
    """Write down which runs are meant and how many rounds each takes at most, in the order in which they come."""
    runs = [{"algorithm": name, "seed": seed, "rounds": train_options(config, name).rounds} for seed in seeds for name in algorithms]
    storage.write_json(out / STUDY, {"title": config.name, "runs": runs})


def run_directory(name: str, seed: int, out: Path) -> Path:
    """Where one run keeps its checkpoint, metrics, figures and strategy."""
    return out / "runs" / f"{name}-seed{seed}"


def run_directories(algorithms: tuple[str, ...], seeds: tuple[int, ...], out: Path) -> list[Path]:
    """Those of a whole study."""
    return [run_directory(name, seed, out) for name in algorithms for seed in seeds]


def prepare(config: Config, name: str, seed: int, federation: Federation, out: Path) -> Run:
    """The run of one algorithm and seed; nothing is computed yet."""
    arguments = builder_options(config, name)
    schema = federation.schema
    model = build_model(config.model["name"], schema.input_shape, schema.outputs, schema.kind, **model_options(config))
    spec = {"algorithm": name, "arguments": arguments, "model": dict(config.model)}
    algorithm = ALGORITHMS[name](model, **arguments)
    return Run(name, seed, algorithm, train_options(config, name), federation, run_directory(name, seed, out), spec)


def privacy_forecast(config: Config, name: str) -> Forecast:
    """What the training of one algorithm will cost in privacy on the config's first seed; nothing is trained.

    Raises:
        ConfigError: if the config asks for no privacy, or the algorithm sends nothing that could be made private.
    """
    check_algorithm(name)
    options, seed = train_options(config, name), config.seeds[0]
    if options.privacy is None:
        raise ConfigError(f"{config.name} asks for no privacy: add a table [train.privacy] with epsilon, delta and clip")
    run = prepare(config, name, seed, build_federation(config.data, seed), Path())
    if not run.algorithm.federated:
        raise ConfigError(f"the algorithm {name!r} sends nothing to a server, so there is nothing to make private: choose a federated one")
    meta = run.algorithm.init(random.key(seed))
    plan = private.plan(options, len(run.federation.train.ids), meta)
    return forecast(options.privacy, plan, rounds=options.rounds, numbers=tree.size(meta))


def identity(run: Run) -> str:
    """A digest of everything that decides a run's numbers."""
    facts = {
        "spec": run.spec,
        "options": dataclasses.asdict(run.options),
        "seed": run.seed,
        "data": run.federation.fingerprint,
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """What the numbers depend on beside the config."""
    return {"metabayfl": version("metabayfl"), "torch": torch.__version__, "numpy": numpy.__version__, "python": platform.python_version()}


def train_and_score(run: Run) -> Generator[Event, None, None]:
    """Train one run and judge it on the held-out clients, unless its directory holds that already; yields an event a round and one at the end."""
    path = run.directory / "figures.json"
    finished = storage.read_json(path) if path.exists() else {}
    if finished.get("identity") == identity(run):
        yield Scored(run.name, run.seed, finished["figures"])
        return
    _begin(run)
    reset_peak()
    for _, info in job.run(run.directory, run.algorithm, run.federation, run.options, run.seed, identity(run)):
        yield Trained(run.name, run.seed, run.options.rounds, info)
    state = job.restore(run.directory, run.algorithm, run.options, run.seed, identity(run))
    yield Scored(run.name, run.seed, _score(run, state))


def _begin(run: Run) -> None:
    """Write down what a follower of the run cannot see in its metrics."""
    down, up = message_bytes(run.algorithm, begin(run.algorithm, run.options, run.seed))
    rounds = run.options.rounds if run.algorithm.federated else 0
    storage.write_json(run.directory / RUN, {"rounds": rounds, "bytes_down": down, "bytes_up": up})


def _score(run: Run, state: TrainState) -> dict[str, float | None]:
    """Judge the best strategy on the held-out clients; write the strategy and the figures."""
    key = random.fold(random.key(run.seed), "heldout")
    held = evaluate(run.algorithm, state.best, run.federation.heldout, run.federation.schema, key)
    known = calibrate(run.algorithm, state.best, run.federation.validation, random.fold(random.key(run.seed), "calibration"))
    covered = coverage(run.algorithm, state.best, run.federation.heldout, known, key)
    speed = timings(run.algorithm, state.best, run.federation.heldout, key)
    rows = job.read_metrics(run.directory / job.METRICS)
    down, up = message_bytes(run.algorithm, state)
    figures: dict[str, float | None] = {
        **summarise(held),
        **pooled(covered),
        "bytes_up": up,
        "bytes_down": down,
        "adapt_ms": speed.adapt_ms,
        "predict_ms": speed.predict_ms,
        "train_seconds": sum(float(str(row["seconds"])) for row in rows),
        "peak_memory_mb": peak_memory_mb(),
        "rounds": float(state.round),
    }
    strategy(run, state, known).save(run.directory / "strategy.safetensors")
    kept = {**payload(held), "promises": [client._asdict() for client in covered]}
    storage.write_json(run.directory / "figures.json", {"identity": identity(run), "figures": figures, "kept": kept})
    return figures


def message_bytes(algorithm: Algorithm, state: TrainState) -> tuple[float, float]:
    """Bytes of one client's messages in one round, down and up, as serialised; an update has the strategy's structure."""
    if not algorithm.federated:
        return 0.0, 0.0
    key = random.key(0)
    return float(len(algorithm.down.encode(state.best, None))), float(len(algorithm.up.encode(state.best, key)))


def strategy(run: Run, state: TrainState, known: Tree) -> Strategy:
    """The artifact of a trained run, with what the validation clients know; it holds nothing that changes between two equal runs."""
    return Strategy(
        spec=run.spec,
        meta=state.best,
        schema=run.federation.schema.to_json(),
        provenance={
            "data": run.federation.name,
            "data_fingerprint": run.federation.fingerprint,
            "seed": run.seed,
            "rounds": state.round,
            "best_round": state.best_round,
            "versions": versions(),
        },
        figures={"validation_loss": state.best_loss} if state.best_round and state.best_loss != float("inf") else {},
        calibration=known,
        codec=run.algorithm.down.name,
    )


def write_outputs(config: Config, algorithms: tuple[str, ...], seeds: tuple[int, ...], data: list[dict[str, Any]], out: Path) -> None:
    """Gather the runs of ``out`` into its summary, metrics, strategy, report and model card; ``data`` says who took part at each seed."""
    kept: dict[str, list[dict[str, Any]]] = {name: [] for name in algorithms}
    rows: list[dict[str, object]] = []
    for name in algorithms:
        for seed in seeds:
            directory = run_directory(name, seed, out)
            kept[name].append(storage.read_json(directory / "figures.json"))
            rows += [{"algorithm": name, "seed": seed, **row} for row in job.read_metrics(directory / job.METRICS)]
    shipped = shipped_of(algorithms)
    summary = {
        "title": config.name,
        "about": _about(config, shipped, seeds, data, out),
        "seeds": list(seeds),
        "versions": versions(),
        "algorithms": {name: over_seeds([one["figures"] for one in results]) for name, results in kept.items()},
    }
    chosen = run_directory(shipped, seeds[0], out) / "strategy.safetensors"
    storage.write_bytes(out / "strategy.safetensors", storage.read_bytes(chosen))
    storage.write_text(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    storage.write_json(out / "figures.json", {name: [one["kept"] for one in results] for name, results in kept.items()})
    storage.write_json(out / "summary.json", summary)
    write_report(out)


def shipped_of(algorithms: tuple[str, ...]) -> str:
    """The algorithm whose strategy, of the first seed, a study hands out."""
    return "meta_bayfl" if "meta_bayfl" in algorithms else algorithms[0]


def _about(config: Config, shipped: str, seeds: tuple[int, ...], data: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    paths = [(seed, run_directory(shipped, seed, out)) for seed in seeds]
    books = [(seed, ledger.read(path / ledger.LEDGER)) for seed, path in paths if (path / ledger.LEDGER).exists()]
    return provenance.about(load_strategy(paths[0][1] / "strategy.safetensors"), train_options(config, shipped), data, books)


def evaluate_strategy(
    path: Path, config: Config, supports: tuple[int, ...] | None, seed: int | None, out: Path
) -> dict[str, dict[str, float | None]]:
    """Judge a saved strategy on the held-out clients of a config; writes ``out/evaluation.json`` and returns its figures by support size.

    Raises:
        SchemaError: if the config's data are encoded differently from those that the strategy was trained on.
    """
    loaded = personal.load(path)
    own = int(loaded.strategy.provenance.get("seed", 0)) if seed is None else seed
    federation = build_federation(config.data, own)
    if federation.schema != loaded.schema:
        raise SchemaError(f"{path} was trained on other inputs, or another split, than {config.name!r} has at seed {own}: give its config and --seed")
    key = random.fold(random.key(own), "heldout")
    figures = {
        "all" if size is None else str(size): summarise(
            evaluate(loaded.algorithm, loaded.strategy.meta, federation.heldout, federation.schema, key, support=size)
        )
        for size in (supports or (None,))
    }
    storage.write_json(out / "evaluation.json", {"strategy": str(path), "config": config.name, "seed": own, "support": figures})
    return figures
