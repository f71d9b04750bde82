"""The process: one server on one store, until it is told to stop."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import uvicorn

from metabayfl import personal
from metabayfl.errors import ConfigError
from metabayfl.serve.app import build
from metabayfl.serve.database import owned
from metabayfl.serve.maker import Beside, Here, Nearest
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
    with owned(store), _listening(address) as listener, closing(Beside(source)) as beside:
        app = build(Service(source, store, limits, Nearest(Here(source), beside)))
        gc.freeze()  # what is here stays: to look through all of it for garbage takes a tenth of a second, in which nobody is answered
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        options: dict[str, Any] = {"ssl_certfile": str(address.certificate), "ssl_keyfile": str(address.key)} if address.certificate else {}
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing goes by the sender's address
            timeout_keep_alive=60,
            timeout_graceful_shutdown=_STOPPING_SECONDS,
            **options,
        )
        _Server(config, lambda: say(f"serving at {'https' if address.certificate else 'http'}://{_told(listener)}")).run([listener])


def _listening(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {address.host}, port {address.port} ({error.strerror or error}): choose another --host or --port"
        ) from error


def _told(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _stop(*_: object) -> None:
    """uvicorn ends what is in flight at a signal and then sends it again: to be told to stop is no failure."""
    sys.exit(0)


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and one line more."""
        await super().startup(sockets)
        self._started()
