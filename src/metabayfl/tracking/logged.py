"""What a log is told of a study, what a log is, and which numbers are new to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from metabayfl.config import Config, builder_options, train_options
from metabayfl.engine import job
from metabayfl.errors import StorageError
from metabayfl.study import Event, Scored, Trained, run_directory, shipped_of

FINAL = "heldout/"
"""Begins the names of a run's final figures."""

Setting = str | int | float | bool


class Logged(NamedTuple):
    """A study and where it lies."""

    config: Config
    algorithms: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path

    def directory(self, event: Event) -> Path:
        """Of the run that an event is of."""
        return run_directory(event.algorithm, event.seed, self.out)

    def shipped(self) -> Path:
        """The directory of the run whose strategy the study hands out."""
        return run_directory(shipped_of(self.algorithms), self.seeds[0], self.out)


class Record(NamedTuple):
    """One run in a log, open for writing."""

    written: int  # rounds that it holds already
    rounds: Callable[[Sequence[Mapping[str, Any]]], None]  # adds rounds
    end: Callable[[Scored], None]  # adds the final figures


class Log(NamedTuple):
    """Where a study is written to."""

    run: Callable[[Event], AbstractContextManager[Record]]  # opens the record of the run that an event is of
    files: Callable[[], None]  # adds what the study has written at its end


def due(study: Logged, event: Event, written: int) -> list[dict[str, Any]]:
    """Rounds of the event's run that a log which holds ``written`` of them lacks, without what has no value.

    A run that goes on after a kill repeats the rounds since its checkpoint, with the same losses: those are not due again.
    """
    last = event.info.round if isinstance(event, Trained) else math.inf
    if isinstance(event, Trained) and last == written + 1:
        return [_known(event.info._asdict())]
    if last <= written:
        return []
    rows = job.read_metrics(study.directory(event) / job.METRICS)
    return [_known(row) for row in rows if written < int(str(row["round"])) <= last]


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one round under the names that logs give them.

    Example:
        >>> curves({"round": 3, "loss": 0.5, "clients": 10})
        {'training/loss': 0.5, 'round/clients': 10.0}
    """
    groups = {"loss": "training", "validation": "training"}
    return {f"{groups.get(name, 'round')}/{name}": float(value) for name, value in row.items() if name != "round"}


def finals(event: Scored) -> dict[str, float]:
    """The final figures that have a value, under the names that logs give them."""
    return {FINAL + name: float(value) for name, value in event.figures.items() if value is not None}


def settings(study: Logged, event: Event) -> dict[str, Setting]:
    """What decides a run, flat, as hyper-parameters are shown: ``data.support``, ``model.hidden``, ``train.rounds``, ``algorithm.body_lr``."""
    tables = {
        "data": dataclasses.asdict(study.config.data),
        "model": study.config.model,
        "train": dataclasses.asdict(train_options(study.config, event.algorithm)),
        "algorithm": {"name": event.algorithm, **builder_options(study.config, event.algorithm)},
    }
    return {"seed": event.seed, **_flat(tables, "")}


def _flat(table: Mapping[str, Any], before: str) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        elif value not in (None, "", (), []):
            found[before + name] = value if isinstance(value, str | int | float) else str(value)
    return found


@contextmanager
def telling(where: object, kinds: tuple[type[Exception], ...] = (OSError,), secret: str = "") -> Iterator[None]:
    """What goes wrong in a log is told in one line, without ``secret``.

    Raises:
        StorageError: for an error of these ``kinds`` inside.
    """
    try:
        yield
    except kinds as error:
        reason = str(error).replace(secret, "") if secret else error
        raise StorageError(f"could not log to {where}: {reason}; what was trained is kept: go on with --resume, with or without --log") from error
