"""Where a federation's server is and who may come: ``connection.json`` beside the keys, at the server and at every site.

::

    DIR/                      the server's side
        connection.json       address, sites, and whether all of it is without TLS
        ca.pem, ca.key        the authority; its key only signs certificates: keep it elsewhere
        server.pem, server.key
        keys/SITE.pub         the public keys that may take part
        app/                  what Flower runs at both ends
        flower/               Flower's own state: its config, the link's database, installed apps
        sites/SITE/           to be handed to the site, whole and by a safe way
            connection.json, ca.pem, site.key
            kept/         the site's own: its replies, strategies, posteriors and reports
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from metabayfl import storage
from metabayfl.errors import ArtifactError, ConfigError, StorageError
from metabayfl.flower import app_folder, certificates
from metabayfl.flower.certificates import PRIVATE, PUBLIC, Pair
from metabayfl.table import parse

CONNECTION, AUTHORITY, SERVER, KEY = "connection.json", "ca.pem", "server", "site.key"
HOME, APP, KEYS, SITES, KEPT = "flower", "app", "keys", "sites", "kept"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}")

LOCAL = ("127.0.0.1", "localhost")
"""What every server's certificate also holds for: Flower's own processes on that machine come this way."""


@dataclass(frozen=True)
class Connection:
    """One federation's address.

    Attributes:
        host: how sites reach the server: a name or an IP address.
        port: where it listens.
        sites: who may take part.
        site: at a site, its own name.
        insecure: without TLS and keys.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    sites: tuple[str, ...] = ()
    site: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ConfigError(f"host is {self.host!r}, expected a name such as fl.example.org, or an IP address")
        if not 0 < self.port < 65536:
            raise ConfigError(f"port is {self.port}, expected 1 to 65535")
        for name in (*self.sites, *([self.site] if self.site else [])):
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{name!r} is no name for a site: use at most 64 of a-z, 0-9, - and _, with a letter or digit first")
        if len(set(self.sites)) != len(self.sites):
            raise ConfigError(f"sites names one twice: {', '.join(self.sites)}")

    @property
    def address(self) -> str:
        """Host and port as Flower writes them."""
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """An IPv6 address in brackets, anything else as it is.

    Example:
        >>> bracketed("::1"), bracketed("127.0.0.1")
        ('[::1]', '127.0.0.1')
    """
    return f"[{host}]" if ":" in host else host


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


def read(folder: Path, *, insecure: bool) -> Connection:
    """The connection in a folder.

    Args:
        folder: the server's, or a site's.
        insecure: whether the user said so; must be what the folder says, so that nobody goes without TLS unawares.

    Raises:
        ConfigError: if there is none, it is damaged, or is the other way about.
    """
    try:
        found = parse(Connection, storage.read_json(folder / CONNECTION), str(folder / CONNECTION))
    except ArtifactError as error:
        raise ConfigError(f"{folder} is no folder of metabayfl federate init: {error}") from error
    if found.insecure and not insecure:
        raise ConfigError(f"{folder} was made without TLS and keys: say --insecure to go on so, or make another with metabayfl federate init")
    if insecure and not found.insecure:
        raise ConfigError(f"{folder} has keys and certificates: leave --insecure out, or make another folder with federate init --insecure")
    return found


def need_files(folder: Path, *names: str) -> None:
    """Refuse a folder that lacks a file.

    Raises:
        ConfigError: names it.
    """
    for name in names:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} has no {name}: copy the whole folder that metabayfl federate init made, or ask for it again")


def need_flower() -> None:
    """Refuse to go on without Flower.

    Raises:
        ConfigError: says what to install.
    """
    if importlib.util.find_spec("flwr") is None or importlib.util.find_spec("cryptography") is None:
        raise ConfigError("a federation of real sites needs Flower: install it with  pip install 'metabayfl[flower]'")


def registered(folder: Path, connection: Connection) -> dict[str, Path]:
    """The public keys that may take part, by site.

    Raises:
        ConfigError: if one is missing.
    """
    paths = {name: folder / KEYS / f"{name}.pub" for name in connection.sites}
    for name, path in paths.items():
        if not path.is_file():
            raise ConfigError(f"there is no public key {path} of site {name!r}: put it there, or take the site out of {CONNECTION}")
    return paths
