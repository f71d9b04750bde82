"""The process: one server on one store, until it is told to stop."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import uvicorn

from metabayfl import personal
from metabayfl.serve.app import build
from metabayfl.serve.database import owned
from metabayfl.serve.options import Address, Limits
from metabayfl.serve.service import Service

_TURN_SECONDS = 0.001
"""How long a worker thread may keep the thread that answers waiting; Python's own 5 ms are several predictions."""

_STOPPING_SECONDS = 30
"""What is in flight has so long to end after SIGTERM."""


def run(strategy: Path, store: Path, address: Address, limits: Limits, say: Callable[[str], None]) -> None:
    """Serve a strategy until SIGTERM or Ctrl-C; requests in flight are finished, and the store is closed.

    Raises:
        ArtifactError: for a strategy that cannot be read, or a store that belongs to another one.
        ConfigError: if another server holds the store, or the address cannot be had.
        StorageError: if the store cannot be written to.
    """
    torch.set_num_threads(1)  # a client's model is tiny: more threads only wait for each other
    sys.setswitchinterval(_TURN_SECONDS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    source = personal.load(strategy)
    with owned(store):
        server = Server(Service(source, store, limits), address, say)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        server.run()


def _stop(*_: object) -> None:
    """uvicorn ends what is in flight at a signal and then sends it again: to be told to stop is no failure."""
    sys.exit(0)


class Server(uvicorn.Server):
    """Says when it listens, and where."""

    def __init__(self, service: Service, address: Address, say: Callable[[str], None]) -> None:
        self._say, self._scheme = say, "https" if address.certificate else "http"
        super().__init__(
            uvicorn.Config(
                build(service), address.host, address.port, log_level="warning", access_log=False, server_header=False, ws="none",
                timeout_keep_alive=60, timeout_graceful_shutdown=_STOPPING_SECONDS, ssl_certfile=address.certificate, ssl_keyfile=address.key,
            )
        )  # fmt: skip

    async def startup(self, sockets: object = None) -> None:
        """As uvicorn's, and one line more."""
        await super().startup(None)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._say(f"serving at {self._scheme}://{host}:{port}")
