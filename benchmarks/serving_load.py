"""What the benchmarks of serving share: a real server process, connections that cost little, and made-up rows of a strategy's schema."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metabayfl.data.features import Feature
from metabayfl.data.schema import Schema
from metabayfl.serve import database, tokens

METABAYFL = [sys.executable, "-c", "from metabayfl.cli import entry; entry()"]


class Server:
    """``metabayfl serve`` on a port that the system chose at the first start and that stays."""

    def __init__(self, strategy: Path, store: Path) -> None:
        self._words = [*METABAYFL, "serve", "--strategy", str(strategy), "--store", str(store), "--rate", "10000"]
        self.port = 0

    def start(self) -> None:
        """Start and wait until it listens."""
        self._process = subprocess.Popen([*self._words, "--port", str(self.port)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("serving at "), f"the server did not start: {line!r}"
        self.port = int(line.rsplit(":", 1)[1])

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)


@contextmanager
def served(strategy: Path, store: Path) -> Iterator[Server]:
    """A server that does not outlive the block."""
    server = Server(strategy, store)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Connection:
    """One keep-alive connection that speaks just enough HTTP; it opens itself anew after an error."""

    def __init__(self, server: Server, token: str) -> None:
        self._server, self._token = server, token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, value: Any, key: str = "") -> tuple[int, Any]:
        """Status and JSON of the answer.

        Raises:
            OSError, asyncio.IncompleteReadError: if the server went away; the request may have been applied.
        """
        body = json.dumps(value).encode()
        extra = f"Idempotency-Key: {key}\r\n" if key else ""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
        try:
            return await self._exchange(head.encode() + body)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, request: bytes) -> tuple[int, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._server.port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        return int(head[9:12]), json.loads(await reader.readexactly(int(fields[b"content-length"])))

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def new_tokens(store: Path, clients: list[str]) -> dict[str, str]:
    """A token for every client."""
    with closing(database.connect(store)) as connection, database.transaction(connection):
        return {client: tokens.make(connection, client) for client in clients}


def samples(schema: Schema, count: int, rng: np.random.Generator) -> dict[str, list[Any]]:
    """Made-up labelled samples, every one of them different, as requests carry them."""
    return {"rows": [_row(schema, rng) for _ in range(count)], "labels": [_label(schema, rng) for _ in range(count)]}


def _row(schema: Schema, rng: np.random.Generator) -> Any:
    if schema.form == "table":
        return {feature.name: _cell(feature, rng) for feature in schema.features}
    mean, scale = (np.reshape(values, (-1, *(1,) * (len(schema.input_shape) - 1))) for values in (schema.channel_mean, schema.channel_scale))
    low, high = schema.pixel_range or (-np.inf, np.inf)
    row = np.clip(mean + scale * rng.normal(size=schema.input_shape), low, high)
    row = np.moveaxis(row, 0, -1) if schema.layout == "channels_last" else row
    return row.round(3).tolist()


def _cell(feature: Feature, rng: np.random.Generator) -> Any:
    return round(float(rng.normal(feature.mean, feature.scale)), 6) if feature.kind == "numeric" else str(rng.choice(feature.categories))


def _label(schema: Schema, rng: np.random.Generator) -> Any:
    if schema.kind == "classification":
        return str(rng.choice(schema.classes))
    return rng.normal(schema.target_mean, schema.target_scale).tolist()
