"""MLflow: a run of an experiment for each run of the study, in ``DIR/mlflow.db`` or where ``MLFLOW_TRACKING_URI`` says.

``mlflow.json`` in a run's directory names its run there, so that a run that goes on is the same run in the log.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from metabayfl import storage
from metabayfl.data.sources.extras import need
from metabayfl.study import Event, Scored
from metabayfl.tracking.logged import FINAL, Log, Logged, Record, curves, finals, settings, telling

LINK = "mlflow.json"
METRICS, PARAMETERS = 1000, 100
"""Most in one request, as MLflow has it."""
WAIT = 2.0
"""Seconds that rounds may wait to be written together: a request takes longer than many a round."""
LONGEST = 500
"""Characters of a parameter."""


class Server(NamedTuple):
    """Where to log to."""

    client: Any
    uri: str  # as it may be shown
    artifacts: str | None  # where a new experiment keeps its files; the server's choice if none
    entities: Any
    problems: tuple[type[Exception], ...]
    secret: str  # what the address has of a name and a password, with its @

    def telling(self) -> AbstractContextManager[None]:
        """Around everything that is asked of the server."""
        return telling(self.uri, self.problems, self.secret)


def mlflow_log(study: Logged) -> Log:
    """Curves, final figures and hyper-parameters of every run, with its strategy, and the study's report beside the strategy that it hands out.

    Raises:
        DataError: if the extra is missing.
        StorageError: if the store cannot be opened.
    """
    server = _server(study)
    return Log(partial(_run, study, server), partial(_files, study, server))


def _server(study: Logged) -> Server:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent anywhere that nobody asked for
    tracking, entities, exceptions = (need(f"mlflow.{name}", "tracking", "--log mlflow") for name in ("tracking", "entities", "exceptions"))
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    problems: tuple[type[Exception], ...] = (OSError, exceptions.MlflowException)
    given, own = os.environ.get("MLFLOW_TRACKING_URI"), study.out.resolve()
    if not given:
        need("alembic", "tracking", "--log mlflow")
        problems = (*problems, need("sqlalchemy.exc", "tracking", "--log mlflow").SQLAlchemyError)
    uri, artifacts = given or f"sqlite:///{own / 'mlflow.db'}", None if given else (own / "mlflow").as_uri()
    secret = "".join(urlsplit(uri).netloc.rpartition("@")[:2])
    with telling(uri.replace(secret, ""), problems, secret):
        own.mkdir(parents=True, exist_ok=True)
        client = tracking.MlflowClient(tracking_uri=uri)
        client.get_experiment_by_name(study.config.name)  # whether anybody answers, before anything is trained
    return Server(client, uri.replace(secret, ""), artifacts, entities, problems, secret)


@contextmanager
def _run(study: Logged, server: Server, event: Event) -> Iterator[Record]:
    with server.telling():
        run = _linked(study, server, event) or _begun(study, server, event)
        written = max((point.step for point in server.client.get_metric_history(run, "round/seconds")), default=0)
        is_ended = any(name.startswith(FINAL) for name in server.client.get_run(run).data.metrics)
        server.client.update_run(run, status="RUNNING")
    writer = _Writer(server, run, "FINISHED" if is_ended else "KILLED")
    try:
        yield Record(written, writer.rounds, _nothing if is_ended else partial(writer.end, study))
    except Exception:
        writer.status = "FAILED"
        raise
    finally:
        writer.close()


def _nothing(event: Scored) -> None:
    """The final figures are there already."""


def _linked(study: Logged, server: Server, event: Event) -> str | None:
    """The run that an earlier session began, unless it is gone, or was logged elsewhere."""
    path = study.directory(event) / LINK
    link = storage.read_json(path) if path.exists() else {}
    if link.get("uri") != server.uri:
        return None
    try:
        return str(server.client.get_run(link["run"]).info.run_id)
    except server.problems as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _begun(study: Logged, server: Server, event: Event) -> str:
    """A new run with its hyper-parameters."""
    found = server.client.get_experiment_by_name(study.config.name)
    experiment = found.experiment_id if found else server.client.create_experiment(study.config.name, artifact_location=server.artifacts)
    directory = study.directory(event)
    run = str(server.client.create_run(experiment, run_name=directory.name).info.run_id)
    given = [server.entities.Param(name, str(value)[:LONGEST]) for name, value in settings(study, event).items()]
    for start in range(0, len(given), PARAMETERS):
        server.client.log_batch(run, params=given[start : start + PARAMETERS])
    storage.write_json(directory / LINK, {"uri": server.uri, "run": run})
    return run


def _files(study: Logged, server: Server) -> None:
    """The report and the model card go to the run whose strategy the study hands out."""
    run = storage.read_json(study.shipped() / LINK)["run"]
    with server.telling():
        for name in ("report.html", "model_card.md"):
            server.client.log_artifact(run, str(study.out / name))


class _Writer:
    """Numbers on their way to one run of MLflow; ``status`` is what it is left with."""

    def __init__(self, server: Server, run: str, status: str) -> None:
        self._server, self._run, self.status = server, run, status
        self._waiting: list[Any] = []
        self._since = time.monotonic()

    def rounds(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rounds; they are sent once the oldest has waited long enough."""
        for row in rows:
            self._add(curves(row), row["round"])
        if time.monotonic() - self._since > WAIT:
            self._send()

    def end(self, study: Logged, event: Scored) -> None:
        """Add the final figures and the strategy; the run is finished."""
        self._add(finals(event), int(event.figures["rounds"] or 0))
        self._send()
        with self._server.telling():
            self._server.client.log_artifact(self._run, str(study.directory(event) / "strategy.safetensors"))
        self.status = "FINISHED"

    def close(self) -> None:
        """Send what waits, and say how the run ended."""
        self._send()
        with self._server.telling():
            self._server.client.set_terminated(self._run, self.status)

    def _add(self, figures: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        self._waiting += [self._server.entities.Metric(name, value, now, step) for name, value in figures.items()]

    def _send(self) -> None:
        sent, self._waiting, self._since = self._waiting, [], time.monotonic()
        with self._server.telling():
            for start in range(0, len(sent), METRICS):
                self._server.client.log_batch(self._run, metrics=sent[start : start + METRICS])
