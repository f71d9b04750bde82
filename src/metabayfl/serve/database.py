"""The store: one SQLite file in a folder, owned by one server at a time.

Write-ahead logging with ``synchronous = FULL``: a commit that returned is on the disk, a reader never waits for a writer, and what a kill or a full
disk interrupts was never there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from metabayfl.errors import ArtifactError, ConfigError, StorageError

FILE, LOCK = "store.sqlite3", "serving.lock"

VERSION = 1
"""Of the tables; a reader refuses any other."""

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (
  id TEXT PRIMARY KEY, hash BLOB NOT NULL, client TEXT, made REAL NOT NULL, revoked REAL
) WITHOUT ROWID;
CREATE TABLE clients (
  client TEXT PRIMARY KEY, posterior BLOB NOT NULL, digest TEXT NOT NULL, version INTEGER NOT NULL, samples INTEGER NOT NULL,
  threshold REAL, made REAL NOT NULL, updated REAL NOT NULL, drift REAL, novelty_rate REAL NOT NULL
);
CREATE TABLE applied (
  number INTEGER PRIMARY KEY, client TEXT NOT NULL, key TEXT NOT NULL, request BLOB NOT NULL, answer TEXT NOT NULL, UNIQUE (client, key)
);
CREATE TABLE cases (
  number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, client TEXT NOT NULL, row TEXT NOT NULL, answer TEXT NOT NULL, version INTEGER NOT NULL,
  made REAL NOT NULL, label TEXT, labelled REAL
);
CREATE INDEX cases_of_client ON cases (client, labelled, number);
CREATE TABLE feedback (
  number INTEGER PRIMARY KEY, client TEXT NOT NULL, made REAL NOT NULL, version INTEGER NOT NULL, truth TEXT NOT NULL, answer TEXT NOT NULL,
  confidence REAL NOT NULL, correct REAL NOT NULL, log_probability REAL NOT NULL,
  total REAL NOT NULL, aleatoric REAL NOT NULL, epistemic REAL NOT NULL, referred INTEGER NOT NULL
);
CREATE INDEX feedback_of_client ON feedback (client, number);
CREATE TABLE history (
  client TEXT NOT NULL, minute INTEGER NOT NULL, predictions INTEGER NOT NULL, referred INTEGER NOT NULL, novel INTEGER NOT NULL,
  total REAL NOT NULL, aleatoric REAL NOT NULL, epistemic REAL NOT NULL, PRIMARY KEY (client, minute)
) WITHOUT ROWID;
"""


def connect(folder: Path) -> sqlite3.Connection:
    """A connection to the folder's store; the store is made where there is none.

    Raises:
        StorageError: if the folder cannot be written to.
        ArtifactError: if the file is no store, or of another version.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _opened(folder / FILE)
    except OSError as error:
        raise StorageError(f"could not open the store in {folder}: {error.strerror or error}; choose a folder that you may write to") from error
    except sqlite3.OperationalError as error:
        raise StorageError(f"could not open the store in {folder}: {error}; free space there, or choose a folder that you may write to") from error
    except sqlite3.DatabaseError as error:
        raise ArtifactError(f"{folder / FILE} is no store ({error}): restore its backup, or choose another --store") from error


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # samples and posteriors are for the owner alone
    connection = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        with transaction(connection):
            _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    elif version != VERSION:
        raise ArtifactError(f"{path} is a store of version {version}, this library reads {VERSION}: install the metabayfl that wrote it")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; waits for its turn where another process writes."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled back already
            connection.execute("ROLLBACK")
        raise


def claim(folder: Path, strategy: str) -> None:
    """Bind a new store to a strategy's digest; a store that is bound to another is refused.

    Raises:
        ArtifactError: names both.
    """
    with closing(connect(folder)) as connection, transaction(connection):
        connection.execute("INSERT OR IGNORE INTO about VALUES ('strategy', ?)", (strategy,))
        (bound,) = connection.execute("SELECT value FROM about WHERE name = 'strategy'").fetchone()
    if bound != strategy:
        raise ArtifactError(
            f"{folder} holds posteriors of the strategy {bound[:12]}…, the one given is {strategy[:12]}…: serve that one, or choose another --store"
        )


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system takes the lock back when the process is gone, however it went.

    Raises:
        ConfigError: if another server holds it.
        StorageError: if the folder cannot be written to.
    """
    import fcntl  # not everywhere that this file is read

    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"could not write {folder / LOCK}: {error.strerror or error}; choose a folder that you may write to") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ConfigError(f"another server holds the store {folder}: stop it, or choose another --store") from error
    try:
        yield
    finally:
        os.close(handle)
