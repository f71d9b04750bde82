"""Training curves and final figures in TensorBoard or MLflow: a consumer of a study's events, which passes them on.

A log holds every round of a run once, however often the run was stopped: what ``metrics.jsonl`` has and the log has not is written when the run
goes on, so that a study that began without a log has its whole curves too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing

from metabayfl.errors import unknown
from metabayfl.study import Event, Scored
from metabayfl.tracking.logged import Log, Logged, Record, due
from metabayfl.tracking.mlflow_log import mlflow_log
from metabayfl.tracking.tensorboard_log import tensorboard_log

__all__ = ["LOGS", "Logged", "tracked"]

LOGS: dict[str, Callable[[Logged], Log]] = {"mlflow": mlflow_log, "tensorboard": tensorboard_log}
"""By name: a log of a study."""


def tracked(events: Generator[Event, None, None], study: Logged, names: Sequence[str]) -> Generator[Event, None, None]:
    """The same events, each written to the logs before it is passed on; the study's report follows at its end.

    Args:
        events: of :func:`metabayfl.study.compare`; closed with this generator.
        study: what the events are of.
        names: of logs, in :data:`LOGS`.

    Raises:
        ConfigError: for an unknown name.
        DataError: if the extra ``tracking`` is missing.
        StorageError: if a log cannot be written; what was trained is kept, and ``--resume`` goes on.
    """
    with closing(events), ExitStack() as opened:
        logs = [_log(name)(study) for name in names]
        current, records, written = None, list[Record](), list[int]()
        for event in events:
            if current != (event.algorithm, event.seed):
                opened.close()
                current = (event.algorithm, event.seed)
                records = [opened.enter_context(log.run(event)) for log in logs]
                written = [record.written for record in records]
            written = [_write(study, event, record, known) for record, known in zip(records, written, strict=True)]
            yield event
        opened.close()
        for log in logs:
            log.files()


def _log(name: str) -> Callable[[Logged], Log]:
    if name not in LOGS:
        raise unknown("log", name, LOGS)
    return LOGS[name]


def _write(study: Logged, event: Event, record: Record, written: int) -> int:
    """Tell one record of one event; returns how many rounds it holds then."""
    rows = due(study, event, written)
    record.rounds(rows)
    if isinstance(event, Scored):
        record.end(event)
    return written if not rows else int(rows[-1]["round"])
