"""How far a study is, read from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metabayfl import config, storage, study
from metabayfl.errors import ArtifactError
from metabayfl.privacy import ledger
from metabayfl.privacy.accounting import Plan
from metabayfl.watch.progress import MOST_POINTS, progress, thin
from tiny import write_digits


def runs(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {run["algorithm"]: run for run in found["runs"]}


def test_a_study_is_followed_from_nothing_to_its_report(tmp_path: Path) -> None:
    read, out = config.read(write_digits(tmp_path)), tmp_path / "out"
    assert progress(out)["state"] == "waiting"
    events = study.compare(read, ("local", "fedavg", "meta_bayfl"), (0,), out)
    first = next(events)
    assert isinstance(first, study.Scored)  # local: nothing is communicated, no round is run
    now = progress(out)
    assert {name: run["state"] for name, run in runs(now).items()} == {"local": "done", "fedavg": "waiting", "meta_bayfl": "waiting"}
    assert (now["rounds_done"], now["rounds_all"], now["left_seconds"]) == (0, 6, None)
    next(events)
    second = next(events)
    assert isinstance(second, study.Trained)
    now = progress(out)
    fedavg = runs(now)["fedavg"]
    assert (now["state"], now["rounds_done"], fedavg["state"]) == ("training", 2, "training")
    assert fedavg["loss"][-1] == (2, second.info.loss)
    assert fedavg["validation"] == [(2, second.info.validation)]
    assert fedavg["best"] == (second.info.validation, 2)
    rows = [json.loads(line) for line in (out / "runs" / "fedavg-seed0" / "metrics.jsonl").read_text().splitlines()]
    assert now["left_seconds"] == pytest.approx(4 * rows[1]["seconds"])  # one round of its own and three of the next run, at the same pace
    for _ in events:
        pass
    now = progress(out)
    assert (now["state"], now["report"], now["left_seconds"]) == ("finished", str(out / "report.html"), 0)
    figures = storage.read_json(out / "summary.json")["algorithms"]["fedavg"]["mean"]
    assert runs(now)["fedavg"]["figures"]["accuracy"] == figures["accuracy"]
    assert runs(now)["fedavg"]["bytes"] == 3 * 4 * (figures["bytes_up"] + figures["bytes_down"])  # three rounds of four clients
    assert runs(now)["local"]["bytes"] == 0


def test_a_study_that_is_to_have_more_runs_is_not_finished(digits_study: Path, tmp_path: Path) -> None:
    out = copied(digits_study, tmp_path)
    assert progress(out)["state"] == "finished"
    planned = storage.read_json(out / "study.json")
    storage.write_json(out / "study.json", {**planned, "runs": [*planned["runs"], {"algorithm": "fedavg", "seed": 1, "rounds": 3}]})
    assert (progress(out)["state"], progress(out)["rounds_all"]) == ("training", 9)


def test_what_was_spent_is_told(digits_study: Path, tmp_path: Path) -> None:
    out = copied(digits_study, tmp_path)
    plan = Plan(clients=100, cohort=10, sampling="poisson", noise_multiplier=1.0, mechanism="gaussian")
    path = out / "runs" / "meta_bayfl-seed0" / ledger.LEDGER
    book = ledger.begin(path, plan, identity="x", budget=3.0, delta=1e-5, source="secure", rounds=50)
    spent = ledger.book(path, book, 0).spent
    assert runs(progress(out))["meta_bayfl"]["privacy"] == {"spent": spent, "budget": 3.0, "delta": 1e-5, "simulated": False}
    assert runs(progress(out))["fedavg"]["privacy"] is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("study.json", '{"title": "x", "runs": [{}]}'),
        ("study.json", "[]"),
        ("study.json", '{"title": "x", "runs": [{"algorithm": "../../elsewhere", "seed": 0, "rounds": 3}]}'),
        ("study.json", "{"),
        ("runs/fedavg-seed0/run.json", "[1]"),
        ("runs/fedavg-seed0/run.json", '{"rounds": "many"}'),
        ("runs/fedavg-seed0/metrics.jsonl", "no line\n"),
        ("runs/fedavg-seed0/metrics.jsonl", "{}\n"),
        ("runs/fedavg-seed0/metrics.jsonl", '{"round": 1, "loss": "x", "validation": null, "clients": [], "sampled": 1, "seconds": 1}\n'),
        ("runs/fedavg-seed0/figures.json", "{}"),
    ],
)
def test_damaged_files_are_named(digits_study: Path, tmp_path: Path, name: str, text: str) -> None:
    out = copied(digits_study, tmp_path)
    (out / name).write_text(text)
    with pytest.raises(ArtifactError, match=str((out / name).parent)):
        progress(out)


def test_half_a_line_is_not_read_yet(digits_study: Path, tmp_path: Path) -> None:
    out = copied(digits_study, tmp_path)
    path = out / "runs" / "fedavg-seed0" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert runs(progress(out))["fedavg"]["round"] == 2


def test_long_curves_are_thinned_with_both_ends() -> None:
    points = [(at, 1.0 / at) for at in range(1, 5001)]
    kept = thin(points)
    assert len(kept) == MOST_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def copied(source: Path, folder: Path) -> Path:
    """What is read of a study, in the order in which it was written."""
    out = folder / "out"
    for name in (
        "study.json",
        *(f"runs/{run}-seed0/{file}" for run in ("fedavg", "meta_bayfl") for file in ("run.json", "metrics.jsonl", "figures.json")),
    ):
        storage.write_bytes(out / name, (source / name).read_bytes())
    storage.write_bytes(out / "report.html", b"the report")
    return out
