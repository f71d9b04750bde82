"""Training runs on disk: checkpoints, metrics cut back, stops of every sort, and kills at any moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from metabayfl import storage, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Federation
from metabayfl.engine import job
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.rounds import TrainState
from metabayfl.errors import ArtifactError, StorageError
from metabayfl.models import mlp
from metabayfl.types import Algorithm
from tiny import full_disk, write_digits

OPTIONS = TrainOptions(rounds=6, cohort=3, validate_every=2, checkpoint_every=4)


def algorithm(hidden: int = 6) -> Algorithm:
    network = mlp((4,), 3, hidden=(hidden,))
    built = ALGORITHMS["fedadam"](network)  # its server has moments to save
    return built._replace(init=lambda key: tree.to(network.init(key), torch.float64))


def events(folder: Path, federation: Federation, *, options: TrainOptions = OPTIONS, identity: str = "a", seed: int = 0) -> Any:
    return job.run(folder, algorithm(), federation, options, seed, identity)


def restored(folder: Path) -> TrainState:
    return job.restore(folder, algorithm(), OPTIONS, 0, "a")


def same(a: TrainState, b: TrainState) -> bool:
    pairs = ((a.server.meta, b.server.meta), (a.server.optimizer, b.server.optimizer), (a.best, b.best))
    numbers = all(torch.equal(x, y) for one, other in pairs for x, y in zip(tree.leaves(one), tree.leaves(other), strict=True))
    return numbers and (a.round, a.best_round, a.best_loss, a.stalled) == (b.round, b.best_round, b.best_loss, b.stalled)


def without_seconds(folder: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in job.read_metrics(folder / job.METRICS)]


@pytest.fixture
def whole(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert [info.round for _, info in events(folder, federation)] == [1, 2, 3, 4, 5, 6]
    return folder


def test_a_checkpoint_holds_the_state_to_the_bit(federation: Federation, tmp_path: Path) -> None:
    last = [state for state, _ in events(tmp_path, federation)][-1]
    assert same(restored(tmp_path), last)
    assert sorted(os.listdir(tmp_path)) == [job.CHECKPOINT, job.METRICS]


def test_a_fresh_folder_begins_at_the_beginning(tmp_path: Path) -> None:
    start = restored(tmp_path / "none")
    assert (start.round, start.best_loss) == (0, float("inf"))
    assert not (tmp_path / "none").exists()


def test_checkpoints_come_every_so_many_rounds(federation: Federation, tmp_path: Path) -> None:
    saved = [restored(tmp_path).round for _ in events(tmp_path, federation)]
    assert saved == [0, 0, 0, 4, 4, 4]
    assert restored(tmp_path).round == 6


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_leaving_the_loop_keeps_the_last_round(federation: Federation, whole: Path, tmp_path: Path, stop: int) -> None:
    run = events(tmp_path, federation)
    for _ in range(stop):
        next(run)
    run.close()
    assert restored(tmp_path).round == stop
    assert [info.round for _, info in events(tmp_path, federation)] == list(range(stop + 1, 7))
    assert same(restored(tmp_path), restored(whole))
    assert without_seconds(tmp_path) == without_seconds(whole)


def test_ctrl_c_inside_a_round_keeps_the_round_before(federation: Federation, whole: Path, tmp_path: Path) -> None:
    reads = iter(range(10**6))

    def read(position: int) -> Any:
        if next(reads) == 8:  # of three clients a round, and the validation clients after the second
            raise KeyboardInterrupt
        return federation.train.read(position)

    interrupted = federation._replace(train=federation.train._replace(read=read))
    with pytest.raises(KeyboardInterrupt):
        list(events(tmp_path, interrupted))
    assert restored(tmp_path).round == 2
    list(events(tmp_path, federation))
    assert same(restored(tmp_path), restored(whole))
    assert without_seconds(tmp_path) == without_seconds(whole)


def test_metrics_behind_the_checkpoint_are_cut_back(federation: Federation, whole: Path, tmp_path: Path) -> None:
    run = events(tmp_path, federation)
    for _ in range(4):
        next(run)
    checkpoint = (tmp_path / job.CHECKPOINT).read_bytes()
    next(run)
    run.close()
    (tmp_path / job.CHECKPOINT).write_bytes(checkpoint)  # as if killed in round 6, in the middle of its line
    with (tmp_path / job.METRICS).open("a") as lines:
        lines.write('{"round": 6, "loss": 0.')
    assert [row["round"] for row in job.read_metrics(tmp_path / job.METRICS)] == [1, 2, 3, 4, 5]
    assert [info.round for _, info in events(tmp_path, federation)] == [5, 6]
    assert without_seconds(tmp_path) == without_seconds(whole)


def test_a_finished_run_does_nothing_more(federation: Federation, whole: Path) -> None:
    before = {name: (whole / name).read_bytes() for name in os.listdir(whole)}
    assert list(events(whole, federation)) == []
    assert {name: (whole / name).read_bytes() for name in os.listdir(whole)} == before


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-9] + b"\x01" + data[-8:], lambda data: b""])
def test_a_damaged_checkpoint_is_refused(federation: Federation, whole: Path, damage: Any) -> None:
    path = whole / job.CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    lines = (whole / job.METRICS).read_text()
    with pytest.raises(ArtifactError, match=job.CHECKPOINT):
        next(events(whole, federation))
    assert (whole / job.METRICS).read_text() == lines


def test_the_checkpoint_of_another_run_is_refused(federation: Federation, whole: Path) -> None:
    with pytest.raises(ArtifactError, match=r"belongs to another run .* choose another --out, or delete it"):
        next(events(whole, federation, identity="b"))
    with pytest.raises(ArtifactError, match="belongs to another run"):
        job.restore(whole, algorithm(hidden=7), OPTIONS, 0, "b")
    with pytest.raises(ArtifactError, match="does not fit this algorithm and model"):
        job.restore(whole, algorithm(hidden=7), OPTIONS, 0, "a")


def test_a_full_disk_keeps_the_checkpoint_before(federation: Federation, whole: Path, tmp_path: Path) -> None:
    run = events(tmp_path, federation)
    for _ in range(4):
        next(run)
    with full_disk(), pytest.raises(StorageError, match="could not write"):
        next(run)
    assert sorted(os.listdir(tmp_path)) == [job.CHECKPOINT, job.METRICS]
    assert restored(tmp_path).round == 4
    list(events(tmp_path, federation))
    assert same(restored(tmp_path), restored(whole))
    assert without_seconds(tmp_path) == without_seconds(whole)


KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from metabayfl.cli import main

config, out, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
main(["train", config, "--out", sys.argv[4]])  # the run that nobody kills; it also loads what the children then share
run, dice, killed = out / "runs" / "meta_bayfl-seed0", random.Random(7), []

def done():
    return (run / "metrics.jsonl").read_bytes().count(b"\\n") if (run / "metrics.jsonl").exists() else 0

def start():
    child = os.fork()
    if child == 0:
        os._exit(main(["train", config, "--out", str(out), "--resume"]))
    return child

for moment in (1, 9, 18, rounds):
    child = start()
    time.sleep(0.05)
    while done() < moment and os.waitpid(child, os.WNOHANG)[0] == 0:
        time.sleep(0.003)
    time.sleep(dice.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    killed.append([os.WIFSIGNALED(os.waitpid(child, 0)[1]), done()])
print(json.dumps({"killed": killed, "code": os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1])}))
"""
"""Trains once in peace, then in children that it kills, each at a random moment after some round."""


def test_kills_at_random_moments_change_not_one_byte(tmp_path: Path) -> None:
    path = write_digits(tmp_path, ("rounds = 3", "rounds = 30"))
    words = [sys.executable, "-c", KILLER, str(path), str(tmp_path / "killed"), "30", str(tmp_path / "whole")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert [signalled for signalled, _ in told["killed"]] == [True] * 4
    assert all(before <= 30 for _, before in told["killed"])
    assert len({before for _, before in told["killed"]}) == 4, "the kills came at different rounds"
    assert told["code"] == 0
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert (killed / "strategy.safetensors").read_bytes() == (whole / "strategy.safetensors").read_bytes()
    assert storage.read_json(killed / "figures.json") == storage.read_json(whole / "figures.json")
    assert without_seconds(killed) == without_seconds(whole)
    assert len(without_seconds(whole)) == 30
