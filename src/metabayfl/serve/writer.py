"""One writer, many requests to a commit: waiting for the disk is shared, and whoever is answered has been written.

Statements run in the thread that answers, since each takes some microseconds and a thread of its own would wait for Python's lock after every one of
them. Only what waits for the disk, the commit, is done in a thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from metabayfl.serve.database import connect

Result = TypeVar("Result")

Apply = Callable[[sqlite3.Connection], Any]

_TOGETHER = 128
"""Most changes in one commit."""

_PATIENCE, _PAUSE = 10.0, 0.005
"""Seconds to wait while another process writes, such as the one that makes a token; and between two looks."""


class _Change(NamedTuple):
    apply: Apply
    done: asyncio.Future[Any]


class Writer:
    """Applies changes in the order in which they were handed in. A change is a function of a connection that may be run again after a rollback."""

    def __init__(self, folder: Path) -> None:
        self._connection = connect(folder)
        self._connection.execute("PRAGMA busy_timeout = 0")  # the thread that answers never waits inside SQLite
        self._disk = ThreadPoolExecutor(1, "store")
        self._queue: deque[_Change] = deque()
        self._running: asyncio.Task[None] | None = None

    async def write(self, apply: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``apply`` gave, once it is on the disk; or its error, and then nothing of it is."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append(_Change(apply, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await done

    async def close(self) -> None:
        """Finish what was handed in, fold the log into the file, and close it."""
        if self._running is not None:
            await self._running
        self._disk.shutdown()
        self._connection.close()

    async def _run(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _TOGETHER))]
            await self._commit([change for change in batch if not change.done.cancelled()])
        self._running = None

    async def _commit(self, batch: list[_Change]) -> None:
        """All together; if any fails, each on its own, so that nobody pays for another's error."""
        try:
            results = await self._transaction([change.apply for change in batch])
        except Exception as error:  # it belongs to whoever waits for the change
            if len(batch) > 1:
                for change in batch:
                    await self._commit([change])
            elif not batch[0].done.cancelled():
                batch[0].done.set_exception(error)
            return
        for change, result in zip(batch, results, strict=True):
            if not change.done.cancelled():
                change.done.set_result(result)

    async def _transaction(self, applied: list[Apply]) -> list[Any]:
        await self._begin()
        try:
            results = [apply(self._connection) for apply in applied]
            await asyncio.get_running_loop().run_in_executor(self._disk, self._connection.execute, "COMMIT")
        except Exception:
            if self._connection.in_transaction:  # a full disk may have rolled back already
                self._connection.execute("ROLLBACK")
            raise
        return results

    async def _begin(self) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            await asyncio.sleep(_PAUSE)
