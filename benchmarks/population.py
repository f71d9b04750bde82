"""What faults of a large population cost: run by hand, ``python benchmarks/population.py [--quick]``.

10,000 training clients of Fashion-MNIST, class shares Dirichlet(0.3), 20 to 50 samples each. There are no 350,000 images, so training clients draw
theirs from one pool of some 53,000, without repetition inside a client but with repetition across clients: an image is in six or seven of them.
Validation and held-out clients are those of the ready config ``fashion_mnist_dirichlet``, with images of their own that no training client has.
A training client's images are drawn when it is read, so memory hardly grows with the population.

All ways of one algorithm and seed have the same clients, with the same response times."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from metabayfl import config, random
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Clients, DataOptions, Federation, RawArrays
from metabayfl.data.draws import generator
from metabayfl.data.federation import Member, clients
from metabayfl.data.fit import fit_schema
from metabayfl.data.partition import Want, dirichlet
from metabayfl.data.pool import kept_rows
from metabayfl.data.raw import take
from metabayfl.data.schema import Schema
from metabayfl.data.sources import load
from metabayfl.engine import memory
from metabayfl.engine.allocator import keep_freed_memory
from metabayfl.engine.asynchronous import AsynchronousOptions
from metabayfl.engine.population import PopulationOptions
from metabayfl.engine.rounds import RoundInfo, rounds
from metabayfl.evaluation import evaluate, summarise
from metabayfl.models import build_model
from spread import spread

CONFIG = config.read("fashion_mnist_dirichlet")
SPEED = PopulationOptions(slowness=0.7, jitter=0.3)
FAULTS = replace(SPEED, trace="diurnal", low=0.05, high=0.8, rounds_per_day=24.0, phase_spread=0.3, dropout=0.3)
BUFFERED = AsynchronousOptions(concurrency=30, buffer=10)


class Way(NamedTuple):
    """What differs between runs of one algorithm; the rest is the config's."""

    population: PopulationOptions
    asynchronous: AsynchronousOptions | None = None
    longer: int = 1  # how many times the config's number of steps


WAYS = {
    "no faults": Way(SPEED),
    "diurnal, 30 % drop-outs": Way(FAULTS),
    "the same, 1.5 times as many asked": Way(replace(FAULTS, overselect=1.5)),
    "the same faults, asynchronous": Way(FAULTS, BUFFERED),
    "asynchronous, three times the steps": Way(FAULTS, BUFFERED, longer=3),
}


class Outcome(NamedTuple):
    """One run."""

    accuracy: float  # percent
    nll: float  # nats
    messages: float  # used, a round
    asked: float  # clients, a round
    duration: float  # simulated time of the whole run, in median response times
    staleness: float
    seconds: float


def federation(options: DataOptions, population: int, seed: int) -> Federation:
    """Validation and held-out clients as the config wants them, and ``population`` training clients on what they leave."""
    raw = load(options, Path.cwd())
    rows, rng = kept_rows(raw.flag, len(raw.x), options), generator(seed, "partition")
    validation, heldout = int(options.validation_clients or 0), int(options.heldout_clients or 0)
    supports = rng.integers(*options.support, validation + heldout, endpoint=True)
    wants = [Want(int(support), options.test_samples) for support in supports]
    dealt = dirichlet(raw.y.values[rows], raw.y.labels, wants, options.alpha, rng, min_classes=options.min_classes)
    tests = [Member(f"test-{at}", rows[part], want.support) for at, (part, want) in enumerate(zip(dealt, wants, strict=True))]
    pool = np.delete(rows, np.concatenate(dealt))
    schema = fit_schema(raw, [Member("pool", part, len(part)) for part in np.array_split(pool, 100)], options.unseen)
    train = training(raw, pool, schema, options, population, seed)
    return Federation("fashion_mnist", train, clients(raw, schema, tests[:validation]), clients(raw, schema, tests[validation:]), schema, "")


def training(raw: RawArrays, pool: np.ndarray, schema: Schema, options: DataOptions, population: int, seed: int) -> Clients:
    """Clients whose images are drawn from the pool whenever they are read."""
    by_class = [pool[raw.y.values[pool] == code] for code in range(len(raw.y.labels))]
    targets = np.array([schema.classes.index(name) for name in raw.y.labels])[raw.y.values]
    ids = tuple(f"client-{number:05d}" for number in range(population))
    sizes = generator(seed, "sizes").integers(*options.samples, population, endpoint=True)

    def read(position: int) -> tuple[np.ndarray, np.ndarray]:
        rng = generator(seed, "rows", ids[position])
        counts = rng.multinomial(sizes[position], rng.dirichlet(np.full(len(by_class), options.alpha)))
        rows = np.concatenate([rng.choice(own, count, replace=False) for own, count in zip(by_class, counts, strict=True)])
        return schema.encode(take(raw, rows)), targets[rows]

    return Clients(ids, sizes, sizes, read)


