"""What a site keeps on its own disk, by experiment: the replies that it gave, and its clients' models.

::

    FOLDER/EXPERIMENT/replies/PHASE.safetensors      the newest request of each phase, by its digest, and what was answered
    FOLDER/EXPERIMENT/secure/seat.json               under secure aggregation, the newest round: keys, vector, the reply given; for the owner alone
    FOLDER/EXPERIMENT/secure/messages.safetensors    where a combine takes several passes, the clients' messages of that round; the same
    FOLDER/EXPERIMENT/strategy.safetensors
    FOLDER/EXPERIMENT/clients/NAME/posterior.safetensors, report.json, report.html

Every file is whole or as it was. A request that comes again, because the site, the link or the server was killed, gets the reply that was given.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from metabayfl import storage
from metabayfl.errors import FederationError, StorageError
from metabayfl.flower import records
from metabayfl.flower.records import Header, Record

STRATEGY, POSTERIOR = "strategy.safetensors", "posterior.safetensors"


def home(folder: Path, experiment: str) -> Path:
    """The folder of one experiment."""
    return folder / experiment[:16]


def client_home(folder: Path, experiment: str, client: str) -> Path:
    """The folder of one client in it, whatever characters its name has.

    Example:
        >>> client_home(Path("site"), "0123456789abcdef", "../ward 7").as_posix()
        'site/0123456789abcdef/clients/..%2Fward%207'
    """
    name = quote(client, safe="")
    plain = name if len(name) <= 100 and name.strip(".") else f"{name[:60]}-{hashlib.sha256(client.encode()).hexdigest()[:16]}"
    return home(folder, experiment) / "clients" / plain


def reply_path(folder: Path, header: Header) -> Path:
    """Where the newest reply of a phase is."""
    return home(folder, header.experiment) / "replies" / f"{header.phase}.safetensors"


def keep_reply(folder: Path, request: str, reply: Record) -> None:
    """Write a reply to the request of that digest, in place of the one before.

    Raises:
        StorageError: if it could not be written; then it must not be sent either.
    """
    storage.write_bytes(reply_path(folder, reply.header), records.to_bytes(reply, {"request": request}))


def kept_reply(folder: Path, header: Header, request: str, behind: int = 1) -> Record | None:
    """The reply to the request of that digest, if it is the newest of its phase.

    Args:
        folder: the site's.
        header: the request's.
        request: its digest.
        behind: rounds that a request may be older than the newest one.

    Raises:
        FederationError: for a round that was answered long ago: only a server that lost its own records asks for it.
    """
    path = reply_path(folder, header)
    if not path.exists():
        return None
    reply, about = records.from_bytes(storage.read_bytes(path), str(path))
    if reply.header.round > header.round + behind:
        raise FederationError(
            f"{header.phase} of round {header.round} was asked for, but this site has answered round {reply.header.round}: the server went back; "
            "restore its checkpoint, or start a new experiment with another seed"
        )
    return reply if about["request"] == request else None


def seat_path(folder: Path, experiment: str) -> Path:
    """Where the state of the newest round under secure aggregation is."""
    return _secrets(folder, experiment) / "seat.json"


def messages_path(folder: Path, experiment: str) -> Path:
    """Where the messages of a round of several passes are."""
    return _secrets(folder, experiment) / "messages.safetensors"


def keep_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read.

    Raises:
        StorageError: if it could not be written; then what depends on it must not be sent.
    """
    storage.write_bytes(path, data, mode=0o600)


def forget_secrets(folder: Path, experiment: str) -> None:
    """Drop what was kept for secure aggregation: the last round is over."""
    with contextlib.suppress(FileNotFoundError):  # a run in clear has kept none
        shutil.rmtree(_secrets(folder, experiment))


@contextlib.contextmanager
def alone(folder: Path, experiment: str) -> Iterator[None]:
    """Let no other process answer for this site meanwhile: a request that comes again while the first is being answered must find its state.

    The lock goes with the process that holds it, however that ends.

    Raises:
        StorageError: if there is no room for the lock.
    """
    import fcntl  # not everywhere that this file is read

    path = _secrets(folder, experiment) / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"could not make {path}: {error.strerror or error}; free space there, or check who may write to it") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _secrets(folder: Path, experiment: str) -> Path:
    return home(folder, experiment) / "secure"
