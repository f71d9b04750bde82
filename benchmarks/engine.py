"""How fast the engine is, side by side with lean hand-written PyTorch: run by hand, ``python benchmarks/engine.py [--quick]``.

Every pair is timed in turn, A B A B, in CPU seconds on one thread, and the medians are compared, so a busy machine moves both alike. What is
timed on the engine's side is :func:`metabayfl.engine.rounds.run_cohort`: reading, shuffling, padding, the clients' work and the aggregation; the
loop's data are tensors beforehand. The sides agree in float64 before anything is timed. As on the command line, glibc is told to keep freed
memory, for both sides."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import loops
from metabayfl import posterior, random, tree
from metabayfl.aggregators import weighted_mean
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data.federation import Clients, in_memory
from metabayfl.engine import cohort, memory, pipeline, population, rounds, tasks
from metabayfl.engine.allocator import keep_freed_memory
from metabayfl.engine.options import TrainOptions
from metabayfl.models import cnn, mlp
from metabayfl.types import Algorithm, Model, Tree

KEY = random.key(7)
HOW = loops.Rates(rate=0.05)
OPTIONS: dict[str, dict[str, object]] = {
    "fedavg": {"local_epochs": 1, "batch_size": HOW.batch, "client_lr": HOW.rate},
    "maml": {"inner_steps": HOW.steps, "inner_lr": HOW.rate},
    "mean_field": {"inner_steps": HOW.steps, "inner_lr": HOW.rate, "kl_weight": HOW.pull, "inner_samples": HOW.draws, "query_samples": HOW.draws},
}


class Net(NamedTuple):
    """One network on both sides."""

    name: str
    model: Model
    shape: tuple[int, ...]
    plain: loops.Net
    bar: float  # the engine's client updates per second over the loop's, at least


def nets() -> list[Net]:
    """The three nets of the bars."""
    leaf = cnn((1, 28, 28), 10, channels=(32, 64), kernel=5, width=512, dropout=0.0)
    return [
        Net("MLP 64-32-10", mlp((64,), 10, hidden=(32,)), (64,), loops.mlp_net, 10.0),
        Net("MLP 784-64-10", mlp((784,), 10, hidden=(64,)), (784,), loops.mlp_net, 1.5),
        Net("LEAF CNN 512", leaf, (1, 28, 28), loops.cnn_net, 1.0),
    ]


def client_data(number: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Client ``number``'s 20 to 50 samples, made when asked for."""
    generator = np.random.default_rng([11, number])
    count = int(generator.integers(20, 51))
    return generator.standard_normal((count, *shape), dtype=np.float32), generator.integers(0, 10, count)


def federation(count: int, shape: tuple[int, ...]) -> tuple[Clients, list[tuple[Tensor, Tensor]]]:
    """Synthetic clients in memory, as the engine reads them and as the loop takes them."""
    data = [client_data(number, shape) for number in range(count)]
    group = in_memory([f"client-{number}" for number in range(count)], data, [len(y) for _, y in data])
    return group, [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in data]


# --- both sides of a case ---------------------------------------------------------------------------------------------------------------


def engine_round(algorithm: Algorithm, clients: Clients, meta: Tree, options: TrainOptions = TrainOptions()) -> Tree:  # noqa: B008
    """The engine's aggregate of all ``clients``."""
    return rounds.run_cohort(algorithm, pipeline.Pipeline(weighted_mean()), {}, clients, np.arange(len(clients.ids)), KEY, options, meta).update


def flat(name: str, meta: Tree) -> list[Tensor]:
    """The strategy as the loops take it."""
    if name != "mean_field":
        return tree.leaves(meta)
    return [_plain(meta["mean"]), _plain(meta["log_sd"]), *tree.leaves(meta["mean"])]


def _plain(part: Tree, lead: int = 0) -> Tensor:
    """A tree as one vector in PyTorch's order of memory; ``lead`` leading axes stay."""
    return torch.cat([leaf.flatten(lead) for leaf in tree.leaves(part)], -1)


def loop_round(name: str, net: Net, start: list[Tensor], data: list[tuple[Tensor, Tensor]], same: Clients | None = None) -> list[Tensor]:
    """The loop's mean update of the same clients: with its own draws, or with the engine's for ``same`` clients."""
    keys = None if same is None else tasks.client_keys(KEY, same, np.arange(len(same.ids)))
    if name == "fedavg":
        return loops.fedavg(net.plain, start, data, _order(keys), HOW)
    if name == "maml":
        return loops.maml(net.plain, start, data, _halves(keys), HOW)
    return loops.mean_field(net.plain, start, data, _halves(keys), _noise(keys, tree.like(net.model.init(KEY), start[2:]), start[0].dtype), HOW)


