"""Whatever goes wrong at the command line: one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metabayfl import tree_file
from tiny import digits, full_disk, patients, run, strategy, write_digits, write_patients

Run = Callable[..., str]


CONFIG_ERRORS = [
    (("rounds = 3", "rouns = 3"), (), "'rouns': did you mean 'rounds'"),
    (('source = "digits"', 'source = "digit"'), (), "'digit': did you mean 'digits'"),
    (("local_epochs = 1", "local_epoch = 1"), (), "'local_epoch': did you mean 'local_epochs'"),
    (("hidden = [16, 8]", "hidden = [0]"), (), "hidden"),
    (("hidden = [16, 8]", "dropout = 2.0"), (), "dropout"),
    (("[train]", "[train"), (), "is not a TOML file"),
    (("train_clients = 8", "train_clients = 80"), (), "the split wants 80 training"),
    (("cohort = 4", 'device = "gpu"'), (), "device"),
    (("cohort = 4", "cohort = 0"), (), "cohort is 0"),
    (("cohort = 4", 'cohort = 4\ndefence = {combine = "krum"}'), (), "krum has 4 messages, of which 1 may be hostile (share 0.2), and needs 5"),
    (("cohort = 4", 'attack = {name = "scale"}'), (), "unknown attack 'scale': did you mean 'scaling'"),
    (("cohort = 4", 'defence = {combin = "median"}'), (), "'combin': did you mean 'combine'"),
    ((), ("--algorithms", "fedavgg"), "unknown algorithm 'fedavgg': did you mean 'fedavg'"),
    ((), ("--algorithms", "meta_bayes"), "did you mean 'meta_bayfl'"),
    ((), ("--seeds", "0,a"), "'0,a' is no list of whole numbers"),
    ((), ("--seeds", "-1"), "'-1' is no list of whole numbers"),
    ((), ("--seed", "0"), "No such option: --seed"),
]


@pytest.mark.parametrize(("change", "words", "message"), CONFIG_ERRORS)
def test_bad_configs_and_words(tmp_path: Path, refused: Run, change: tuple[str, str], words: tuple[str, ...], message: str) -> None:
    config = write_digits(tmp_path, *([change] if change else []))
    assert message in refused("compare", config, *words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare", "digts", "--out", "x"), "there is no config file 'digts'; ready ones are"),
        (("trian",), "No such command 'trian'. Did you mean 'train'"),
        (("train", "digits"), "Missing option '--out'"),
        (("train", "digits", "--seed", "-1", "--out", "x"), "'--seed'"),
        (("attack", "digits", "--out", "x"), "Missing option '--attack'"),
        (("attack", "digits", "--attack", "flip", "--out", "x"), "unknown attack 'flip': did you mean"),
        (("attack", "digits", "--attack", "size", "--defence", "medain", "--out", "x"), "unknown defence 'medain': did you mean 'median'"),
        (("attack", "digits", "--attack", "size", "--share", "2", "--out", "x"), "share of hostile clients is 2.0, expected from 0 to 1"),
        (("predict", "none.safetensors", "none.csv", "--out", "x"), "there is no file none.safetensors"),
        (("report", "nowhere"), "there is no file nowhere/summary.json"),
    ],
)
def test_bad_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Run, words: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*words)
    assert os.listdir(tmp_path) == []


def one_class(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(outcome=frame["outcome"].where(frame["hospital"] != "h2", "ill"))


TABLE_ERRORS: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], str, str]] = [
    (lambda frame: frame.rename(columns={"hospital": "hospitl"}), "", "no client column 'hospital'. Did you mean 'hospitl'?"),
    (lambda frame: frame.drop(columns="outcome"), "", "no target column 'outcome'"),
    (lambda frame: frame.drop(index=range(1, 14)), "", "1 of 8 clients have fewer than 2 samples: 'h0' (1)"),
    (one_class, "", "1 of 8 clients have fewer than 2 classes: 'h2' (1)"),
    (lambda frame: frame.assign(age=frame["age"].where(frame.index > 0, np.inf)), "", "infinite inputs (column: rows) age: 1"),
    (lambda frame: frame.assign(outcome=frame["outcome"].where(frame.index > 0, None)), "", "outcome"),
    (
        lambda frame: frame.assign(outcome=frame["outcome"].where(frame.index != 30, "dead")),
        "heldout_ids = ['h2']",
        "no training client has class 'dead'",
    ),
    (lambda frame: frame.assign(age="old" + frame["age"].astype(str)), "", "age"),
    (lambda frame: frame[:0], "", "patients"),
]


@pytest.mark.parametrize(("change", "extra", "message"), TABLE_ERRORS)
def test_tables_that_cannot_become_a_federation(tmp_path: Path, refused: Run, change: Any, extra: str, message: str) -> None:
    config = write_patients(tmp_path, "outcome", change(patients()), extra)
    assert message in refused("train", config, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arrays_with_nan_cannot_become_a_federation(tmp_path: Path, refused: Run) -> None:
    x, y, client = np.ones((40, 3)), np.arange(40) % 2, np.arange(40) // 5
    x[7, 1] = np.nan
    np.savez(tmp_path / "sensors.npz", x=x, y=y, client=client)
    data = 'source = "npz"\npath = "sensors.npz"\nclient = "client"\n'
    (tmp_path / "nan.toml").write_text(f'[data]\n{data}[model]\nname = "mlp"\n')
    assert "NaN or infinite inputs (column: rows) x[:, 1]: 1" in refused("train", tmp_path / "nan.toml", "--out", tmp_path / "out")
    (tmp_path / "sensors.npz").write_bytes((tmp_path / "sensors.npz").read_bytes()[:300])
    assert "sensors.npz" in refused("train", tmp_path / "nan.toml", "--out", tmp_path / "out")
    (tmp_path / "sensors.npz").unlink()
    assert "there is no 'sensors.npz'" in refused("train", tmp_path / "nan.toml", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(age=frame["age"] * 1000), "feature 'age'"),
        (lambda frame: frame.assign(age="old"), "feature 'age': given text 'old' in row 0, expected a number"),
        (lambda frame: frame.assign(sex=1), "feature 'sex': given the number 1"),
        (lambda frame: frame.drop(columns="age"), "feature 'age' is missing"),
        (lambda frame: frame.drop(columns="dose"), "has no target 'dose'"),
        (lambda frame: frame.assign(dose="much"), "expected numbers"),
        (lambda frame: frame[:0], ""),
    ],
)
def test_rows_that_do_not_fit_the_strategy(dose_study: Path, tmp_path: Path, refused: Run, own_patients: Path, change: Any, message: str) -> None:
    change(pd.read_csv(own_patients)).to_csv(own_patients, index=False)
    assert message in refused("personalize", strategy(dose_study), own_patients, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.npz", b"", "is not a whole .npz file"),
        ("own.npz", b"PK\x03\x04 and no more", "is not a whole .npz file"),
        ("own.npz", b"\x93NUMPY", "is not a whole .npz file"),
        ("own.csv", b"", "is not a whole .csv file"),
        ("own.csv", b"\xff\xfe\x00", "is not a whole .csv file"),
        ("own.parquet", b"PAR1", "is not a whole .parquet file"),
        ("own.txt", b"1 2", "ends in '.txt', expected .csv, .parquet or .npz"),
        ("none.csv", None, "there is no file"),
    ],
)
def test_files_that_cannot_be_read(digits_study: Path, tmp_path: Path, refused: Run, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert message in refused("personalize", strategy(digits_study), tmp_path / name, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": digits()[0] / 16, "y": digits()[1]}, "expected the training range 0..16"),
        ({"x": digits()[0], "y": ["x"] * 30}, "given class 'x' in row 0"),
        ({"x": digits()[0], "y": digits()[1][1:]}, "30 inputs with 29 targets"),
        ({"x": digits()[0]}, "has no target 'y'; it holds x"),
        ({"y": digits()[1]}, "has no array 'x'; it holds y"),
        ({"x": digits()[0].astype(object), "y": digits()[1]}, "is not a whole .npz file"),
        ({"x": digits()[0][:0], "y": digits()[1][:0]}, "no sample to personalise on"),
    ],
)
def test_arrays_that_do_not_fit_the_strategy(digits_study: Path, tmp_path: Path, refused: Run, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    assert message in refused("personalize", strategy(digits_study), tmp_path / "own.npz", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_artifacts_that_are_not_whole(digits_study: Path, tmp_path: Path, refused: Run, own_digits: Path) -> None:
    data = strategy(digits_study).read_bytes()
    value, about = tree_file.load_tree(strategy(digits_study), kind="strategy")
    other = tree_file.to_bytes(value, {**about, "version": 99}, kind="strategy")
    cases = {"cut short": data[:-7], "altered": data[:-7] + b"\x01" + data[-6:], "version 99": other, "no file of metabayfl": own_digits.read_bytes()}
    for message, content in cases.items():
        (tmp_path / "bad").write_bytes(content)
        assert message in refused("personalize", tmp_path / "bad", own_digits, "--out", tmp_path / "out").replace("damaged", "cut short")
        assert message in refused("evaluate", tmp_path / "bad", "--config", "digits", "--out", tmp_path / "out").replace("damaged", "cut short")
    assert "is a 'strategy', expected a 'posterior'" in refused("predict", strategy(digits_study), own_digits, "--out", tmp_path / "out")
    assert "trained on other inputs" in refused(
        "evaluate", strategy(digits_study), "--config", write_patients(tmp_path, "dose"), "--out", tmp_path / "out"
    )
    assert "no list of whole numbers" in refused(
        "evaluate", strategy(digits_study), "--config", "digits", "--support", "-5", "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_half_written(digits_study: Path, tmp_path: Path, refused: Run, own_digits: Path) -> None:
    commands: list[tuple[object, ...]] = [
        ("train", write_digits(tmp_path)),
        ("personalize", strategy(digits_study), own_digits),
        ("evaluate", strategy(digits_study), "--config", tmp_path / "tiny.toml"),
        ("report", digits_study),
    ]
    for words in commands:
        with full_disk():
            assert "could not write" in refused(*words, "--out", tmp_path / "out")
        files = [item.name for item in (tmp_path / "out").rglob("*") if item.is_file()]
        assert set(files) <= {"metrics.jsonl"}, words  # a line a round; half a line is cut off when the run goes on
    assert run("train", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--resume") == 0
    assert strategy(tmp_path / "out").read_bytes() == strategy(digits_study).read_bytes()


def test_a_disk_that_says_full_is_named(digits_study: Path, tmp_path: Path, refused: Run, own_digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        message = refused("personalize", strategy(digits_study), own_digits, "--out", tmp_path / "out")
    assert "No space left on device; nothing was left half-written: free space on that disk" in message
    assert os.listdir(tmp_path / "out") == []


def test_a_folder_that_is_a_file_is_refused(digits_study: Path, tmp_path: Path, refused: Run, own_digits: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "a part of that path is a file" in refused("train", write_digits(tmp_path), "--out", tmp_path / "file")
    assert "a part of that path is a file" in refused("personalize", strategy(digits_study), own_digits, "--out", tmp_path / "file")


def test_a_damaged_study_is_refused(tmp_path: Path, refused: Run) -> None:
    (tmp_path / "summary.json").write_text("{")
    assert "summary.json is no JSON" in refused("report", tmp_path)


def test_federate_says_in_a_line_what_is_wrong(tmp_path: Path, refused: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--sites" in refused("federate", "init", tmp_path / "fed", "--sites", " , ")
    assert "no name for a site" in refused("federate", "init", tmp_path / "fed", "--sites", "Zürich")
    assert "there is no file" in refused("federate", "status", tmp_path)
    assert not (tmp_path / "fed").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for words in (("server", tmp_path), ("site", tmp_path, "--data", "x.csv"), ("run", tmp_path, "digits", "--out", tmp_path / "out")):
        assert "pip install 'metabayfl[flower]'" in refused("federate", *words)
