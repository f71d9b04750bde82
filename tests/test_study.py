"""A study on disk: its files, its resumption, and the judging of a saved strategy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from metabayfl import config, storage, study
from metabayfl.artifact import load_strategy
from metabayfl.errors import ArtifactError, ConfigError, SchemaError
from tiny import write_digits, write_patients

COMMON = {"bytes_up", "bytes_down", "adapt_ms", "predict_ms", "train_seconds", "peak_memory_mb", "rounds"}
COMMON |= {"set_coverage_90", "set_coverage_90_worst_client", "set_size_90", "novel_share"}
CLASSES = {"accuracy", "nll", "brier", "ece", "ece_worst_client", "accuracy_worst_decile", "auroc_unseen", "accuracy_at_80_coverage"}
NUMBERS = {"rmse", "nll", "crps", "coverage_90"}
FILES = {"study.json", "summary.json", "metrics.jsonl", "figures.json", "strategy.safetensors", "report.html", "model_card.md", "runs"}


def compare(path: Path, out: Path, *algorithms: str, seeds: tuple[int, ...] = (0,)) -> list[study.Event]:
    return list(study.compare(config.read(path), algorithms, seeds, out))


@pytest.mark.parametrize(("fixture", "keys"), [("digits_study", CLASSES), ("dose_study", NUMBERS)])
def test_the_summary_has_exactly_the_promised_keys(request: pytest.FixtureRequest, fixture: str, keys: set[str]) -> None:
    out = request.getfixturevalue(fixture)
    summary = storage.read_json(out / "summary.json")
    assert set(summary["algorithms"]) == ({"fedavg", "meta_bayfl"} if keys is CLASSES else {"meta_bayfl"})
    for figures in summary["algorithms"].values():
        assert figures.keys() == {"mean", "sd", "per_seed"}
        assert len(figures["per_seed"]) == 1
        for part in (figures["mean"], figures["sd"], *figures["per_seed"]):
            assert part.keys() == keys | COMMON
        assert figures["mean"]["rounds"] == 3
        assert figures["mean"]["train_seconds"] > 0
        assert figures["mean"]["peak_memory_mb"] > 0
        assert figures["mean"]["bytes_down"] > 100
        shares = [value for name, value in figures["mean"].items() if name.startswith(("accuracy", "ece", "auroc", "coverage"))]
        assert all(0 <= value <= 1 for value in shares)


def test_every_file_is_written(digits_study: Path) -> None:
    assert {item.name for item in digits_study.iterdir()} == FILES
    rows = [json.loads(line) for line in (digits_study / "metrics.jsonl").read_text().splitlines()]
    assert [(row["algorithm"], row["seed"], row["round"]) for row in rows] == [(name, 0, at) for name in ("fedavg", "meta_bayfl") for at in (1, 2, 3)]
    assert [row["validation"] is None for row in rows[:3]] == [True, False, False]
    figures = storage.read_json(digits_study / "figures.json")
    assert {name: len(entries) for name, entries in figures.items()} == {"fedavg": 1, "meta_bayfl": 1}
    page = (digits_study / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_strategy_says_where_it_comes_from(digits_study: Path) -> None:
    strategy = load_strategy(digits_study / "strategy.safetensors")
    assert strategy.spec["algorithm"] == "meta_bayfl"
    assert strategy.provenance["rounds"] == 3
    assert strategy.provenance["seed"] == 0
    assert len(strategy.provenance["data_fingerprint"]) == 64
    assert strategy.figures["validation_loss"] > 0
    own = (digits_study / "runs" / "meta_bayfl-seed0" / "strategy.safetensors").read_bytes()
    assert (digits_study / "strategy.safetensors").read_bytes() == own


def test_the_same_seed_gives_the_same_strategy_file(digits_study: Path, tmp_path: Path) -> None:
    path = write_digits(tmp_path)
    for seed in (0, 1):
        compare(path, tmp_path / str(seed), "meta_bayfl", seeds=(seed,))
    data = [(folder / "strategy.safetensors").read_bytes() for folder in (digits_study, tmp_path / "0", tmp_path / "1")]
    assert data[0] == data[1] != data[2]


def test_finished_runs_are_not_repeated(digits_study: Path, tmp_path: Path) -> None:
    out = shutil.copytree(digits_study, tmp_path / "out")
    events = compare(write_digits(tmp_path), out, "fedavg", "meta_bayfl", "local")
    assert [type(event).__name__ for event in events] == ["Scored"] * 3
    summary = storage.read_json(out / "summary.json")
    assert summary["algorithms"]["local"]["mean"]["bytes_up"] == 0
    assert summary["algorithms"]["fedavg"] == storage.read_json(digits_study / "summary.json")["algorithms"]["fedavg"]


def test_a_study_that_was_stopped_goes_on(digits_study: Path, tmp_path: Path) -> None:
    path, out = write_digits(tmp_path), tmp_path / "out"
    events = study.compare(config.read(path), ("meta_bayfl",), (0,), out)
    next(events)
    events.close()
    rounds = [event.info.round for event in compare(path, out, "meta_bayfl") if isinstance(event, study.Trained)]
    assert rounds == [2, 3]
    assert (out / "strategy.safetensors").read_bytes() == (digits_study / "strategy.safetensors").read_bytes()


@pytest.mark.parametrize("change", [("hidden = [16, 8]", "hidden = [16, 9]"), ("rounds = 3", "rounds = 4"), ("support = 20", "support = 21")])
def test_a_changed_config_is_refused(digits_study: Path, tmp_path: Path, change: tuple[str, str]) -> None:
    out = shutil.copytree(digits_study, tmp_path / "out")
    before = (out / "summary.json").read_bytes()
    with pytest.raises(ArtifactError, match="belongs to another run"):
        compare(write_digits(tmp_path, change), out, "meta_bayfl")
    assert (out / "summary.json").read_bytes() == before


@pytest.mark.parametrize("name", ["figures.json", "checkpoint.safetensors"])
def test_damaged_files_of_a_run_are_refused(digits_study: Path, tmp_path: Path, name: str) -> None:
    out = shutil.copytree(digits_study, tmp_path / "out")
    run = out / "runs" / "meta_bayfl-seed0"
    if name != "figures.json":
        (run / "figures.json").unlink()
    (run / name).write_bytes((run / name).read_bytes()[:-50])
    with pytest.raises(ArtifactError, match=name):
        compare(write_digits(tmp_path), out, "meta_bayfl")


@pytest.mark.parametrize(("algorithms", "seeds"), [((), (0,)), (("fedavg",), ())])
def test_nothing_to_compare_is_refused(tmp_path: Path, algorithms: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare(write_digits(tmp_path), tmp_path / "out", *algorithms, seeds=seeds)
    with pytest.raises(ConfigError, match="did you mean 'fedavg'"):
        compare(write_digits(tmp_path), tmp_path / "out", "fedavgg")
    assert not (tmp_path / "out").exists()


def test_a_strategy_is_judged_at_several_support_sizes(digits_study: Path, tmp_path: Path) -> None:
    read, path = config.read(write_digits(tmp_path)), digits_study / "strategy.safetensors"
    figures = study.evaluate_strategy(path, read, (1, 20), None, tmp_path / "out")
    assert figures.keys() == {"1", "20"}
    assert figures["20"].keys() == CLASSES
    written: dict[str, Any] = storage.read_json(tmp_path / "out" / "evaluation.json")
    assert written["support"] == figures
    assert (written["seed"], written["config"]) == (0, "tiny")
    whole = study.evaluate_strategy(path, read, None, None, tmp_path / "all")["all"]
    mean = storage.read_json(digits_study / "summary.json")["algorithms"]["meta_bayfl"]["mean"]
    assert whole == {name: pytest.approx(mean[name]) for name in CLASSES}
    assert whole == figures["20"]


def test_a_strategy_is_not_judged_on_other_data(digits_study: Path, tmp_path: Path) -> None:
    strategy = digits_study / "strategy.safetensors"
    with pytest.raises(SchemaError, match="trained on other inputs"):
        study.evaluate_strategy(strategy, config.read(write_patients(tmp_path, "dose")), None, None, tmp_path / "out")
    with pytest.raises(SchemaError, match="give its config and --seed"):
        study.evaluate_strategy(strategy, config.read(write_digits(tmp_path)), None, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()
