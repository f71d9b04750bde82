"""Before a link or a site starts: everything that can be seen to be wrong is said in one line, in place of a trace of Flower's."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from metabayfl import storage
from metabayfl.errors import ConfigError, DataError, FederationError
from metabayfl.flower import certificates, commands
from metabayfl.flower import connection as connections
from metabayfl.flower.admission import await_admission
from metabayfl.flower.commands import EVERYWHERE, Command
from metabayfl.flower.connection import AUTHORITY, HOME, KEPT, KEY, LOCAL, SERVER, Connection
from metabayfl.flower.node_config import Site

HELLO, LOOK = 10.0, 1.0
"""Seconds that a server has to show its certificate; between two looks whether it is there."""


def link(folder: Path, listen: str, *, insecure: bool) -> Command:
    """What starts the link; writes Flower's config for the commands that will speak with it.

    Raises:
        ConfigError: for a folder that lacks something, or an address that the certificate does not hold for.
        FederationError: if something listens there already.
    """
    connections.need_flower()
    connection = connections.read(folder, insecure=insecure)
    if listen not in (*LOCAL, *EVERYWHERE, connection.host):
        known = ", ".join(dict.fromkeys((LOCAL[0], *EVERYWHERE, connection.host)))
        raise ConfigError(f"cannot listen at {listen!r}: the certificate holds for other addresses, expected one of {known}")
    if not insecure:
        connections.need_files(folder, AUTHORITY, f"{SERVER}.pem", f"{SERVER}.key")
        connections.registered(folder, connection)
    _need_free(listen, connection.port)
    storage.write_text(folder / commands.CONFIG, commands.flower_config(folder, connection, listen))
    return commands.link(folder, connection, listen, os.environ)


def _need_free(listen: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET) as test:
            test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            test.bind((listen, port))
    except OSError as error:
        raise FederationError(f"cannot listen at {listen}, port {port}: {error.strerror or error}; is a server running there already?") from error


def node(folder: Path, data: Path, client_column: str, *, secure_only: bool, insecure: bool) -> Command:
    """What starts a site.

    Raises:
        ConfigError: for a folder that lacks something, or a key that others can read.
        DataError: if there is no such file.
    """
    connections.need_flower()
    connection = connections.read(folder, insecure=insecure)
    if not connection.site:
        raise ConfigError(f"{folder} is the server's folder: give a site's own, in {folder / connections.SITES}")
    if not data.is_file():
        raise DataError(f"there is no file {data}: give this site's data with --data")
    if not insecure:
        connections.need_files(folder, AUTHORITY, KEY)
        _need_private(folder / KEY)
    shutil.rmtree(folder / HOME / "apps", ignore_errors=True)  # a kill may have left half an app there, which Flower would take for a whole one
    site = Site(connection.site, data.resolve(), (folder / KEPT).resolve(), client_column, secure_only)
    return commands.node(folder, connection, site, free_port(), os.environ)


def await_server(folder: Path, say: Callable[[str], None], *, insecure: bool) -> None:
    """Wait until the server is there and lets this site in: a SuperNode that waits by itself looks more and more seldom.

    Raises:
        ConfigError: for a server that is not this federation's, or one that refuses the key.
    """
    connection = connections.read(folder, insecure=insecure)
    if not answers(folder, connection):
        say(f"no server answers at {connection.address} yet: this site goes on trying")
        while not answers(folder, connection):
            time.sleep(LOOK)
    if not insecure:
        await_admission(folder, connection, fingerprint(folder / KEY))


def fingerprint(key: Path) -> str:
    """A private key's public half in short, as ``ssh-keygen -l`` shows it.

    Raises:
        ConfigError: if the file holds no key that Flower can use.
    """
    serialization = certificates.crypto("hazmat.primitives.serialization")
    try:
        public = serialization.load_ssh_private_key(key.read_bytes(), None).public_key()
    except (ValueError, OSError) as error:
        raise ConfigError(f"{key} holds no private key in OpenSSH's format ({error}): ask for the folder again") from error
    blob = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).split()[1]
    return "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(blob)).digest()).decode().rstrip("=")


def _need_private(key: Path) -> None:
    mode = stat.S_IMODE(key.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"{key} can be read by others (mode {mode:o}): run  chmod 600 {key}")


def answers(folder: Path, connection: Connection) -> bool:
    """Whether the server is there and is this federation's.

    Raises:
        ConfigError: if its certificate is not.
    """
    try:
        with socket.create_connection((connection.host, connection.port), timeout=HELLO) as plain:
            if not connection.insecure:
                ssl.create_default_context(cafile=folder / AUTHORITY).wrap_socket(plain, server_hostname=connection.host).close()
    except ssl.SSLError as error:
        raise ConfigError(
            f"what answers at {connection.address} does not prove with {folder / AUTHORITY} to be this federation's server ({error}): "
            "check the address, or ask for the folder again"
        ) from error
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as test:
        test.bind((LOCAL[0], 0))
        port: int = test.getsockname()[1]
        return port


def become(command: Command) -> NoReturn:
    """Let a program take this process's place, so that whoever stops one stops the other.

    Raises:
        ConfigError: if it cannot be started.
    """
    try:
        os.execvpe(command.words[0], command.words, command.environment)
    except OSError as error:
        raise ConfigError(
            f"could not start {command.words[0]}: {error.strerror or error}; install Flower again: pip install 'metabayfl[flower]'"
        ) from error
