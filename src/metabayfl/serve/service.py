"""What is alive while a server runs: the strategy, the store, models in memory, worker threads and meters."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from metabayfl.personal import PersonalStrategy, personal_from_bytes
from metabayfl.serve import clients, history
from metabayfl.serve.database import claim, connect
from metabayfl.serve.maker import Here, Maker
from metabayfl.serve.meters import Meters, build
from metabayfl.serve.options import Limits
from metabayfl.serve.ready import Held, Ready
from metabayfl.serve.writer import Writer

Given = ParamSpec("Given")
Result = TypeVar("Result")

LOG = logging.getLogger("metabayfl.serve")

_WORKERS = 2
"""Threads for what takes more than a millisecond; a prediction of a few rows is made between two requests, since handing it over costs as much."""

_FLUSH_SECONDS = 1.0


class Turn:
    """One at a time, and never two in one round of the event loop: whoever needs several rounds goes in between."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().call_soon(self._lock.release)


class Service:
    """One strategy over one store; :meth:`close` ends it."""

    def __init__(self, source: PersonalStrategy, folder: Path, limits: Limits, maker: Maker | None = None) -> None:
        self.source, self.folder, self.limits = source, folder, limits
        self.maker: Maker = maker or Here(source)
        self.strategy = source.strategy.digest()
        self.meters: Meters = build()
        self.gap = 0.0  # running confidence less accuracy
        self.ready = Ready(limits.models)
        claim(folder, self.strategy)
        self.reader: sqlite3.Connection = connect(folder)  # for the thread that answers
        self.viewer: sqlite3.Connection = connect(folder)  # for the thread that reads much at a time
        self.writer = Writer(folder)
        self.tally: history.Tally = {}
        self.turn = Turn()
        self._pool, self._views = ThreadPoolExecutor(_WORKERS, "model"), ThreadPoolExecutor(1, "view")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, client: str) -> asyncio.Lock:
        """One change of a client's posterior at a time; hold on to it while it is needed."""
        return self._locks.setdefault(client, asyncio.Lock())

    async def work(self, function: Callable[Given, Result], /, *args: Given.args, **named: Given.kwargs) -> Result:
        """Run something long in a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(function, *args, **named))

    async def view(self, function: Callable[Given, Result], /, *args: Given.args, **named: Given.kwargs) -> Result:
        """Run something that reads with :attr:`viewer`, in the one thread that does."""
        return await asyncio.get_running_loop().run_in_executor(self._views, functools.partial(function, *args, **named))

    async def model(self, client: str) -> Held:
        """The client's newest model, ready to answer.

        Raises:
            RequestError: 404 if the client has no posterior.
        """
        held = self.ready.get(client)
        if held is None:
            version, data = clients.posterior(self.reader, client)
            held = self.ready.put(client, await self.work(self.read, client, version, data))
        return held

    def read(self, client: str, version: int, data: bytes) -> Held:
        """A posterior's bytes as a model that is ready to answer."""
        model = personal_from_bytes(data, self.source, where=f"the posterior of {client}")
        _ = model.prepared  # here, and not in the thread that answers
        return Held(version, model)

    async def flush(self) -> None:
        """Write the history of predictions that are not written yet; what a kill loses of it is at most a second."""
        sums, self.tally = self.tally, {}
        if not sums:
            return
        try:
            await asyncio.shield(self.writer.write(lambda connection: history.add(connection, sums)))  # also while the server stops
        except sqlite3.Error as error:
            for (client, minute), part in sums.items():
                history.tally(self.tally, client, minute, part)
            self.meters.unkept.inc()
            LOG.warning("the history of predictions waits in memory: %s", error)

    async def flush_forever(self) -> None:
        """:meth:`flush` once a second, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            await self.flush()

    async def close(self) -> None:
        """Finish what is under way and close the store."""
        self._pool.shutdown(wait=True)
        self._views.shutdown(wait=True)
        await self.writer.close()
        self.viewer.close()
        self.reader.close()


def minute(now: float) -> int:
    """Minutes since 1970."""
    return int(now // 60)


def now() -> float:
    """Seconds since 1970."""
    return time.time()
