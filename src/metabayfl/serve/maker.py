"""Where posteriors are made: short ones between two requests, long ones in a process beside the server.

Python runs one thread at a time. A posterior that is made in a thread keeps predictions waiting and is kept waiting by them, step for step; in a
process of its own it is not, and where that process has a core of its own, predictions do not even slow down. The process holds nothing but the
strategy: it may be killed at any time, and what it was making is asked for again.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import torch

from metabayfl.artifact import strategy_from_bytes
from metabayfl.personal import PersonalStrategy, rebuild
from metabayfl.serve.making import Job, Made
from metabayfl.serve.problems import RequestError

SHORT = 0.05
"""Seconds of the processor: what is made in less may keep others waiting."""

GUESS = 50
"""Samples that are taken to be few enough for that until something was measured."""


class Maker(Protocol):
    """Makes posteriors."""

    async def make(self, job: Job) -> Made:
        """Do a job."""


class Here:
    """In the thread that answers: nobody is answered meanwhile."""

    def __init__(self, source: PersonalStrategy) -> None:
        self._source = source

    async def make(self, job: Job) -> Made:
        """See :class:`Maker`."""
        return job.here(self._source)


class Nearest:
    """Short jobs in one place, since handing them over costs more than doing them, and long ones in another.

    What is short is measured: it takes no more than ``SHORT`` at a job's time for each sample, which is less where there are more of them. Before
    anything was measured it is guessed, since the process beside takes seconds to start.
    """

    def __init__(self, near: Maker, far: Maker) -> None:
        self._near, self._far = near, far
        self._samples = float(GUESS)  # up to so many are short

    async def make(self, job: Job) -> Made:
        """See :class:`Maker`."""
        made = await (self._near if job.samples <= self._samples else self._far).make(job)
        change = max if made.seconds <= SHORT else min
        self._samples = change(self._samples, job.samples * SHORT / made.seconds)
        return made


class Beside:
    """In a process of its own, which is started anew where it ended; it ends with this one, however that ends."""

    def __init__(self, source: PersonalStrategy) -> None:
        self._strategy = source.strategy.to_bytes()
        self._turn = asyncio.Lock()  # one posterior at a time: that process is as busy as a core can be
        self._start()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs, self._strategy), name="maker")
        self._process.start()
        theirs.close()
        self._socket.setblocking(False)

    async def make(self, job: Job) -> Made:
        """See :class:`Maker`.

        Raises:
            RequestError: 503 if the process ended meanwhile; nothing was changed.
        """
        return await asyncio.shield(self._made(job))  # what was sent is answered, also where nobody waits for it any more

    async def _made(self, job: Job) -> Made:
        async with self._turn:
            try:
                found = await self._asked(job.elsewhere)
            except (EOFError, OSError):
                self.close()
                self._start()
                raise RequestError(
                    503, "the process that makes posteriors ended: nothing was changed; send it again in a moment", headers={"Retry-After": "1"}
                ) from None
        if isinstance(found, Exception):
            raise found
        return found

    async def _asked(self, question: Any) -> Made | Exception:
        """On the event loop, and not in a thread, which would wait for Python's lock."""
        await asyncio.get_running_loop().sock_sendall(self._socket, _framed(question))
        (length,) = _LENGTH.unpack(await self._read(_LENGTH.size))
        found: Made | Exception = pickle.loads(await self._read(length))
        return found

    async def _read(self, count: int) -> bytes:
        data, loop = b"", asyncio.get_running_loop()
        while len(data) < count:
            part = await loop.sock_recv(self._socket, count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        """End the process, which holds nothing that could be lost."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._socket.close()


_LENGTH = struct.Struct("<Q")


def _framed(value: Any) -> bytes:
    """For the other end of a socket that no one else has."""
    data = pickle.dumps(value)
    return _LENGTH.pack(len(data)) + data


def _work(server: socket.socket, strategy: bytes) -> None:
    """The process beside the server, until the other end of the socket is closed. A signal to the whole group is the server's to answer."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    source = rebuild(strategy_from_bytes(strategy))
    gc.freeze()  # as the server does
    with suppress(OSError), server.makefile("rb") as questions:  # when the server is gone, however it went, nobody is there to be answered
        while len(size := questions.read(_LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(size)
            question = questions.read(length)
            if len(question) == length:
                server.sendall(_framed(_answer(pickle.loads(question), source)))


def _answer(making: Callable[[PersonalStrategy], Made], source: PersonalStrategy) -> Made | Exception:
    try:
        return making(source)
    except Exception as error:  # the server's to tell
        return error
