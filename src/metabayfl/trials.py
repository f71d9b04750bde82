"""Trials of defences: one algorithm with and without hostile clients, under each defence, side by side.

``DIR/attack.json`` holds the figures; every run has a directory of its own under ``DIR/runs`` as in a study, so that a trial that was stopped goes
on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabayfl import random, storage, study
from metabayfl.aggregators import DEFENCES
from metabayfl.attacks import AttackOptions, build_attack
from metabayfl.config import Config, check_algorithm
from metabayfl.data import build_federation
from metabayfl.data.federation import Federation
from metabayfl.engine import job
from metabayfl.errors import DivergedError, unknown
from metabayfl.evaluation.backdoor import success_rate
from metabayfl.study import Event, Run

CLEAN = "none"


class Column(NamedTuple):
    """One figure of the table."""

    key: str
    title: str
    unit: float
    digits: int
    sign: int  # -1 where more is better, 1 where less is, 0 where nothing is compared


COLUMNS = (
    Column("accuracy", "accuracy %", 100.0, 1, -1),
    Column("rmse", "RMSE", 1.0, 3, 1),
    Column("nll", "NLL", 1.0, 3, 1),
    Column("ece", "ECE %", 100.0, 1, 0),
    Column("coverage_90", "coverage %", 100.0, 1, 0),
    Column("backdoor", "backdoor opens %", 100.0, 1, 0),
)


class Trial(NamedTuple):
    """One run of a trial: which attack, which defence."""

    attack: AttackOptions | None
    defence: str  # a name in DEFENCES, or ``none``


def trials(attacks: Sequence[AttackOptions], defences: Sequence[str]) -> list[Trial]:
    """Without and with each attack, under each defence; the undefended clean run comes first, since the others are compared with it.

    Example:
        >>> [(trial.attack and trial.attack.name, trial.defence) for trial in trials([AttackOptions("size")], ["median"])]
        [(None, 'none'), (None, 'median'), ('size', 'median')]
    """
    names = dict.fromkeys(defences)
    clean = [Trial(None, name) for name in dict.fromkeys((CLEAN, *names))]
    return clean + [Trial(attack, name) for attack in attacks for name in names]


def run_trials(
    config: Config, algorithm: str, seed: int, attacks: Sequence[AttackOptions], defences: Sequence[str], out: Path
) -> Generator[Event, None, None]:
    """Run every trial and write ``out/attack.json``; yields an event a round and a run.

    A run whose numbers are no longer finite is a result, not an error: it is written down with the reason and without figures.

    Raises:
        ConfigError: for an unknown attack, defence or algorithm, or an attack that does not fit the data.
    """
    check_algorithm(algorithm)
    for name in defences:
        if name not in (CLEAN, *DEFENCES):
            raise unknown("defence", name, (CLEAN, *DEFENCES))
    federation = build_federation(config.data, seed)
    for attack in attacks:
        build_attack(attack, federation.schema.kind, federation.schema.outputs)
    rows = []
    for trial in trials(attacks, defences):
        run = prepare(config, algorithm, seed, federation, trial, out)
        died = yield from _attempt(run)
        rows.append({"attack": attack_name(trial), "defence": trial.defence, "died": died, "figures": {} if died else _figures(run, trial, attacks)})
    storage.write_json(out / "attack.json", {"algorithm": algorithm, "seed": seed, "attacks": [dataclasses.asdict(a) for a in attacks], "runs": rows})


def attack_name(trial: Trial) -> str:
    """Of the attack, with its strength where it is not the attack's own."""
    attack = trial.attack
    return CLEAN if attack is None else attack.name if not attack.strength else f"{attack.name}-{attack.strength:g}"


def prepare(config: Config, algorithm: str, seed: int, federation: Federation, trial: Trial, out: Path) -> Run:
    """The run of one trial; nothing is computed yet."""
    run = study.prepare(config, algorithm, seed, federation, out)
    options = dataclasses.replace(run.options, attack=trial.attack, defence=DEFENCES.get(trial.defence))
    label = f"{attack_name(trial)}-{trial.defence}"
    return run._replace(name=label, options=options, directory=study.run_directory(label, seed, out))


def _attempt(run: Run) -> Generator[Event, None, str]:
    """Train and judge; returns what killed the run, or nothing."""
    try:
        yield from study.train_and_score(run)
    except DivergedError as error:
        return str(error)
    return ""


def _figures(run: Run, trial: Trial, attacks: Sequence[AttackOptions]) -> dict[str, Any]:
    """The run's figures, and for every backdoor how often it opens: without hostile clients too, to compare with."""
    figures = dict(storage.read_json(run.directory / "figures.json")["figures"])
    backdoors = [attack for attack in (attacks if trial.attack is None else [trial.attack]) if attack.name == "backdoor"]
    if backdoors:
        state = job.restore(run.directory, run.algorithm, run.options, run.seed, study.identity(run))
        key = random.fold(random.key(run.seed), "heldout")
        figures["backdoor"] = success_rate(run.algorithm, state.best, run.federation.heldout, key, backdoors[0].target)
    return figures


def table(found: dict[str, Any]) -> list[list[str]]:
    """The content of ``attack.json`` as rows of text, titles first: the figures of every run, and what it lost against the undefended clean one.

    Raises:
        DivergedError: if the undefended clean run has no figures to compare with.
    """
    reference = found["runs"][0]["figures"]
    if not reference:
        raise DivergedError(f"the undefended run without an attack did not end, so there is nothing to compare with: {found['runs'][0]['died']}")
    columns = [column for column in COLUMNS if any(row["figures"].get(column.key) is not None for row in found["runs"])]
    titles = [title for column in columns for title in (column.title, *(["lost"] if column.sign else []))]
    return [["attack", "defence", *titles], *([row["attack"], row["defence"], *_cells(row["figures"], reference, columns)] for row in found["runs"])]


def _cells(figures: dict[str, Any], reference: dict[str, float], columns: Sequence[Column]) -> list[str]:
    cells: list[str] = []
    for column in columns:
        value = figures.get(column.key)
        cells.append("-" if value is None else f"{column.unit * value:.{column.digits}f}")
        if column.sign:
            cells.append("-" if value is None else f"{column.sign * column.unit * (value - reference[column.key]):+.{column.digits}f}")
    return cells
