"""One run at a time in an output folder, told by a lock that the system takes back when its process is gone, however it went."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from metabayfl.errors import FederationError, StorageError

LOCK = "running.lock"

_TRIES, _PAUSE = 20, 0.1
"""Somebody who only looks holds the lock for a moment."""


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        FederationError: if another process holds it.
        StorageError: if the folder cannot be written to.
    """
    with _opened(out) as handle:
        for _ in range(_TRIES):
            if _take(handle):
                break
            time.sleep(_PAUSE)
        else:
            raise FederationError(f"another run is at work in {out}: wait for it or stop it, or choose another --out")
        yield


def is_held(out: Path) -> bool:
    """Whether a process holds the folder's lock now."""
    if not (out / LOCK).exists():
        return False
    with _opened(out) as handle:
        return not _take(handle)


@contextlib.contextmanager
def _opened(out: Path) -> Iterator[int]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"could not write {out / LOCK}: {error.strerror or error}") from error
    try:
        yield handle
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    import fcntl  # where Flower's server runs; not everywhere that this file is read

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
