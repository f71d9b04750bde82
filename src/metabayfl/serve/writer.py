"""One thread that writes, many requests to a commit: waiting for the disk is shared, and whoever is answered has been written."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from metabayfl.serve.database import connect, transaction

Result = TypeVar("Result")

_TOGETHER = 128
"""Most changes in one commit."""


class _Change(NamedTuple):
    apply: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


class Writer:
    """Applies changes in the order in which they were handed in. A change is a function of a connection that may be run again after a rollback."""

    def __init__(self, folder: Path) -> None:
        self._connection = connect(folder)
        self._queue: SimpleQueue[_Change | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    async def write(self, apply: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``apply`` gave, once it is on the disk; or its error, and then nothing of it is."""
        done: Future[Result] = Future()
        self._queue.put(_Change(apply, done))
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Finish what was handed in, fold the log into the file, and close it."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._gather(first)
            self._commit(batch)
            if last:
                return

    def _gather(self, first: _Change) -> tuple[list[_Change], bool]:
        batch = [first]
        while len(batch) < _TOGETHER:
            try:
                change = self._queue.get_nowait()
            except Empty:
                break
            if change is None:
                return batch, True
            batch.append(change)
        return batch, False

    def _commit(self, batch: list[_Change]) -> None:
        """All together; if any fails, each on its own, so that nobody pays for another's error."""
        live = [change for change in batch if change.done.set_running_or_notify_cancel()]
        try:
            with transaction(self._connection):
                results = [change.apply(self._connection) for change in live]
        except Exception as error:
            if len(live) == 1:
                live[0].done.set_exception(error)
                return
            for change in live:
                self._alone(change)
            return
        for change, result in zip(live, results, strict=True):
            change.done.set_result(result)

    def _alone(self, change: _Change) -> None:
        try:
            with transaction(self._connection):
                result = change.apply(self._connection)
        except Exception as error:  # it belongs to whoever waits for this change
            change.done.set_exception(error)
        else:
            change.done.set_result(result)
