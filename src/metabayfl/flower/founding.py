"""What ``metabayfl federate init`` writes: all of a new federation's keys and folders, or nothing."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from pathlib import Path

from metabayfl import storage
from metabayfl.errors import ConfigError, StorageError
from metabayfl.flower import app_folder, certificates
from metabayfl.flower.certificates import PRIVATE, PUBLIC, Pair
from metabayfl.flower.connection import APP, AUTHORITY, CONNECTION, HOME, KEY, KEYS, LOCAL, SERVER, SITES, Connection


def create(folder: Path, connection: Connection, days: int) -> None:
    """Write everything that a new federation needs, or nothing.

    Args:
        folder: must be new or empty.
        connection: the address, and the names of the sites.
        days: how long the server's certificate holds.

    Raises:
        ConfigError: without sites, or without the library that makes keys.
        StorageError: if the folder holds something, or cannot be written.
    """
    if not connection.sites:
        raise ConfigError("a federation without sites: name them with --sites, such as --sites basel,bern,zug")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} is there already, and keys are never overwritten: choose another folder, or empty it yourself")
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        _fill(draft, connection, days)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, folder)
    except OSError as error:
        raise StorageError(f"could not write {folder}: {error.strerror or error}; nothing was left half-written") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill(folder: Path, connection: Connection, days: int) -> None:
    folder.mkdir(mode=0o700, parents=True)
    issuer = None if connection.insecure else certificates.authority(days + 30)
    if issuer is not None:
        _write_pair(folder, issuer, "ca.key", AUTHORITY)
        hosts = tuple(dict.fromkeys((connection.host, *LOCAL)))
        _write_pair(folder, certificates.server(issuer, hosts, days), f"{SERVER}.key", f"{SERVER}.pem")
    for name in connection.sites:
        _fill_site(folder, name, connection, issuer)
    for name, text in app_folder.FILES.items():
        storage.write_text(folder / APP / name, text)
    (folder / HOME).mkdir(mode=0o700)
    _write_connection(folder, connection)


def _fill_site(folder: Path, name: str, connection: Connection, issuer: Pair | None) -> None:
    home = folder / SITES / name
    home.mkdir(mode=0o700, parents=True)  # later it holds what is made of the site's data
    if issuer is not None:
        pair = certificates.site()
        certificates.write_new(home / KEY, pair.private, PRIVATE)
        certificates.write_new(folder / KEYS / f"{name}.pub", pair.public, PUBLIC)
        certificates.write_new(home / AUTHORITY, issuer.public, PUBLIC)
    _write_connection(home, dataclasses.replace(connection, site=name, sites=()))


def _write_pair(folder: Path, pair: Pair, private: str, public: str) -> None:
    certificates.write_new(folder / private, pair.private, PRIVATE)
    certificates.write_new(folder / public, pair.public, PUBLIC)


def _write_connection(folder: Path, connection: Connection) -> None:
    storage.write_json(folder / CONNECTION, dataclasses.asdict(connection))
