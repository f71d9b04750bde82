"""The live view's server: a page, the study's state as JSON, and the finished report, to this machine alone."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from metabayfl import page, storage
from metabayfl.errors import ArtifactError, ConfigError, MetabayflError
from metabayfl.study import STUDY
from metabayfl.watch.options import Options
from metabayfl.watch.progress import progress

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]
"""A page elsewhere that had its own name lead here would be refused."""

RECENT = 3.0
"""Seconds since its last question after which a page counts as closed."""

REPORT_HEADERS = {**page.HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
"""The report is one file with its style inside, and has no scripts."""


class Audience:
    """Whether pages are open: each asks about once a second."""

    def __init__(self) -> None:
        self._last = -math.inf

    def note(self) -> None:
        """A page asked."""
        self._last = time.monotonic()

    def stay(self) -> None:
        """Give every open page the time to ask once more, so that it shows the end; none where no page is open."""
        if time.monotonic() - self._last < RECENT:
            time.sleep(RECENT)


def application(directory: Path, audience: Audience) -> Starlette:
    """The view of one study as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import Response
    from starlette.routing import Route

    def state(request: Request) -> Response:
        audience.note()
        try:
            found, status = progress(directory), 200
        except MetabayflError as error:
            found, status = {"error": str(error)}, 503
        return Response(json.dumps(storage.plain(found), allow_nan=False), status, page.HEADERS, "application/json")

    def report(request: Request) -> Response:
        path = directory / "report.html"
        if not path.exists():
            return Response("The report is written when the last run is done.", 404, page.HEADERS, "text/plain")
        return Response(storage.read_bytes(path), 200, REPORT_HEADERS, "text/html")

    routes = [*page.routes("watch.html"), Route("/progress", state), Route("/report", report)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=NAMES)])


def watch(directory: Path, options: Options, say: Callable[[str], None]) -> None:
    """Show a study that another process runs, or one that is done, until Ctrl-C.

    Args:
        directory: the study's ``--out``.
        options: where it is served.
        say: told the address.

    Raises:
        ArtifactError: if the directory holds no study.
        ConfigError: if the port is taken or the extra is missing.
    """
    if not (directory / STUDY).exists():
        raise ArtifactError(f"{directory} holds no study: give the --out of a metabayfl train or compare that has begun")
    with _listening(options) as (door, address):
        server = _server(directory, Audience())
        _announce(address, options, say)
        with suppress(KeyboardInterrupt):  # uvicorn sends the signal again when it has ended
            server.run(sockets=[door])
        say("the view is closed; the study goes on")


@contextmanager
def live(directory: Path, options: Options, say: Callable[[str], None]) -> Iterator[None]:
    """Show the study that runs inside the ``with`` block; a page that is open gets the last state before the view closes.

    Args:
        directory: the study's ``--out``; may still be empty.
        options: where it is served.
        say: told the address.

    Raises:
        ConfigError: if the port is taken or the extra is missing.
    """
    with _listening(options) as (door, address):
        audience = Audience()
        server = _server(directory, audience)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, name="watch", daemon=True)
        thread.start()
        _announce(address, options, say)
        try:
            yield
            audience.stay()
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _listening(options: Options) -> Iterator[tuple[socket.socket, str]]:
    try:
        door = socket.create_server((HOST, options.port))
    except OSError as error:
        raise ConfigError(f"port {options.port} on {HOST} cannot be used ({error}): choose another with --port, or 0 for a free one") from error
    with door:
        yield door, f"http://{HOST}:{door.getsockname()[1]}/"


def _server(directory: Path, audience: Audience) -> uvicorn.Server:
    try:
        import uvicorn

        app = application(directory, audience)
    except ImportError as error:
        raise ConfigError(f"the live view needs {error.name}: install it with  pip install 'metabayfl[serve]'") from error
    # No log_config: uvicorn's own would close the log handlers of the process that trains.
    return uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1))


def _announce(address: str, options: Options, say: Callable[[str], None]) -> None:
    say(f"live view {address}")
    if options.open_browser:
        webbrowser.open(address)
