"""One training run in a directory of its own: checkpoints, one line of metrics a round, and going on after any stop.

``checkpoint.safetensors`` is replaced atomically; ``metrics.jsonl`` is cut back to the checkpoint's round before the run goes on, so a run that
was killed at any moment ends with the same files as one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from metabayfl import storage, tree, tree_file
from metabayfl.data.federation import Federation
from metabayfl.engine import private
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.rounds import RoundInfo, TrainState, begin, rounds
from metabayfl.errors import ArtifactError, StorageError
from metabayfl.types import Algorithm, ServerState, Tree

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"


class Line(Protocol):
    """What a line of metrics is made of: a ``NamedTuple`` with the number of the ``round``."""

    def _asdict(self) -> dict[str, Any]: ...


Info = TypeVar("Info", bound=Line)


def run(
    directory: Path, algorithm: Algorithm, federation: Federation, options: TrainOptions, seed: int, identity: str
) -> Iterator[tuple[TrainState, RoundInfo]]:
    """Train, or go on training, in ``directory``; yields as :func:`metabayfl.engine.rounds.rounds` does.

    Args:
        directory: holds this run alone; made if it is missing.
        algorithm: the method.
        federation: the data.
        options: see :class:`~metabayfl.engine.options.TrainOptions`.
        seed: the run's seed.
        identity: names everything that decides the numbers; a checkpoint of another identity is refused.

    Raises:
        ArtifactError: if the checkpoint found is damaged or belongs to another run.
        StorageError: if a checkpoint cannot be written; the one before it stays.
    """
    start = restore(directory, algorithm, options, seed, identity)
    permit: private.Permit = private.always
    if algorithm.federated:
        permit = private.permit(directory, options, len(federation.train.ids), start.server.meta, identity, done=start.round)
    steps = rounds(algorithm, federation, options, seed, start, permit)
    yield from record(directory, start, steps, private.checkpoint_every(options), identity)


def record(
    directory: Path, start: TrainState, steps: Iterator[tuple[TrainState, Info]], every: int, identity: str
) -> Iterator[tuple[TrainState, Info]]:
    """Pass rounds on as they come, each with its line of metrics, and a checkpoint after ``every`` so many."""
    state, saved = start, start.round
    _cut_metrics(directory / METRICS, start.round)
    try:
        for state, info in steps:
            _append(directory / METRICS, info)
            if state.round % every == 0:
                save(directory, state, identity)
                saved = state.round
            yield state, info
    finally:  # also on Ctrl-C and when the caller leaves the loop: the last whole round is kept
        if state.round != saved:
            save(directory, state, identity)


def save(directory: Path, state: TrainState, identity: str) -> None:
    """Write the checkpoint of a state, atomically."""
    facts = {name: getattr(state, name) for name in ("round", "best_round", "best_loss", "stalled")}
    facts["best_loss"] = facts["best_loss"].hex()  # to the bit, and infinity has no JSON
    tree_file.save_tree(directory / CHECKPOINT, _numbers(state), {"identity": identity, "facts": facts}, kind="checkpoint")


def restore(directory: Path, algorithm: Algorithm, options: TrainOptions, seed: int, identity: str) -> TrainState:
    """The state of the checkpoint in ``directory``, or the beginning where there is none."""
    start = begin(algorithm, options, seed)
    path = directory / CHECKPOINT
    if not path.exists():
        return start
    numbers, about = tree_file.load_tree(path, kind="checkpoint")
    if about.get("identity") != identity:
        raise ArtifactError(f"{path} belongs to another run (other config, data, seed or version): choose another --out, or delete it to start anew")
    numbers, facts = tree.to(tree_file.fit(numbers, _numbers(start), str(path)), options.device), about["facts"]
    server = ServerState(numbers["meta"], numbers["optimizer"])
    best_loss = float.fromhex(facts["best_loss"])
    return TrainState(
        facts["round"], server, numbers["best"], facts["best_round"], best_loss, facts["stalled"], numbers["guards"], numbers["flights"]
    )


def _numbers(state: TrainState) -> Tree:
    return {"meta": state.server.meta, "optimizer": state.server.optimizer, "best": state.best, "guards": state.guards, "flights": state.flights}


def read_metrics(path: Path) -> list[dict[str, object]]:
    """The rows of a metrics file; a last line that was cut off by a kill is left out."""
    rows: list[dict[str, object]] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


def _append(path: Path, info: Line) -> None:
    """One more line; half a line that a full disk leaves is cut off when the run goes on."""
    try:
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(info._asdict()) + "\n")
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}; free space there and go on with --resume") from error


def _cut_metrics(path: Path, last_round: int) -> None:
    rows = [row for row in read_metrics(path) if int(str(row["round"])) <= last_round]
    storage.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
