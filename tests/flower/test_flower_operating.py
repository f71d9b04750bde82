"""Following a run from outside: its end, its death, and the folder's lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hospitals import MakeJob

from metabayfl import storage
from metabayfl.errors import ArtifactError, FederationError
from metabayfl.flower import jobs, lock, operating, telling
from metabayfl.flower.operating import KilledError, Watch

HOLD = """
import sys, time
from pathlib import Path
from metabayfl.flower import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder's lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(timeout=60)
    process.stdout.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operating, "LOOK", 0.01)
    monkeypatch.setattr(operating, "START", 0.05)
    monkeypatch.setattr(operating, "STOP", 0.05)


def write(out: Path, stage: str, **facts: Any) -> None:
    storage.write_json(out / "status.json", {"stage": stage, **facts})


def test_a_lock_goes_with_its_process_however_that_ends(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert lock.is_held(tmp_path)
    with pytest.raises(FederationError, match="another run is at work"), lock.held(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=60)
    assert not lock.is_held(tmp_path)
    with lock.held(tmp_path):
        assert lock.is_held(tmp_path)


def test_a_run_is_followed_to_its_end(tmp_path: Path, quick: None) -> None:
    write(tmp_path, "done", rounds=3)
    steps = operating.follow(tmp_path)
    assert next(steps) == {"stage": "done", "rounds": 3}
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value["rounds"] == 3


def test_a_run_that_stopped_says_why(tmp_path: Path, quick: None) -> None:
    write(tmp_path, "stopped", reason="1 of 3 sites could be used")
    with pytest.raises(FederationError, match=r"1 of 3 sites could be used \(go on with --resume\)"):
        list(operating.follow(tmp_path))


def test_a_run_that_was_interrupted_is_no_run_that_gave_up(tmp_path: Path, quick: None) -> None:
    write(tmp_path, "stopped", reason="SystemExit", interrupted=True)
    with pytest.raises(KilledError):
        list(operating.follow(tmp_path))


def test_whoever_resumes_a_run_that_is_at_work_only_follows_it(
    make_job: MakeJob, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(".")
    monkeypatch.setattr(lock, "is_held", lambda out: True)
    monkeypatch.setattr(operating, "submit", lambda watch, killed: pytest.fail("submitted again"))
    storage.write_json(job.out / "run.json", {"run": "7"})
    write(job.out, "training", round=2)
    steps = operating.run(Watch(tmp_path, job, 1.0))
    assert next(steps)["round"] == 2
    steps.close()


def test_a_run_that_never_begins_is_not_waited_for_without_end(tmp_path: Path, quick: None) -> None:
    write(tmp_path, "submitted")
    with pytest.raises(FederationError, match="its app did not begin"):
        list(operating.follow(tmp_path))


def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path, holder: subprocess.Popen[str], quick: None) -> None:
    write(tmp_path, "training", round=1, rounds=3)
    steps = operating.follow(tmp_path)
    assert next(steps)["round"] == 1
    holder.send_signal(signal.SIGKILL)
    with pytest.raises(KilledError):
        list(steps)
    assert telling.told(tmp_path) == ["training (no process is at work on it: go on with --resume)", "round 1 of 3"]


def test_an_app_that_was_killed_is_started_again_but_not_for_ever(
    tmp_path: Path, make_job: MakeJob, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, submitted = make_job(), list[str]()

    def follow(out: Path) -> Iterator[dict[str, Any]]:
        write(out, "training", round=min(len(submitted), 3), rounds=9)
        yield telling.status(out)
        raise KilledError("killed")

    monkeypatch.setattr(operating, "submit", lambda watch, killed: submitted.append(killed) or str(len(submitted)))
    monkeypatch.setattr(operating, "follow", follow)
    with pytest.raises(FederationError, match="for nothing"):
        list(operating.run(Watch(tmp_path, job, 1.0)))
    assert len(submitted) == 3 + operating.KILLS  # three rounds were done in between
    assert submitted[:3] == ["", "1", "2"]


def test_ctrl_c_ends_the_run_at_the_link(tmp_path: Path, make_job: MakeJob, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    job = make_job()
    write(job.out, "training")
    monkeypatch.setattr(operating, "submit", lambda watch, killed: "7")
    monkeypatch.setattr(operating, "reachable", lambda folder: True)
    monkeypatch.setattr(operating, "call", lambda command: calls.append(command.words))
    steps = operating.run(Watch(tmp_path, job, 1.0))
    next(steps)
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt)
    assert calls == [["flwr", "stop", "7", "federation"]]


def test_a_folder_with_another_run_is_refused(make_job: MakeJob) -> None:
    job = make_job()
    operating.prepare(job, resume=False)
    with pytest.raises(ArtifactError, match="add --resume"):
        operating.prepare(job, resume=False)
    longer = job._replace(options=replace(job.options, sites=2))
    operating.prepare(longer, resume=True)
    assert jobs.load(job.out / operating.JOB).options.sites == 2
    with pytest.raises(ArtifactError, match="is another run"):
        operating.prepare(make_job(seed=1), resume=True)


def test_a_link_that_does_not_answer_is_waited_for_and_no_longer(tmp_path: Path, make_job: MakeJob, quick: None) -> None:
    began = time.monotonic()
    with pytest.raises(FederationError, match="metabayfl federate server"):
        operating.submit(Watch(tmp_path, make_job(), 0.1))
    assert time.monotonic() - began < 60


def test_a_link_that_goes_down_while_it_takes_a_run_is_waited_for(
    tmp_path: Path, make_job: MakeJob, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, answers, up = make_job(), ["connection refused", '{"run-id": "9"}'], [True, False, False, True]
    monkeypatch.setattr(operating, "reachable", lambda folder: up.pop(0))
    monkeypatch.setattr(operating, "call", lambda command: subprocess.CompletedProcess(command.words, 0, answers.pop(0), ""))
    assert operating.submit(Watch(tmp_path, job, 60.0)) == "9"
    assert storage.read_json(job.out / "run.json") == {"run": "9"}
    monkeypatch.setattr(operating, "reachable", lambda folder: True)
    monkeypatch.setattr(operating, "call", lambda command: subprocess.CompletedProcess(command.words, 1, '{"success": false}', "no such app"))
    with pytest.raises(FederationError, match=r"did not take the run: .*no such app"):
        operating.submit(Watch(tmp_path, job, 60.0))


def test_a_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operating, "CALL", 0.2)
    with pytest.raises(FederationError, match="took more than"):
        operating.call(operating.Command([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ)))


def test_a_status_says_who_was_skipped_and_who_has_the_strategy(tmp_path: Path) -> None:
    write(tmp_path, "done", rounds=2, delivered=["bern"], failed={"zug": "it did not answer"}, skipped={"zug": "late"})
    assert telling.told(tmp_path) == ["done", "skipped in this round: zug: late", "has the strategy: bern", "has it not: zug: it did not answer"]
    (tmp_path / "status.json").write_text("[]")
    with pytest.raises(ArtifactError, match="no status of a run"):
        telling.told(tmp_path)
