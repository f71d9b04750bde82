"""The coordinator as Flower's ``ServerApp``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from metabayfl.errors import ConfigError
from metabayfl.flower import jobs, lock
from metabayfl.flower.coordinator import Job
from metabayfl.flower.flower_transport import Clock
from metabayfl.flower.strategy import FederatedStrategy


def job_of_run(context: Context) -> Job:
    """The job in the file that the run's config names under ``job``.

    Raises:
        ConfigError: if it names none.
    """
    path = context.run_config.get("job")
    if not isinstance(path, str) or not path:
        raise ConfigError("the run's config has no 'job': start it with metabayfl federate run")
    return jobs.load(Path(path))


def server_app(job_of: Callable[[Context], Job] = job_of_run, clock: Clock | None = None) -> ServerApp:
    """An app that runs one job to its end.

    Args:
        job_of: which job; by default the one that the run's config names.
        clock: for runs in one process; the real one unless given.
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]  # Flower's types are not read
    def main(grid: Grid, context: Context) -> None:
        job = job_of(context)
        with lock.held(job.out):
            FederatedStrategy(job, clock).start(grid)

    return app
