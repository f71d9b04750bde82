"""The command line: the whole way of a newcomer, and how it stops and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metabayfl import config as configs
from metabayfl import storage
from metabayfl.attacks import ATTACKS
from metabayfl.cli import display
from metabayfl.engine.job import CHECKPOINT
from tiny import run, strategy, write_digits

Capture = pytest.CaptureFixture[str]
Run = Callable[..., str]


def test_the_whole_way_on_digits(tmp_path: Path, own_digits: Path, digits_study: Path, capsys: Capture) -> None:
    config = write_digits(tmp_path)
    assert run("train", config, "--out", tmp_path / "t") == 0
    said = capsys.readouterr().out
    assert "meta_bayfl" in said
    assert f"strategy {strategy(tmp_path / 't')} (" in said
    assert strategy(tmp_path / "t").read_bytes() == strategy(digits_study).read_bytes()
    assert run("evaluate", strategy(tmp_path / "t"), "--config", config, "--support", "1,20", "--out", tmp_path / "e") == 0
    assert storage.read_json(tmp_path / "e" / "evaluation.json")["support"].keys() == {"1", "20"}
    assert run("personalize", strategy(tmp_path / "t"), own_digits, "--out", tmp_path / "p") == 0
    posterior = tmp_path / "p" / "posterior.safetensors"
    assert f"{posterior}: a posterior from 30 samples, " in capsys.readouterr().out
    assert run("predict", posterior, own_digits, "--out", tmp_path / "p") == 0
    assert "predictions.csv: 30 predictions, " in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert list(rows.columns) == [
        "label",
        *(f"p({name})" for name in range(10)),
        "total_nats",
        "aleatoric_nats",
        "epistemic_nats",
        "set",
        "novel",
        "decision",
    ]
    assert np.allclose(rows.filter(like="p(").sum(axis=1), 1, atol=1e-4)
    assert set(rows["decision"]) <= {"accept", "refer"}
    assert run("report", tmp_path / "t", "--out", tmp_path / "r") == 0
    assert (tmp_path / "r" / "report.html").read_bytes() == (tmp_path / "t" / "report.html").read_bytes()


def test_the_whole_way_on_a_table(tmp_path: Path, own_patients: Path, dose_study: Path) -> None:
    assert run("personalize", strategy(dose_study), own_patients, "--out", tmp_path) == 0
    pd.read_csv(own_patients).drop(columns=["dose"]).to_parquet(tmp_path / "new.parquet")
    assert run("predict", tmp_path / "posterior.safetensors", tmp_path / "new.parquet", "--out", tmp_path) == 0
    rows = pd.read_csv(tmp_path / "predictions.csv")
    names = ["dose", "dose low", "dose high", "dose total variance", "dose aleatoric variance", "dose epistemic variance", "novel", "decision"]
    assert list(rows.columns) == names
    assert (rows["dose low"] < rows["dose"]).all()
    assert (rows["dose high"] > rows["dose"]).all()


def test_compare_takes_lists_and_resumes(tmp_path: Path, refused: Run) -> None:
    config, out = write_digits(tmp_path), tmp_path / "out"
    assert run("compare", config, "--algorithms", "local, fedavg", "--seeds", "0,1,1", "--out", out) == 0
    summary = storage.read_json(out / "summary.json")
    assert {name: len(item["per_seed"]) for name, item in summary["algorithms"].items()} == {"local": 2, "fedavg": 2}
    assert "already holds a study: add --resume" in refused("compare", config, "--out", out)
    assert run("compare", config, "--algorithms", "local,fedavg", "--seeds", "0,1", "--out", out, "--resume") == 0
    assert storage.read_json(out / "summary.json") == summary
    write_digits(tmp_path, ("rounds = 3", "rounds = 4"))
    assert "belongs to another run" in refused("compare", config, "--algorithms", "fedavg", "--seeds", "0", "--out", out, "--resume")


def test_the_demo_is_the_digits_config_and_spares_what_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_study: Path) -> None:
    read = configs.read
    config = write_digits(tmp_path)
    monkeypatch.setattr("metabayfl.config.read", lambda name: read(config if name == "digits" else name))
    mine = tmp_path / "out" / "runs" / "precious"
    mine.mkdir(parents=True)
    for _ in range(2):
        assert run("demo", "--out", tmp_path / "out") == 0
    assert mine.is_dir()
    assert strategy(tmp_path / "out").read_bytes() == strategy(digits_study).read_bytes()
    assert {"summary.json", "report.html", "metrics.jsonl", "figures.json"} <= set(os.listdir(tmp_path / "out"))


def test_the_installed_command(tmp_path: Path) -> None:
    words = [Path(sys.executable).with_name("metabayfl"), "compare", write_digits(tmp_path), "--algorithms", "fedavg", "--out", tmp_path / "out"]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fedavg" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()


def test_debug_shows_the_traceback(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "digits", "--algorithm", "fedavgg", "--out", tmp_path / "out")
    assert run(*words, "--debug") == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("error: unknown algorithm 'fedavgg'")
    monkeypatch.setenv("METABAYFL_DEBUG", "1")
    assert run(*words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_done(digits_study: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(event: Any) -> str:
        raise KeyboardInterrupt

    config, out = write_digits(tmp_path), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(display, "_figures", press)
        assert run("train", config, "--out", out) == 130
    assert capsys.readouterr().err == "stopped; what was done is kept: train and compare go on from there with --resume\n"
    assert (out / "runs" / "meta_bayfl-seed0" / CHECKPOINT).exists()
    assert run("train", config, "--out", out, "--resume") == 0
    assert strategy(out).read_bytes() == strategy(digits_study).read_bytes()


def test_attacks_are_shown_beside_the_clean_run(tmp_path: Path, capsys: Capture) -> None:
    config, out = write_digits(tmp_path, ("cohort = 4", "cohort = 6")), tmp_path / "out"
    words = ("attack", config, "--attack", "size,not_a_number", "--share", "0.25", "--defence", "none,median", "--algorithm", "fedavg", "--out", out)
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert [said.count(name) for name in ("not_a_number", "size", "median")] == [2, 2, 3]
    assert "fedavg, seed 0, 25 % of the training clients hostile" in said
    assert f"figures {out / 'attack.json'}" in said
    assert run(*words) == 2
    assert "already holds a study: add --resume" in capsys.readouterr().err
    assert run(*words, "--resume") == 0
    assert capsys.readouterr().out == said


def test_all_attacks_are_every_attack(tmp_path: Path, capsys: Capture) -> None:
    config = write_digits(tmp_path, ("cohort = 4", "cohort = 6"), ("rounds = 3", "rounds = 1"))
    assert run("attack", config, "--attack", "all", "--defence", "trimmed_mean", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ATTACKS)


def test_help_is_no_error(capsys: Capture) -> None:
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("demo", "train", "compare", "attack", "evaluate", "personalize", "predict", "report"))
