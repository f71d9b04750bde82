"""A server's job in a file: what ``federate run`` writes and the app on the server reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from metabayfl import storage
from metabayfl.errors import ArtifactError, MetabayflError
from metabayfl.flower.coordinator import Job, Options
from metabayfl.flower.plan import from_json, to_json
from metabayfl.table import parse


def save(path: Path, job: Job) -> None:
    """Write a job, atomically."""
    storage.write_json(path, {"plan": to_json(job.plan), "out": str(job.out.resolve()), "options": dataclasses.asdict(job.options)})


def load(path: Path) -> Job:
    """The job in a file.

    Raises:
        ArtifactError: if there is none, or it is damaged.
    """
    table = storage.read_json(path)
    try:
        return Job(from_json(table["plan"]), Path(table["out"]), parse(Options, table["options"], str(path)))
    except (KeyError, TypeError, MetabayflError) as error:
        raise ArtifactError(f"{path} is no job of metabayfl federate run: {error}; write it again") from error
