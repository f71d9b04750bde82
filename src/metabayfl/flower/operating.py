"""One run from the operator's side: submit its job to the link, follow it, and submit it again if its process was killed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import tomllib
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

from metabayfl import storage
from metabayfl.errors import ArtifactError, FederationError
from metabayfl.flower import commands, jobs, lock, telling
from metabayfl.flower.commands import Command
from metabayfl.flower.coordinator import PLAN, Job
from metabayfl.flower.telling import STATUS

JOB, RUN = "job.json", "run.json"

CALL, START, LOOK, STOP = 120.0, 180.0, 1.0, 30.0
"""Seconds that one of Flower's commands has; until the app must be at work; between two looks; until it must have stopped."""

KILLS = 5
"""How often an app that was killed is started again without a round done in between."""


class KilledError(FederationError):
    """The app on the server ended without a word."""


class Watch(NamedTuple):
    """How to run a job."""

    folder: Path  # the federation's
    job: Job
    patience: float  # seconds to wait for a link that does not answer


def prepare(job: Job, *, resume: bool) -> None:
    """Write the job into its folder, or see that the one there is the same.

    Raises:
        ArtifactError: if the folder holds a run and nobody said to go on with it, or it is another run.
    """
    path = job.out / JOB
    if path.exists() or (job.out / PLAN).exists():
        if not resume:
            raise ArtifactError(f"{job.out} already holds a run: add --resume to go on with it, or choose another --out")
        if path.exists() and jobs.load(path).plan != job.plan:
            raise ArtifactError(f"{path} is another run (config, algorithm or seed): choose another --out")
    jobs.save(path, job)


def run(watch: Watch) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Run a prepared job; yields its status whenever that changes, and returns the last.

    Raises:
        FederationError: if the run stopped; the reason is the run's own, and what was done is kept.
    """
    left, reached, number = KILLS, _round(watch.job.out), ""
    while True:
        number = _submitted(watch) if lock.is_held(watch.job.out) else submit(watch, number)
        try:
            return (yield from follow(watch.job.out))
        except KilledError as error:
            left, reached = (KILLS, _round(watch.job.out)) if _round(watch.job.out) > reached else (left - 1, reached)
            if not left:
                raise FederationError(f"{error}; it was started {KILLS} times for nothing: see the link's log, then go on with --resume") from error
            yield {"stage": "killed; starting it again", "round": reached}
        except BaseException:
            _end(watch, number)
            raise


def _submitted(watch: Watch) -> str:
    """Flower's number of the run that is at work: only who followed it was gone."""
    return str(storage.read_json(watch.job.out / RUN)["run"])


def submit(watch: Watch, killed: str = "") -> str:
    """Start the job's app; returns Flower's number of the run.

    Args:
        watch: the job.
        killed: the number of the run before, which Flower may not yet know to be over.

    Raises:
        FederationError: if the link does not take it in time.
    """
    out, end = watch.job.out, time.monotonic() + watch.patience
    storage.write_json(out / STATUS, {"stage": "submitted"})
    while True:
        _await_link(watch, end)
        if killed:
            call(commands.stop(watch.folder, killed, os.environ))
        ended = call(commands.submit(watch.folder, out / JOB, os.environ))
        number = run_number(ended.stdout)
        if number:
            storage.write_json(out / RUN, {"run": number})
            return number
        if reachable(watch.folder):  # else it went down in between, and is waited for again
            raise FederationError(f"the link did not take the run: {' '.join((ended.stdout + ended.stderr).split())[-500:]}")


def _await_link(watch: Watch, end: float) -> None:
    while not reachable(watch.folder):
        if time.monotonic() > end:
            raise FederationError(f"no link answers within {watch.patience:g} s: start it with  metabayfl federate server {watch.folder}")
        time.sleep(LOOK)


def reachable(folder: Path) -> bool:
    """Whether something listens where Flower's commands will look for the link."""
    path = folder / commands.CONFIG
    if not path.exists():
        return False
    host, port = tomllib.loads(storage.read_text(path))["superlink"][commands.NAME]["address"].rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=CALL):
        return True
    return False


def call(command: Command) -> subprocess.CompletedProcess[str]:
    """Run one of Flower's commands to its end.

    Raises:
        FederationError: if it takes too long.
    """
    try:
        return subprocess.run(command.words, env=command.environment, capture_output=True, text=True, timeout=CALL, check=False)
    except subprocess.TimeoutExpired as error:
        raise FederationError(f"{' '.join(command.words[:3])} took more than {CALL:g} s: is metabayfl federate server running?") from error


def run_number(text: str) -> str:
    """The run's number in what ``flwr run --format json`` printed, or nothing.

    Example:
        >>> run_number('{ "success": true, "run-id": "17" }'), run_number('{ "success": false }'), run_number("usage: flwr")
        ('17', '', '')
    """
    try:
        found, _ = json.JSONDecoder().raw_decode(text[text.find("{") :])
    except json.JSONDecodeError:
        return ""
    return str(found.get("run-id") or "")


def follow(out: Path) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """The status of a run that was submitted, whenever it changes, until its end.

    Raises:
        FederationError: if it stopped, or never began.
        KilledError: if its process is gone without a word.
    """
    seen, last, end = False, None, time.monotonic() + START
    while True:
        working = lock.is_held(out)  # before the status: what is written last then counts
        now = telling.status(out)
        if now != last:
            yield now
        seen, last = seen or working, now
        if not working and now["stage"] == "done":
            return now
        if not working and now["stage"] == "stopped" and not now.get("interrupted"):
            raise FederationError(f"{now.get('reason', 'the run stopped')} (go on with --resume)")
        if not working and (seen or now["stage"] == "stopped"):
            raise KilledError("the app on the server was killed")
        if not seen and time.monotonic() > end:
            raise FederationError(f"the link took the run, but its app did not begin within {START:g} s: see the link's log")
        time.sleep(LOOK)


def _round(out: Path) -> int:
    return int(telling.status(out).get("round", 0)) if (out / STATUS).exists() else 0


def _end(watch: Watch, number: str) -> None:
    """Tell Flower that a run is over, if the link is there to hear it, and wait until its app has gone."""
    if reachable(watch.folder):
        call(commands.stop(watch.folder, number, os.environ))
    end = time.monotonic() + STOP
    while lock.is_held(watch.job.out) and time.monotonic() < end:
        time.sleep(LOOK)
