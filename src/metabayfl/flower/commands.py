"""Flower's own commands as words and environment: pure functions, so that what will be run can be read before it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from metabayfl.errors import ConfigError
from metabayfl.flower import connection as connections
from metabayfl.flower.connection import AUTHORITY, HOME, KEY, LOCAL, SERVER, Connection, bracketed
from metabayfl.flower.node_config import Site, to_node

NAME = "federation"
"""What the one connection in Flower's config is called."""

CONFIG = f"{HOME}/config.toml"
"""Flower's config in the server's folder."""

EVERYWHERE = ("0.0.0.0", "::")

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Flower asks nobody and installs nothing."""


class Command(NamedTuple):
    """A program with its arguments, and all of its environment."""

    words: list[str]
    environment: dict[str, str]


def environment(home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Flower's environment: its state in a folder of its own, this Python's programs first, and nothing sent or fetched."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, *given.get("PATH", "").split(os.pathsep)])
    return {**given, **QUIET, "FLWR_HOME": str(home.resolve()), "PATH": path}


def link(folder: Path, connection: Connection, listen: str, given: Mapping[str, str]) -> Command:
    """The SuperLink.

    Args:
        folder: the server's.
        connection: its address.
        listen: the local address to listen at.
        given: the environment so far.
    """
    words = [sys.executable, "-m", "metabayfl.flower.link", str(folder.resolve()), "--host", listen, "--port", str(connection.port)]
    words += ["--database", str((folder / HOME / "link.db").resolve()), "--isolation", "subprocess", "--disable-runtime-dependency-installation"]
    if connection.insecure:
        return Command([*words, "--insecure"], environment(folder / HOME, given))
    for option, name in (("--ssl-ca-certfile", AUTHORITY), ("--ssl-certfile", f"{SERVER}.pem"), ("--ssl-keyfile", f"{SERVER}.key")):
        words += [option, str((folder / name).resolve())]
    return Command([*words, "--enable-supernode-auth"], environment(folder / HOME, given))


def node(folder: Path, connection: Connection, site: Site, port: int, given: Mapping[str, str]) -> Command:
    """A site's SuperNode.

    Args:
        folder: the site's.
        connection: the server's address.
        site: what the site is and brings.
        port: a free one of this machine, for Flower's own processes, on loopback alone.
        given: the environment so far.
    """
    words = ["flower-supernode", "--superlink", connection.address, "--host", LOCAL[0], "--port", str(port), "--isolation", "subprocess"]
    words += ["--node-config", " ".join(f"{name}={quoted(value)}" for name, value in to_node(site).items())]
    if connection.insecure:
        return Command([*words, "--insecure"], environment(folder / HOME, given))
    words += ["--root-certificates", str((folder / AUTHORITY).resolve()), "--auth-supernode-private-key", str((folder / KEY).resolve())]
    return Command(words, environment(folder / HOME, given))


def quoted(value: str | bool) -> str:
    """A text, or true or false, as Flower's key-value lists have it.

    Example:
        >>> quoted("/data/ward 7.csv")
        "'/data/ward 7.csv'"

    Raises:
        ConfigError: for the characters that such a list cannot hold.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if "'" in value or not value.isprintable():
        raise ConfigError(f"{value!r} holds a quotation mark or an unprintable character, which Flower cannot pass on: rename it")
    return f"'{value}'"


def register(folder: Path, site: str, key: Path, given: Mapping[str, str]) -> Command:
    """Let the owner of a public key take part, under a site's name."""
    return _control(folder, ["supernode", "register", str(key.resolve()), NAME, "--name", site], given)


def submit(folder: Path, job: Path, given: Mapping[str, str]) -> Command:
    """Start a run of the job in a file."""
    words = ["run", str((folder / connections.APP).resolve()), NAME, "--run-config", f"job={quoted(str(job.resolve()))}", "--format", "json"]
    return _control(folder, words, given)


def look(folder: Path, run: str, given: Mapping[str, str]) -> Command:
    """What Flower says of a run."""
    return _control(folder, ["list", NAME, "--run-id", run, "--format", "json"], given)


def stop(folder: Path, run: str, given: Mapping[str, str]) -> Command:
    """End a run."""
    return _control(folder, ["stop", run, NAME], given)


def _control(folder: Path, words: list[str], given: Mapping[str, str]) -> Command:
    return Command(["flwr", *words], environment(folder / HOME, given))


def flower_config(folder: Path, connection: Connection, listen: str) -> str:
    """The file in which Flower's commands on the server's machine find the link.

    Example:
        >>> print(flower_config(Path("/srv/fed"), Connection(insecure=True), "0.0.0.0"))
        [superlink]
        default = "federation"
        <BLANKLINE>
        [superlink.federation]
        address = "127.0.0.1:8443"
        insecure = true
        <BLANKLINE>
    """
    host = LOCAL[0] if listen in EVERYWHERE else listen
    safety = "insecure = true" if connection.insecure else f"root-certificates = '{(folder / AUTHORITY).resolve()}'"
    return f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\naddress = "{bracketed(host)}:{connection.port}"\n{safety}\n'
