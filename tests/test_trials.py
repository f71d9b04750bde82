"""Trials of defences: which runs there are, what they write, and how a run that dies is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabayfl import config as configs
from metabayfl import random, storage, trials
from metabayfl.aggregators import DEFENCES, DefenceOptions, require_cohort
from metabayfl.algorithms import ALGORITHMS
from metabayfl.attacks import AttackOptions
from metabayfl.attacks.poison import stamp
from metabayfl.config import Config
from metabayfl.data import in_memory
from metabayfl.errors import ConfigError, DivergedError
from metabayfl.evaluation.backdoor import success_rate
from metabayfl.models import mlp
from metabayfl.study import Scored, Trained
from metabayfl.types import ClassPrediction
from tiny import write_digits, write_patients


@pytest.fixture
def tiny(tmp_path: Path) -> Config:
    return configs.read(write_digits(tmp_path, ("cohort = 4", "cohort = 6")))


def run(
    config: Config, attacks: list[AttackOptions], defences: list[str], out: Path, algorithm: str = "meta_bayfl"
) -> tuple[list[Any], dict[str, Any]]:
    events = list(trials.run_trials(config, algorithm, 0, attacks, defences, out))
    return events, storage.read_json(out / "attack.json")


def test_runs_with_and_without_hostile_clients_are_written_and_not_repeated(tiny: Config, tmp_path: Path) -> None:
    attacks = [AttackOptions("backdoor", share=0.25, target=3), AttackOptions("not_a_number", share=0.25)]
    events, found = run(tiny, attacks, ["none", "trimmed_mean"], tmp_path / "out")
    assert [(row["attack"], row["defence"]) for row in found["runs"]] == [
        (attack, defence) for attack in ("none", "backdoor", "not_a_number") for defence in ("none", "trimmed_mean")
    ]
    died = [row["died"] for row in found["runs"]]
    assert "is nan in round" in died[4]
    assert not any(died[:4] + died[5:])
    assert found["runs"][4]["figures"] == {}
    assert all("backdoor" in row["figures"] for row in found["runs"][:4])
    assert "backdoor" not in found["runs"][5]["figures"]
    assert sum(isinstance(event, Scored) for event in events) == 5
    again, same = run(tiny, attacks, ["none", "trimmed_mean"], tmp_path / "out")
    assert same["runs"][:4] == found["runs"][:4]
    assert sum(isinstance(event, Trained) for event in again) == 0  # the one that died stands where it died


def test_the_undefended_clean_run_is_a_studys(tiny: Config, digits_study: Path, tmp_path: Path) -> None:
    """Nothing about a trial moves a run that has neither an attack nor a defence; the study's cohorts have another size, so its own are taken."""
    config = configs.read(digits_study.parent / "tiny.toml")
    _, found = run(config, [AttackOptions("size", share=0.5)], ["none"], tmp_path / "out")
    expected = storage.read_json(digits_study / "runs" / "meta_bayfl-seed0" / "figures.json")["figures"]
    assert [found["runs"][0]["figures"][key] for key in ("accuracy", "nll")] == [expected[key] for key in ("accuracy", "nll")]
    assert found["runs"][1]["figures"]["nll"] != expected["nll"]


def test_the_table_compares_with_the_undefended_clean_run() -> None:
    def row(attack: str, accuracy: float, nll: float) -> dict[str, Any]:
        return {"attack": attack, "defence": "none", "died": "", "figures": {"accuracy": accuracy, "nll": nll, "ece": 0.02, "rmse": None}}

    dead = {"attack": "size", "defence": "none", "died": "round 2", "figures": {}}
    rows = trials.table({"runs": [row("none", 0.9, 0.3), row("scaling", 0.5, 1.25), dead]})
    assert rows == [
        ["attack", "defence", "accuracy %", "lost", "NLL", "lost", "ECE %"],
        ["none", "none", "90.0", "-0.0", "0.300", "+0.000", "2.0"],
        ["scaling", "none", "50.0", "+40.0", "1.250", "+0.950", "2.0"],
        ["size", "none", "-", "-", "-", "-", "-"],
    ]
    with pytest.raises(DivergedError, match="there is nothing to compare with: round 2"):
        trials.table({"runs": [dead]})


def test_attacks_of_two_strengths_are_two_runs(tiny: Config, tmp_path: Path) -> None:
    attacks = [AttackOptions("size", share=0.25), AttackOptions("size", share=0.25, strength=5.0)]
    _, found = run(tiny, attacks, ["screening"], tmp_path / "out")
    assert [row["attack"] for row in found["runs"]] == ["none", "none", "size", "size-5"]


def test_a_regression_has_columns_of_its_own(tmp_path: Path) -> None:
    config = configs.read(write_patients(tmp_path, "dose"))
    _, found = run(config, [AttackOptions("prior_strong", share=0.3)], ["none"], tmp_path / "out")
    assert trials.table(found)[0] == ["attack", "defence", "RMSE", "lost", "NLL", "lost", "coverage %"]


@pytest.mark.parametrize(
    "attack, defence, words",
    [
        ("sign_flop", "none", "unknown attack 'sign_flop': did you mean 'sign_flip'"),
        ("sign_flip", "medain", "unknown defence 'medain': did you mean 'median'"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_trained(tiny: Config, tmp_path: Path, attack: str, defence: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(tiny, [AttackOptions(attack)], [defence], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_backdoor_is_refused_in_regression(tmp_path: Path) -> None:
    config = configs.read(write_patients(tmp_path, "dose"))
    with pytest.raises(ConfigError, match="a backdoor wants a class"):
        run(config, [AttackOptions("backdoor")], ["none"], tmp_path / "out")


@pytest.mark.parametrize("name", DEFENCES)
def test_ready_defences_fit_cohorts_of_ten(name: str) -> None:
    require_cohort(DEFENCES[name], 10)
    assert isinstance(DEFENCES[name], DefenceOptions)


def test_a_backdoor_opens_as_often_as_stamped_samples_of_other_classes_are_taken_for_the_target() -> None:
    """A predictor that takes a sample for class 1 where its last feature is its largest: the trigger makes it so."""
    network = mlp((5,), 3, hidden=(4,))

    def predict(posterior: Any, x: torch.Tensor, key: Any) -> ClassPrediction:
        probs = torch.nn.functional.one_hot((x[:, -1] == x.amax(1)).long(), 3).float()
        return ClassPrediction(probs, *[torch.zeros(len(x))] * 3)

    algorithm = ALGORITHMS["fedavg"](network)._replace(predict=predict, adapt=lambda meta, support, key: {})
    x = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0]]
    clients = in_memory(["a", "b"], [(x, np.array([0, 1, 0, 0, 2, 1])), (x, np.array([0, 1, 1, 1, 1, 1]))], [1, 1])
    assert success_rate(algorithm, {}, clients, random.key(0), target=1) == 1.0
    assert success_rate(algorithm, {}, clients, random.key(0), target=2) == 0.0
    assert float(stamp(torch.from_numpy(x), 1)[0, -1]) == 1.0
