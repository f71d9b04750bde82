"""Flower's SuperLink with a door: whoever comes from another machine reaches what sites need and nothing else.

Flower 1.41 serves sites, operators and its own processes at one port and asks no operator for a key: anybody who reached it could start an app, and
so run code at every site. Operators and Flower's processes are on the server's own machine here; to all others those paths are closed. The door
opens once the sites' keys are registered, so that no site is turned away for having come early.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from metabayfl.errors import MetabayflError
from metabayfl.flower import commands
from metabayfl.flower import connection as connections

log = logging.getLogger("flwr")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FLEET = "/v1/fleet/"
"""Where sites speak with the link; every request there is signed with the site's key."""

WAIT, AT_ONCE = 60.0, 4
"""Seconds that the link has to come up, or to take one more key, before it is given up on; and how many keys are registered at once."""


def main(words: list[str]) -> None:
    """Run the link until it is stopped.

    Args:
        words: the server's folder, then the SuperLink's own arguments.
    """
    from flwr.superlink import main as superlink
    from flwr.superlink.cli import flower_superlink

    folder, create, ready = Path(words[0]), superlink.create_app, threading.Event()
    superlink.create_app = lambda *given: door(create(*given), ready.is_set)
    threading.Thread(target=_register, args=(folder, ready), daemon=True).start()
    sys.argv = ["flower-superlink", *words[1:]]
    flower_superlink()


def door(app: App, ready: Callable[[], bool]) -> App:
    """An ASGI app that lets strangers to the sites' paths alone, and nobody there before it is ready."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        refused = 0 if scope["type"] == "lifespan" else _refused(scope, ready())
        await (_refuse(send, scope["type"], refused) if refused else app(scope, receive, send))

    return guarded


def _refused(scope: Scope, ready: bool) -> int:
    """An HTTP status, or 0 for a request that may pass."""
    if scope["path"].startswith(FLEET):
        return 0 if ready else 503
    return 0 if at_home(scope) else 403


def at_home(scope: Scope) -> bool:
    """Whether a request comes from the server's own machine: from loopback, or from the very address that it came to.

    Example:
        >>> at_home({"client": ("10.0.0.7", 50000), "server": ("10.0.0.2", 8443)})
        False
    """
    client, server = (str((scope.get(side) or ("",))[0]) for side in ("client", "server"))
    return client != "" and (client in ("127.0.0.1", "::1") or client == server)


async def _refuse(send: Send, kind: str, status: int) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _register(folder: Path, ready: threading.Event) -> None:
    """Register the sites' keys as soon as the link answers; without them the link is of no use, and ends."""
    try:
        connection = connections.read(folder, insecure="--insecure" in sys.argv)
        if not connection.insecure:
            _register_all(folder, connection)
    except (MetabayflError, OSError, subprocess.TimeoutExpired) as error:
        log.error("the sites' keys could not be registered: %s", error)
        os._exit(1)
    ready.set()
    log.info("metabayfl: the server is ready for %s", ", ".join(connection.sites))


def _register_all(folder: Path, connection: connections.Connection) -> None:
    """A few at a time; those that fail, as before the link is up, are tried again while others succeed or time is left."""
    waiting, end = list(connections.registered(folder, connection).items()), time.monotonic() + WAIT
    while waiting:
        batch, rest = dict(waiting[:AT_ONCE]), waiting[AT_ONCE:]
        failed = _register_some(folder, batch)
        if failed and time.monotonic() > end:
            raise MetabayflError("; ".join(f"{site}: {why}" for site, why in failed.items()))
        end = end if len(failed) == len(batch) else time.monotonic() + WAIT
        waiting = rest + [(site, batch[site]) for site in failed]


def _register_some(folder: Path, keys: dict[str, Path]) -> dict[str, str]:
    """Register keys at once; returns those that failed, and what Flower said. A key that an earlier link has registered is well."""
    given = {site: _start(commands.register(folder, site, key, os.environ)) for site, key in keys.items()}
    said = {site: process.communicate(timeout=WAIT)[0] for site, process in given.items()}
    return {site: " ".join(text.split())[-300:] for site, text in said.items() if given[site].returncode and "already in use" not in text}


def _start(command: commands.Command) -> subprocess.Popen[str]:
    return subprocess.Popen(command.words, env=command.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


if __name__ == "__main__":
    main(sys.argv[1:])
