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

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from metabayfl import storage
from metabayfl.errors import ArtifactError, ConfigError
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
