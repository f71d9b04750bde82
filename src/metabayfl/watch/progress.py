"""How far a study is, from its files alone: a pure function from a directory to what the page shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from metabayfl import storage
from metabayfl.config import check_algorithm
from metabayfl.engine import job
from metabayfl.errors import ArtifactError
from metabayfl.privacy import ledger
from metabayfl.report.series import series
from metabayfl.study import RUN, STUDY, run_directory

MOST_POINTS = 400
"""Points of a curve that are sent; more could not be told apart on a screen."""
RECENT = 30
"""Rounds whose mean time is taken for that of those to come."""

FIGURES = "figures.json"
_ODD = (AttributeError, KeyError, TypeError, ValueError)


class Round(NamedTuple):
    """What is read of a line of metrics."""

    round: int
    loss: float | None
    validation: float | None
    clients: int
    sampled: int
    seconds: float


class Planned(NamedTuple):
    """One run as ``study.json`` announces it."""

    algorithm: str
    seed: int
    rounds: int  # at most


def progress(directory: Path) -> dict[str, Any]:
    """Everything that the page shows, as JSON's own types.

    Args:
        directory: the ``--out`` of a study that runs, has stopped, or is done.

    Returns:
        ``state`` is ``waiting`` (nothing announced yet), ``training`` or ``finished``; ``left_seconds`` is None where no round was timed
        yet. Of every run its state, curves ``[[round, nats], ...]``, bytes that all its clients sent and received so far, and its privacy account.

    Raises:
        ArtifactError: if a file of the study is damaged; names it.
    """
    if not (directory / STUDY).exists():
        return {"state": "waiting", "title": "", "directory": str(directory), "runs": [], "rounds_done": 0, "rounds_all": 0, "left_seconds": None}
    title, planned = _plan(directory / STUDY)
    looks = series(one.algorithm for one in planned)
    runs = [{**_run(directory, one), "look": looks[one.algorithm].css} for one in planned]
    _fill_unknown_rounds(runs)
    report = _report(directory, planned) if all(run["state"] == "done" for run in runs) else None
    return {
        "state": "finished" if report else "training",
        "title": title,
        "directory": str(directory),
        "report": report,
        "updated": max((run["updated"] for run in runs), default=0.0),
        "rounds_done": sum(run["rounds"] if run["state"] == "done" else run["round"] for run in runs),
        "rounds_all": sum(run["rounds"] for run in runs),
        "left_seconds": time_left(runs),
        "runs": runs,
    }


def _plan(path: Path) -> tuple[str, list[Planned]]:
    found = storage.read_json(path)
    try:
        planned = [Planned(str(run["algorithm"]), int(run["seed"]), int(run["rounds"])) for run in found["runs"]]
        for run in planned:
            check_algorithm(run.algorithm)  # it stands in a path
        return str(found["title"]), planned
    except _ODD as error:
        raise ArtifactError(f"{path} does not say which runs are meant ({error!r}): train again into another directory") from error


def _run(directory: Path, planned: Planned) -> dict[str, Any]:
    own = run_directory(planned.algorithm, planned.seed, directory)
    try:
        return _told(own, planned)
    except ArtifactError:
        raise
    except _ODD as error:
        raise ArtifactError(f"{own} holds a file that a training does not write ({error!r}): delete that folder and go on with --resume") from error


def _told(own: Path, planned: Planned) -> dict[str, Any]:
    about = storage.read_json(own / RUN) if (own / RUN).exists() else None
    rows, done = _rows(own / job.METRICS), (own / FIGURES).exists()
    rounds = int(about["rounds"]) if about else planned.rounds
    return {
        "algorithm": planned.algorithm,
        "seed": planned.seed,
        "state": _state(rows, rounds, begun=bool(about or rows), done=done),
        "known": about is not None,
        "round": len(rows),
        "rounds": len(rows) if done else rounds,
        "round_seconds": round_seconds([row.seconds for row in rows]),
        "loss": thin([(row.round, row.loss) for row in rows if row.loss is not None]),
        "validation": thin([(row.round, row.validation) for row in rows if row.validation is not None]),
        "clients": rows[-1].clients if rows else None,
        "best": min(((row.validation, row.round) for row in rows if row.validation is not None), default=None),
        "bytes": _bytes(rows, about),
        "privacy": _privacy(own),
        "figures": storage.read_json(own / FIGURES)["figures"] if done else None,
        "updated": (own / job.METRICS).stat().st_mtime if rows else 0.0,
    }


def _state(rows: Sequence[Round], rounds: int, *, begun: bool, done: bool) -> str:
    if done:
        return "done"
    if not begun:
        return "waiting"
    return "judging" if len(rows) >= rounds else "training"


def _rows(path: Path) -> tuple[Round, ...]:
    if not path.exists():
        return ()
    at = path.stat()
    return _rows_of(path, at.st_size, at.st_mtime_ns)


@lru_cache(maxsize=128)
def _rows_of(path: Path, size: int, modified: int) -> tuple[Round, ...]:
    """The rows of a metrics file of that size and time, read once: of many runs one grows."""
    try:
        rows: list[dict[str, Any]] = job.read_metrics(path)
        return tuple(Round(**{name: row[name] for name in Round._fields}) for row in rows)
    except _ODD as error:
        raise ArtifactError(f"{path} is not one round a line ({error!r}): delete its folder and go on with --resume") from error


def _bytes(rows: Sequence[Round], about: dict[str, Any] | None) -> float:
    """What all clients together received and sent so far; those whose message was lost received all the same."""
    if about is None:
        return 0.0
    return math.fsum(row.sampled * about["bytes_down"] + row.clients * about["bytes_up"] for row in rows)


def _privacy(own: Path) -> dict[str, Any] | None:
    path = own / ledger.LEDGER
    if not path.exists():
        return None
    book = ledger.read(path)
    return {"spent": book.spent, "budget": book.budget, "delta": book.delta, "simulated": book.source == "seeded"}


def _report(directory: Path, planned: Sequence[Planned]) -> str | None:
    """The report, once it is newer than the runs that it is about: a study that is resumed still has its old one."""
    path = directory / "report.html"
    newest = max((run_directory(one.algorithm, one.seed, directory) / FIGURES).stat().st_mtime_ns for one in planned)
    return str(path) if path.exists() and path.stat().st_mtime_ns >= newest else None


def _fill_unknown_rounds(runs: Sequence[dict[str, Any]]) -> None:
    """A run that has not begun takes as many rounds as the same algorithm does with another seed: none, where nothing is communicated."""
    known = {run["algorithm"]: run["rounds"] for run in runs if run["known"] and run["state"] != "done"}
    known |= {run["algorithm"]: 0 for run in runs if run["state"] == "done" and not run["rounds"]}
    for run in runs:
        if not run.pop("known") and run["state"] == "waiting":
            run["rounds"] = known.get(run["algorithm"], run["rounds"])


def round_seconds(seconds: Sequence[float]) -> float | None:
    """Mean time of the latest rounds, in seconds; the first round, which also warms up, counts only where it is alone.

    Example:
        >>> round_seconds([9.0, 1.0, 2.0]), round_seconds([9.0]), round_seconds([])
        (1.5, 9.0, None)
    """
    timed = seconds[1:][-RECENT:] or seconds
    return statistics.fmean(timed) if timed else None


def time_left(runs: Sequence[dict[str, Any]]) -> float | None:
    """Seconds that the rounds to come will take: at their own run's pace, else that of their algorithm with another seed, else the mean of all.

    Example:
        >>> run = {"algorithm": "fedavg", "state": "training", "round": 4, "rounds": 10, "round_seconds": 2.0}
        >>> time_left([run, {**run, "state": "waiting", "round": 0, "round_seconds": None}])
        32.0
    """
    paces = {run["algorithm"]: run["round_seconds"] for run in runs if run["round_seconds"] is not None}
    if not paces:
        return None
    common = statistics.fmean(paces.values())
    return math.fsum(
        (run["rounds"] - run["round"]) * (run["round_seconds"] or paces.get(run["algorithm"], common)) for run in runs if run["state"] != "done"
    )


def thin(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most so many of the points, evenly, with the first and the last.

    Example:
        >>> thin([(at, 0.5) for at in range(1, 8)], most=3)
        [(1, 0.5), (4, 0.5), (7, 0.5)]
    """
    if len(points) <= most:
        return list(points)
    return [points[round(at * (len(points) - 1) / (most - 1))] for at in range(most)]