def one_run(name: str, way: Way, federated: Federation, seed: int, *, quick: bool) -> Outcome:
    """Train as the config says, and judge the strategy that the validation clients like best on the held-out ones."""
    given, schema = CONFIG, federated.schema
    own = config.train_options(given, name)
    options = replace(own, rounds=20 if quick else way.longer * own.rounds, population=way.population, asynchronous=way.asynchronous)
    arguments = config.builder_options(given, name)
    if "rounds" in arguments:  # a schedule over the whole run
        arguments["rounds"] = options.rounds
    model = build_model(given.model["name"], schema.input_shape, schema.outputs, schema.kind, **config.model_options(given))
    algorithm = ALGORITHMS[name](model, **arguments)
    begun, infos = time.process_time(), list[RoundInfo]()
    for state, info in rounds(algorithm, federated, options, seed):
        infos.append(info)
        best = state.best
    seconds = time.process_time() - begun
    figures = summarise(evaluate(algorithm, best, federated.heldout, schema, random.fold(random.key(seed), "heldout")))

    def mean(field: str) -> float:
        return statistics.fmean(getattr(info, field) for info in infos)

    return Outcome(
        accuracy=100.0 * float(figures["accuracy"] or 0.0),
        nll=float(figures["nll"] or 0.0),
        messages=mean("clients"),
        asked=mean("sampled"),
        duration=sum(info.duration for info in infos),
        staleness=mean("staleness"),
        seconds=seconds,
    )


def row(name: str, way: str, outcomes: list[Outcome], plain: list[Outcome]) -> str:
    """One line of the table; differences are paired by seed."""
    columns = {field: [getattr(outcome, field) for outcome in outcomes] for field in Outcome._fields}
    lost = [before.accuracy - after.accuracy for before, after in zip(plain, outcomes, strict=True)]
    mean = {field: statistics.fmean(values) for field, values in columns.items()}
    figures = f"{spread(columns['accuracy'], 1)} | {spread(lost, 1)} | {spread(columns['nll'], 3)}"
    work = f"{mean['messages']:.1f} | {mean['asked']:.1f} | {mean['staleness']:.1f} | {mean['duration']:.0f}"
    return f"| {name} | {way} | {figures} | {work} | {mean['seconds']:.0f} |"


def peak_of(population: int) -> float:
    """MB at the high-water mark of 20 rounds with faults, in this process."""
    federated = federation(CONFIG.data, population, 0)
    memory.reset_peak()
    one_run("fedavg", WAYS["diurnal, 30 % drop-outs"], federated, 0, quick=True)
    return memory.peak_memory_mb()


def memory_rows() -> list[str]:
    """One process for each size of population."""
    command = [sys.executable, __file__, "--peak-of"]
    peaks = {n: float(subprocess.run([*command, str(n)], capture_output=True, check=True, text=True).stdout) for n in (1_000, 10_000, 100_000)}
    return [f"| {count:,} | {peak:.0f} |" for count, peak in peaks.items()]


def main() -> None:
    """Run every way of every algorithm on every seed; print a line for each as it is done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="20 rounds and one seed")
    parser.add_argument("--clients", type=int, default=10_000, help="training clients")
    parser.add_argument("--algorithms", nargs="+", default=["meta_bayfl", "fedavg"])
    parser.add_argument("--ways", type=int, default=len(WAYS), help="only the first so many ways")
    parser.add_argument("--peak-of", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if given.peak_of:
        print(peak_of(given.peak_of))
        return
    federations = [federation(CONFIG.data, given.clients, seed) for seed in ((0,) if given.quick else CONFIG.seeds)]
    print(f"torch {torch.__version__}, one thread; {given.clients:,} training clients, seeds {list(range(len(federations)))}\n")
    print("| algorithm | way | accuracy % | points lost | NLL | messages a step | asked a step | staleness | simulated time | CPU seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in given.algorithms:
        plain: list[Outcome] = []
        for title, way in list(WAYS.items())[: given.ways]:
            outcomes = [one_run(name, way, federated, seed, quick=given.quick) for seed, federated in enumerate(federations)]
            plain = plain or outcomes
            print(row(name, title, outcomes, plain), flush=True)
    print("\n| training clients | peak memory of 20 rounds of FedAvg with faults, MB |\n|---|---|\n" + "\n".join(memory_rows()))


if __name__ == "__main__":
    main()
