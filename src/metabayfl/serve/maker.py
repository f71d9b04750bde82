"""Where posteriors are made: in a thread of the server, or in a process beside it.

Python runs one thread at a time. A posterior that is made in a thread keeps predictions waiting, and is kept waiting by them; on a second core
neither happens. The process beside the server holds nothing but the strategy: it may be killed at any time, and what it was making is asked for
again.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Protocol

import torch

from metabayfl.artifact import strategy_from_bytes
from metabayfl.personal import PersonalStrategy, rebuild
from metabayfl.serve.making import Made
from metabayfl.serve.problems import RequestError

Making = Callable[..., Made]
"""A function of :mod:`metabayfl.serve.making`: the strategy first, then what it is made from."""


class Maker(Protocol):
    """Makes posteriors until it is closed."""

    async def make(self, making: Making, *given: Any) -> Made:
        """Run ``making`` on the strategy and what is given."""

    def close(self) -> None:
        """Finish what is under way."""


class Inside:
    """In a thread of this process."""

    def __init__(self, source: PersonalStrategy) -> None:
        self._source, self._pool = source, ThreadPoolExecutor(1, "maker")

    async def make(self, making: Making, *given: Any) -> Made:
        """See :class:`Maker`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, making, self._source, *given)

    def close(self) -> None:
        """See :class:`Maker`."""
        self._pool.shutdown(wait=True)


class Beside:
    """In a process of its own, which is started anew where it ended; it ends with this one, however that ends."""

    def __init__(self, source: PersonalStrategy) -> None:
        self._strategy = source.strategy.to_bytes()
        self._pool = self._started()

    def _started(self) -> Executor:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (self._strategy,))
        pool.submit(os.getpid)  # the process starts now, and not with the first request
        return pool

    async def make(self, making: Making, *given: Any) -> Made:
        """See :class:`Maker`.

        Raises:
            RequestError: 503 if the process ended meanwhile; nothing was changed.
        """
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, _make, making, *given)
        except BrokenProcessPool:
            if pool is self._pool:
                self._pool = self._started()
            raise RequestError(
                503, "the process that makes posteriors ended: nothing was changed; send it again in a moment", headers={"Retry-After": "1"}
            ) from None

    def close(self) -> None:
        """See :class:`Maker`."""
        self._pool.shutdown(wait=True)


_HELD: list[PersonalStrategy] = []
"""The strategy, in the process beside the server alone."""


def _begin(strategy: bytes) -> None:
    """The first thing in the new process. A signal to the whole group is the server's to answer: it ends this process when it has finished."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    torch.set_num_threads(1)
    _HELD.append(rebuild(strategy_from_bytes(strategy)))


def _end_with_the_server() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _make(making: Making, *given: Any) -> Made:
    return making(_HELD[0], *given)
