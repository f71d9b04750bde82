"""What every defence is worth against every attack: run by hand, ``python benchmarks/robustness.py OUT [--seeds 0] [--attacks …] [--defences …]``.

``meta_bayfl`` on Fashion-MNIST over Dirichlet clients, a fifth of the training clients hostile. What ``OUT`` holds already is not run again. Prints
the tables of ``docs/robustness.md``: figures on held-out clients, mean ± sd over the seeds, losses paired by seed; and how much the evidence mixture
saves where the prior's precision was poisoned.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path
from typing import Any

from metabayfl import config as configs
from metabayfl import random, storage, study, trials
from metabayfl.aggregators import DEFENCES
from metabayfl.attacks import AttackOptions
from metabayfl.config import Config
from metabayfl.data import build_federation
from metabayfl.engine import job
from metabayfl.engine.allocator import keep_freed_memory
from metabayfl.evaluation import evaluate, summarise
from metabayfl.study import Scored
from spread import spread

BAR = (0.02, 0.05)
"""What a defence may lose against the undefended clean run: accuracy, and NLL in nats."""

CONFIG, ALGORITHM = "fashion_mnist_dirichlet", "meta_bayfl"
ATTACKS = [
    AttackOptions("sign_flip"),
    AttackOptions("gaussian"),
    AttackOptions("label_flip"),
    AttackOptions("scaling"),
    AttackOptions("a_little"),
    AttackOptions("a_little", strength=1.0),
    AttackOptions("inner_product"),
    AttackOptions("inner_product", strength=5.0),
    AttackOptions("backdoor"),
    AttackOptions("prior_strong"),
    AttackOptions("prior_weak"),
    AttackOptions("not_a_number"),
]
"""Those of a strength of their own are the cases that the defaults miss: a shift that is seen, and a turned mean as large as a message."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0", help="whole numbers with commas between")
    parser.add_argument("--attacks", default="", help="names with commas between; all of them if none")
    parser.add_argument("--defences", default=",".join([trials.CLEAN, *DEFENCES]), help="names with commas between")
    return parser.parse_args()


def run(config: Config, seed: int, attacks: list[AttackOptions], defences: list[str], out: Path) -> dict[str, Any]:
    """All trials of one seed; says how far it is."""
    for event in trials.run_trials(config, ALGORITHM, seed, attacks, defences, out):
        if isinstance(event, Scored):
            print(event.seed, event.algorithm, {name: event.figures[name] for name in ("accuracy", "nll", "ece")}, file=sys.stderr, flush=True)
    return storage.read_json(out / "attack.json")


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown: a line an attack and defence, figures over seeds; losses are against the clean run of the same seed."""
    lines = ["| attack | defence | accuracy % | lost | NLL | lost | ECE % | backdoor opens % | bar |", "|---|---|---|---|---|---|---|---|---|"]
    clean = [one["runs"][0]["figures"] for one in found]
    for rows in zip(*(one["runs"] for one in found), strict=True):
        name = f"| {rows[0]['attack']} | {rows[0]['defence']} |"
        if any(row["died"] for row in rows):
            lines.append(f"{name} training dies | | | | | | no |")
            continue
        figures = [row["figures"] for row in rows]
        points = [100 * (before["accuracy"] - after["accuracy"]) for before, after in zip(clean, figures, strict=True)]
        nats = [after["nll"] - before["nll"] for before, after in zip(clean, figures, strict=True)]
        cells = [
            spread([100 * one["accuracy"] for one in figures], 1),
            spread(points, 1),
            spread([one["nll"] for one in figures], 3),
            spread(nats, 3),
            spread([100 * one["ece"] for one in figures], 1),
            spread([100 * one["backdoor"] for one in figures], 1) if "backdoor" in figures[0] else "",
            "met" if statistics.fmean(points) <= 100 * BAR[0] and statistics.fmean(nats) <= BAR[1] else "no",
        ]
        lines.append(f"{name} {' | '.join(cells)} |")
    return lines


def last_line(config: Config, seed: int, attacks: list[AttackOptions], defences: list[str], out: Path) -> list[str]:
    """Markdown: the last round's strategy and the one that the validation clients kept, with and without the evidence mixture."""
    plain = dataclasses.replace(config, algorithm={**config.algorithm, ALGORITHM: {**config.algorithm[ALGORITHM], "grid_u": [1.0], "grid_v": [1.0]}})
    federation, key = build_federation(config.data, seed), random.fold(random.key(seed), "heldout")
    single = study.prepare(plain, ALGORITHM, seed, federation, out).algorithm
    lines = ["| attack | defence | strategy | mixture: accuracy % / NLL | one prior: accuracy % / NLL |", "|---|---|---|---|---|"]
    for trial in trials.trials([attack for attack in attacks if attack.name.startswith("prior")], defences):
        own = trials.prepare(config, ALGORITHM, seed, federation, trial, out)
        state = job.restore(own.directory, own.algorithm, own.options, seed, study.identity(own))
        for which, meta in (("last", state.server.meta), ("kept", state.best)):
            cells = []
            for algorithm in (own.algorithm, single):
                figures = summarise(evaluate(algorithm, meta, federation.heldout, federation.schema, key))
                cells.append(f"{100 * (figures['accuracy'] or 0.0):.1f} / {figures['nll']:.3f}")
            lines.append(f"| {trials.attack_name(trial)} | {trial.defence} | {which} | {cells[0]} | {cells[1]} |")
    return lines


def main() -> None:
    """Run what is missing and print the tables."""
    keep_freed_memory()
    given, config = parse(), configs.read(CONFIG)
    wanted, defences, seeds = given.attacks.split(","), given.defences.split(","), [int(word) for word in given.seeds.split(",")]
    attacks = [attack for attack in ATTACKS if not given.attacks or attack.name in wanted]
    found = [run(config, seed, attacks, defences, given.out / str(seed)) for seed in seeds]
    print("\n".join(table(found)), "\n", "\n".join(last_line(config, seeds[0], attacks, defences, given.out / str(seeds[0]))), sep="\n")


if __name__ == "__main__":
    main()
