"""What privacy costs on MNIST by writer: run by hand, ``python benchmarks/privacy.py --out DIR [--seeds 0 1 2]``.

The ready config ``mnist_by_writer_private`` at two budgets, for the compact strategy and for FedAvg over all weights. What they lose is counted
against the better of two trainings without privacy on the same split of the writers: ``same``, the same training without clipping and noise, and
``plain``, what one would do who need not protect anybody: network, rounds and rates of the ready config ``mnist_by_writer``. Figures are of held-out
writers. The attacker asks of every writer how well the strategy does on all its samples: 700 took part in training, and those held out and those kept
for validation, 112 together, did not.

A run that was stopped goes on from its checkpoint in DIR, and finished ones are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metabayfl import config, random, storage, tree
from metabayfl.config import Config
from metabayfl.data import Federation, build_federation
from metabayfl.engine import job
from metabayfl.engine.allocator import keep_freed_memory
from metabayfl.engine.private import plan
from metabayfl.evaluation import evaluate, summarise
from metabayfl.evaluation.membership import attack, client_losses
from metabayfl.privacy.options import PrivacyOptions
from metabayfl.study import identity, prepare
from metabayfl.types import Tree
from spread import spread

CONFIG, PLAIN = config.read("mnist_by_writer_private"), config.read("mnist_by_writer")
BUDGETS = ("plain", "same", "8", "2")
"""Two ways without privacy, then epsilons."""


def at_budget(budget: str) -> Config:
    """The config at another budget."""
    if budget == "plain":
        return dataclasses.replace(PLAIN, data=CONFIG.data)
    privacy = dataclasses.replace(CONFIG.train.privacy or PrivacyOptions(), epsilon=float(budget)) if private(budget) else None
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, privacy=privacy))


def one_run(name: str, budget: str, seed: int, federation: Federation, out: Path) -> dict[str, Any]:
    """Train, or go on training, one algorithm at one budget; judge it, and attack it."""
    run = prepare(at_budget(budget), name, seed, federation, out / budget)
    path = run.directory / "outcome.json"
    if path.exists() and (found := storage.read_json(path))["identity"] == identity(run):
        return dict(found["outcome"])
    for _ in job.run(run.directory, run.algorithm, federation, run.options, seed, identity(run)):
        pass
    meta = job.restore(run.directory, run.algorithm, run.options, seed, identity(run)).server.meta
    figures = summarise(evaluate(run.algorithm, meta, federation.heldout, federation.schema, random.fold(random.key(seed), "heldout")))
    seconds = sum(float(str(row["seconds"])) for row in job.read_metrics(run.directory / job.METRICS))
    multiplier = plan(run.options, len(federation.train.ids), meta).noise_multiplier if run.options.privacy else 0.0
    outcome = {
        "accuracy": 100.0 * float(figures["accuracy"] or 0.0),
        "nll": float(figures["nll"] or 0.0),
        **membership(run.algorithm, meta, federation, seed),
        "noise multiplier": multiplier,
        "numbers": tree.size(meta),
        "seconds": seconds,
    }
    storage.write_json(path, {"identity": identity(run), "outcome": outcome})
    return outcome


def membership(algorithm: Any, meta: Tree, federation: Federation, seed: int) -> dict[str, float]:
    """The attack by the loss alone (Yeom et al. 2018) on whole writers."""
    key = random.fold(random.key(seed), "membership")
    train, *others = (-client_losses(algorithm, meta, group, key) for group in (federation.train, federation.validation, federation.heldout))
    found = attack(train, np.concatenate(others))
    return {"auc": found.auc, "auc error": found.error}


def private(budget: str) -> bool:
    """Whether that is an epsilon."""
    return budget not in ("plain", "same")


def accuracy(outcomes: list[dict[str, Any]]) -> float:
    """Mean over seeds; below all others where there is none."""
    return statistics.fmean(float(outcome["accuracy"]) for outcome in outcomes) if outcomes else -1.0


def row(name: str, budget: str, outcomes: list[dict[str, Any]], best: list[dict[str, Any]]) -> str:
    """One line of the table; points lost are paired by seed."""
    columns = {field: [float(outcome[field]) for outcome in outcomes] for field in outcomes[0]}
    lost = [before["accuracy"] - after["accuracy"] for before, after in zip(best or outcomes, outcomes, strict=True)]
    error = statistics.fmean(columns["auc error"])  # the writers are the same ones, dealt anew for every seed: no root of the number of seeds
    cells = [
        name,
        budget if private(budget) else f"none, {budget}",
        f"{outcomes[0]['numbers']:,}",
        f"{outcomes[0]['noise multiplier']:.2f}" if private(budget) else "-",
        spread(columns["accuracy"], 1),
        spread(lost, 1) if private(budget) and best else "-",
        spread(columns["nll"], 3),
        f"{statistics.fmean(columns['auc']):.3f} ({error:.3f})",
        f"{statistics.fmean(columns['seconds']):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run every algorithm at every budget on every seed; print a line for each as it is done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=Path("runs/privacy"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(CONFIG.seeds))
    parser.add_argument("--algorithms", nargs="+", default=list(CONFIG.algorithms))
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    federations = {seed: build_federation(CONFIG.data, seed) for seed in given.seeds}
    print(f"torch {torch.__version__}, one thread; seeds {given.seeds}\n")
    print("| algorithm | epsilon | numbers | noise multiplier | accuracy % | points lost | NLL | AUC (its error) | seconds |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in given.algorithms:
        best: list[dict[str, Any]] = []
        for budget in sorted(given.budgets, key=BUDGETS.index):
            outcomes = [one_run(name, budget, seed, federation, given.out) for seed, federation in federations.items()]
            best = best if private(budget) else max(best, outcomes, key=accuracy)
            print(row(name, budget, outcomes, best), flush=True)


if __name__ == "__main__":
    main()
