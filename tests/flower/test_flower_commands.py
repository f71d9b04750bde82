"""Flower's commands as they will be run: TLS and keys unless told otherwise, loopback unless told otherwise, and nothing sent to anybody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from metabayfl.errors import ConfigError, MetabayflError
from metabayfl.flower import commands, link
from metabayfl.flower.connection import Connection
from metabayfl.flower.node_config import Site

HERE = Connection("fl.example.org", 8443, ("basel",))
SITE = Connection("fl.example.org", 8443, site="basel")
OPEN = Connection(insecure=True, site="basel")
OWN = Site("basel", Path("/rows.csv"), Path("/kept"))


def test_a_link_has_tls_and_asks_sites_for_their_keys(tmp_path: Path) -> None:
    words = commands.link(tmp_path, HERE, "127.0.0.1", {}).words
    assert words[words.index("--ssl-certfile") + 1] == str(tmp_path / "server.pem")
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--database") + 1] == str(tmp_path / "flower" / "link.db")
    assert "--enable-supernode-auth" in words
    assert "--insecure" not in words


def test_a_site_has_a_key_and_keeps_flowers_own_port_to_its_machine(tmp_path: Path) -> None:
    words = commands.node(tmp_path, SITE, Site("basel", tmp_path / "rows.csv", tmp_path / "kept", "ward", secure_only=True), 9100, {}).words
    assert words[words.index("--superlink") + 1] == "fl.example.org:8443"
    assert words[words.index("--root-certificates") + 1] == str(tmp_path / "ca.pem")
    assert words[words.index("--auth-supernode-private-key") + 1] == str(tmp_path / "site.key")
    assert words[words.index("--host") + 1] == "127.0.0.1"
    own = words[words.index("--node-config") + 1]
    assert own == f"site='basel' data='{tmp_path}/rows.csv' folder='{tmp_path}/kept' client-column='ward' secure-only=true"


def test_without_tls_is_only_what_was_said_to_be_so(tmp_path: Path) -> None:
    for words in (commands.link(tmp_path, OPEN, "127.0.0.1", {}).words, commands.node(tmp_path, OPEN, OWN, 9100, {}).words):
        assert "--insecure" in words
        assert not any(word.startswith(("--ssl", "--root", "--auth", "--enable")) for word in words)


def test_flower_sends_nothing_asks_nobody_and_installs_nothing(tmp_path: Path) -> None:
    everything = [
        commands.link(tmp_path, HERE, "127.0.0.1", {"FLWR_TELEMETRY_ENABLED": "1"}),
        commands.node(tmp_path, SITE, OWN, 9100, {}),
        commands.submit(tmp_path, tmp_path / "job.json", {}),
        commands.register(tmp_path, "basel", tmp_path / "basel.pub", {}),
        commands.look(tmp_path, "7", {}),
        commands.stop(tmp_path, "7", {}),
    ]
    for command in everything:
        assert command.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert command.environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert command.environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert command.environment["FLWR_HOME"] == str(tmp_path / "flower")
        assert "--allow-runtime-dependency-installation" not in command.words


def test_flower_reads_back_what_was_written_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flwr")
    from flwr.cli.flower_config import read_superlink_connection
    from flwr.common.config import parse_config_args

    awkward = tmp_path / 'ward 7, "north" = 1.csv'
    words = commands.node(tmp_path, SITE, OWN._replace(data=awkward), 9100, {}).words
    assert parse_config_args([words[words.index("--node-config") + 1]])["data"] == str(awkward)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "config.toml").write_text(commands.flower_config(tmp_path, HERE, "0.0.0.0"))
    found = read_superlink_connection(commands.NAME)
    assert (found.address, found.root_certificates, found.insecure) == ("127.0.0.1:8443", str(tmp_path / "ca.pem"), False)


def test_a_name_that_flower_would_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quotation mark"):
        commands.node(tmp_path, SITE, OWN._replace(data=tmp_path / "o'brien.csv"), 9100, {})


def call(path: str, client: str, *, ready: bool = True, server: str = "10.0.0.2", kind: str = "http") -> list[Any]:
    """What the door answers; an empty list where it let the request pass."""
    said, passed = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    async def receive() -> None: ...

    async def send(event: Any) -> None:
        said.append(event)

    scope = {"type": kind, "path": path, "client": (client, 50000), "server": (server, 8443)}
    asyncio.run(link.door(app, lambda: ready)(scope, receive, send))
    assert bool(passed) != bool(said)
    return said


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/v1/fleet", "/V1/fleet/../control/start-run"])
def test_a_stranger_reaches_nothing_but_what_sites_need(path: str) -> None:
    assert call(path, "10.0.0.7")[0]["status"] == 403
    assert call("/v1/fleet/pull-messages", "10.0.0.7") == []
    assert call(path, "10.0.0.7", kind="websocket") == [{"type": "websocket.close", "code": 1008}]


def test_the_servers_own_machine_reaches_everything() -> None:
    assert call("/v1/control/start-run", "127.0.0.1", server="127.0.0.1") == []
    assert call("/v1/runtime/acquire-task", "10.0.0.2") == []


def test_sites_that_come_before_their_keys_are_registered_are_asked_to_try_again() -> None:
    assert call("/v1/fleet/activate-node", "10.0.0.7", ready=False)[0]["status"] == 503
    assert call("/v1/control/register-node", "127.0.0.1", ready=False) == []


def test_keys_are_registered_a_few_at_a_time_and_again_while_the_link_comes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"site{number}" for number in range(6))
    asked: list[list[str]] = []
    (tmp_path / "keys").mkdir()
    for name in names:
        (tmp_path / "keys" / f"{name}.pub").touch()

    def some(folder: Path, keys: dict[str, Path]) -> dict[str, str]:
        asked.append(list(keys))
        return dict.fromkeys(keys, "connection refused") if len(asked) == 1 else {}

    monkeypatch.setattr(link, "_register_some", some)
    link._register_all(tmp_path, Connection(sites=names))
    assert asked == [list(names[:4]), [*names[4:], *names[:2]], list(names[2:4])]
    monkeypatch.setattr(link, "WAIT", -1.0)
    monkeypatch.setattr(link, "_register_some", lambda folder, keys: dict.fromkeys(keys, "connection refused"))
    with pytest.raises(MetabayflError, match="site0: connection refused"):
        link._register_all(tmp_path, Connection(sites=names))