def _split(key: Tensor, count: int) -> Tensor:
    return random.permutation(random.fold(key, "split"), torch.ones(count))


def _order(keys: Tensor | None) -> loops.Order:
    if keys is None:
        return lambda client, count: torch.randperm(count)
    return lambda client, count: _split(keys[client], count)[random.permutation(random.fold(keys[client], "epoch", 0), torch.ones(count))]


def _halves(keys: Tensor | None) -> loops.Halves:
    def halves(client: int, count: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(count) if keys is None else _split(keys[client], count)
        cut = int(tasks.support_sizes(np.array([count]), 0.5)[0])
        return order[:cut], order[cut:]

    return halves


def _noise(keys: Tensor | None, like: Tree, dtype: torch.dtype) -> loops.Noise:
    def noise(client: int, step: int, shape: tuple[int, ...]) -> Tensor:
        if keys is None:
            half = torch.randn(shape[0] // 2, *shape[1:], dtype=dtype)
            return torch.cat([half, -half])
        key = random.fold(keys[client], "query") if step < 0 else random.fold(keys[client], "support", "step", step)
        return _plain(posterior.split(posterior.antithetic(random.fold(key, "weights"), shape, dtype), like), 1)

    return noise


# --- checks and times -------------------------------------------------------------------------------------------------------------------


def disagreement(name: str, net: Net, count: int) -> float:
    """The largest difference of the two sides' updates in float64, over the largest number in them."""
    clients, data = federation(count, net.shape)
    doubles = [(x.double(), y) for x, y in data]
    group = in_memory(clients.ids, [(x.numpy(), y.numpy()) for x, y in doubles], clients.support.tolist())
    algorithm = ALGORITHMS[name](net.model, **OPTIONS[name])
    meta = tree.to(algorithm.init(random.key(1)), torch.float64)
    theirs = [leaf.flatten() for leaf in loop_round(name, net, flat(name, meta), doubles, group)]
    ours = [leaf.flatten() for leaf in flat(name, engine_round(algorithm, group, meta))[: len(theirs)]]
    return float((torch.cat(ours) - torch.cat(theirs)).abs().max() / torch.cat(theirs).abs().max())


def alternate(sides: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median CPU seconds of each side, taken in turn after one call of each that is not counted."""
    for side in sides:
        side()
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, times in zip(sides, taken, strict=True):
            begun = time.process_time()
            side()
            times.append(time.process_time() - begun)
    return [statistics.median(times) for times in taken]


def gemm_peak() -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    a = torch.randn(1024, 1024)
    (seconds,) = alternate([lambda: a @ a], 9)
    return 2 * 1024**3 / seconds


def flops(name: str, net: Net, data: list[tuple[Tensor, Tensor]]) -> float:
    """Multiplications and additions that the cohort's products need: forward 1, gradient 3, gradient through a gradient 9 forwards or so.

    An inner step costs a forward and its backward, and its second derivative twice as much again; the first layer needs no gradient for inputs.
    """
    params = {path: leaf for path, leaf in tree.flatten(net.model.init(random.key(0))).items() if leaf.ndim > 1}
    sites = {leaf: 28**2 if "conv0" in leaf else 14**2 if "conv1" in leaf else 1 for leaf in params}
    forward = sum(2.0 * leaf.numel() * sites[path] for path, leaf in params.items())
    examples = sum(len(y) for _, y in data)
    if name == "fedavg":
        return 3 * forward * examples
    each = forward * (HOW.draws if name == "mean_field" else 1)
    return each * examples / 2 * (9 * HOW.steps + 3)


def speed(name: str, net: Net, count: int, repeats: int, peak: float) -> str:
    """One row of the table: client updates a second of both sides, their ratio, and how far the engine is from the products' own time."""
    clients, data = federation(count, net.shape)
    algorithm = ALGORITHMS[name](net.model, **OPTIONS[name])
    meta = algorithm.init(random.key(1))
    start = flat(name, meta)
    ours, theirs = alternate([lambda: engine_round(algorithm, clients, meta), lambda: loop_round(name, net, start, data)], repeats)
    ideal = flops(name, net, data) / peak
    verdict = "yes" if theirs / ours >= net.bar else "NO"
    rates = f"{count / ours:.0f} | {count / theirs:.0f} | {theirs / ours:.2f} | {net.bar:g} | {verdict}"
    return f"| {name} | {net.name} | {count} | {rates} | {count / ideal:.0f} | {100 * ideal / ours:.1f} % |"


# --- Meta-BayFL against a plain step ---------------------------------------------------------------------------------------------------------


def training_step(count: int, repeats: int, net: Net) -> str:
    """Meta-BayFL's round (exact messages: one pass) beside one SGD step of the same net over the same samples in one batch."""
    clients, data = federation(count, net.shape)
    algorithm = ALGORITHMS["meta_bayfl"](net.model, up="exact", down="exact")
    assert cohort.takes_one_pass(algorithm)
    options = TrainOptions(cohort=count)
    people = population.settle(options.population, options.sampler, clients, 0)
    state, steps = rounds.begin(algorithm, options, 1), pipeline.build(options)
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    params = tree.leaves(net.model.init(random.key(1)))

    def plain() -> None:
        leaves = [leaf.detach().requires_grad_() for leaf in params]
        slopes = torch.autograd.grad(torch.nn.functional.cross_entropy(net.plain(leaves, x), y), leaves)
        params[:] = [torch.sub(leaf.detach(), slope, alpha=0.01) for leaf, slope in zip(leaves, slopes, strict=True)]

    ours, theirs = alternate([lambda: rounds.one_round(algorithm, clients, people, steps, options, 0, state), plain], repeats)
    share = theirs / ours
    return f"| {net.name} | {count} | {len(y)} | {ours:.3f} | {theirs:.3f} | {100 * share:.0f} % | {'yes' if share >= 0.7 else 'NO'} |"


# --- memory -------------------------------------------------------------------------------------------------------------------------------


def lazy(count: int, shape: tuple[int, ...]) -> Clients:
    """Clients that are made at every read, so that nothing but ids and sizes is held."""
    sizes = np.array([int(np.random.default_rng([11, number]).integers(20, 51)) for number in range(count)])
    return Clients(tuple(f"client-{number}" for number in range(count)), sizes, sizes, lambda position: client_data(position, shape))


def peak_of(count: int) -> float:
    """MB at the high-water mark of ten FedAvg rounds with cohorts of 10 from ``count`` clients, in this process."""
    net = nets()[1]
    clients = lazy(count, net.shape)
    algorithm, options = ALGORITHMS["fedavg"](net.model, **OPTIONS["fedavg"]), TrainOptions(cohort=10)
    state, steps = rounds.begin(algorithm, options, 1), pipeline.build(options)
    people = population.settle(options.population, options.sampler, clients, 0)
    memory.reset_peak()
    for _ in range(10):
        state, _, _ = rounds.one_round(algorithm, clients, people, steps, options, 0, state)
    return memory.peak_memory_mb()


def memory_rows() -> list[str]:
    """One process for each size of federation."""
    command = [sys.executable, __file__, "--peak-of"]
    peaks = {n: float(subprocess.run([*command, str(n)], capture_output=True, check=True, text=True).stdout) for n in (100, 1_000, 10_000)}
    return [f"| {count:,} | {peak:.0f} |" for count, peak in peaks.items()]


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, and cohorts of 20 on the CNN")
    parser.add_argument("--only", default="", help="cases whose net or algorithm has this in its name")
    parser.add_argument("--peak-of", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    kept = keep_freed_memory()
    if given.peak_of:
        print(peak_of(given.peak_of))
        return
    report(given.quick, given.only, kept)


def report(quick: bool, only: str, kept: bool) -> None:
    """All tables, row by row as they are found."""
    peak = gemm_peak()
    print(f"torch {torch.__version__}, one thread, CPU seconds; freed memory kept: {kept}; matrix products run at {peak / 1e9:.0f} GF/s\n")
    print("| algorithm | net | cohort | engine, clients/s | loop, clients/s | ratio | bar | met | products alone, clients/s | engine's share of it |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for net in nets():
        wide = net.shape == (1, 28, 28)
        for name in OPTIONS:
            if only not in f"{name} {net.name}":
                continue
            error = disagreement(name, net, 2 if wide else 10)
            assert error < 1e-8, f"{name} on {net.name}: engine and loop differ by {error:.1e}"
            print(speed(name, net, 20 if wide and quick else 100, (1 if quick else 3) if wide else 5 if quick else 11, peak), flush=True)
    if only:
        return
    print(
        "\n| net | cohort | samples | Meta-BayFL round, s | plain step, s | as fast as | at least 70 % |\n|---|---|---|---|---|---|---|", flush=True
    )
    small = Net("default CNN", cnn((1, 28, 28), 10, dropout=0.0), (1, 28, 28), loops.cnn_net, 0.7)
    for net, count in ((small, 10), (small, 100), (nets()[2], 10), (nets()[2], 100)):
        print(training_step(count, 3 if quick else 7, net), flush=True)
    print("\n| clients in the federation | peak memory of ten rounds, MB |\n|---|---|\n" + "\n".join(memory_rows()))


if __name__ == "__main__":
    main()
