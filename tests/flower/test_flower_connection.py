"""What federate init writes, and what it refuses; certificates are checked by TLS itself."""

from __future__ import annotations

import os
import runpy
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="keys need cryptography: pip install 'metabayfl[flower]'")

from cryptography.hazmat.primitives import serialization

from metabayfl import storage
from metabayfl.errors import ConfigError, MetabayflError, StorageError
from metabayfl.flower import app_folder, certificates, connection, founding, starting
from metabayfl.flower.connection import Connection

SITES = ("basel", "bern")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    founding.create(tmp_path / "fed", Connection(sites=SITES), 30)
    return tmp_path / "fed"


class Server:
    """A TLS server that says nothing, for as many callers as come."""

    def __init__(self, certificate: Path, key: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
                self._context.wrap_socket(plain, server_side=True).close()
            except ssl.SSLError:
                continue
            except OSError:
                return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # or the thread that waits for callers would keep it open
        self._socket.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_keys_are_for_their_owner_alone_and_public_ones_for_all(folder: Path) -> None:
    private = ["ca.key", "server.key", *(f"sites/{site}/site.key" for site in SITES)]
    public = ["ca.pem", "server.pem", *(f"keys/{site}.pub" for site in SITES), *(f"sites/{site}/ca.pem" for site in SITES)]
    assert {mode(folder / name) for name in private} == {0o600}
    assert all(b"PRIVATE" not in (folder / name).read_bytes() for name in public)
    assert sorted(path.name for path in (folder / "sites" / "basel").iterdir()) == ["ca.pem", "connection.json", "site.key"]
    assert {mode(path) for path in (folder, *(folder / "sites" / site for site in SITES))} == {0o700}
    assert list(folder.parent.iterdir()) == [folder]


def test_a_site_waits_for_its_server_and_says_so_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, said, knocked = [False, False, False, True], list[str](), list[str]()
    monkeypatch.setattr(starting, "LOOK", 0.0)
    monkeypatch.setattr(starting, "answers", lambda folder, connection: there.pop(0))
    monkeypatch.setattr(starting, "await_admission", lambda folder, connection, fingerprint: knocked.append(fingerprint))
    starting.await_server(folder / "sites" / "basel", said.append, insecure=False)
    assert there == []
    assert said == ["no server answers at 127.0.0.1:8443 yet: this site goes on trying"]
    assert [key[:7] for key in knocked] == ["SHA256:"]


def test_every_site_has_a_key_of_its_own_of_the_curve_that_flower_asks_for(folder: Path) -> None:
    keys = {site: serialization.load_ssh_private_key((folder / "sites" / site / "site.key").read_bytes(), None) for site in SITES}
    for site, key in keys.items():
        public = serialization.load_ssh_public_key((folder / "keys" / f"{site}.pub").read_bytes())
        assert key.public_key() == public
        assert public.curve.name == "secp384r1"  # type: ignore[union-attr]
    assert keys["basel"].public_key() != keys["bern"].public_key()


def test_a_site_knows_its_own_server_and_no_other(folder: Path, tmp_path: Path) -> None:
    founding.create(tmp_path / "other", Connection(sites=SITES), 30)
    server = Server(folder / "server.pem", folder / "server.key")
    here = Connection(port=server.port, site="basel")
    assert starting.answers(folder / "sites" / "basel", here)
    with pytest.raises(ConfigError, match=r"does not prove with .* to be this federation's server"):
        starting.answers(tmp_path / "other" / "sites" / "basel", here)
    server.close()
    assert not starting.answers(folder / "sites" / "basel", here)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_a_keys_fingerprint_is_the_one_that_ssh_shows(folder: Path) -> None:
    for site in SITES:
        shown = subprocess.run(["ssh-keygen", "-l", "-f", folder / "keys" / f"{site}.pub"], capture_output=True, text=True, check=True, timeout=60)
        assert starting.fingerprint(folder / "sites" / site / "site.key") in shown.stdout
    (folder / "sites" / "bern" / "site.key").write_text("no key")
    with pytest.raises(ConfigError, match="holds no private key"):
        starting.fingerprint(folder / "sites" / "bern" / "site.key")


def test_a_certificate_holds_for_the_host_and_for_this_machine_and_for_nothing_else(tmp_path: Path) -> None:
    issuer = certificates.authority(2)
    pair = certificates.server(issuer, ["fl.example.org", "127.0.0.1"], 1)
    for name, data in {"ca.pem": issuer.public, "server.pem": pair.public, "server.key": pair.private}.items():
        (tmp_path / name).write_bytes(data)
    server = Server(tmp_path / "server.pem", tmp_path / "server.key")
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for host in ("fl.example.org", "127.0.0.1"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(plain, server_hostname="fl.example.com")
    server.close()


def test_keys_are_never_overwritten(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="is there already, and keys are never overwritten"):
        founding.create(folder, Connection(sites=SITES), 30)
    with pytest.raises(StorageError, match="is there already"):
        certificates.write_new(folder / "ca.key", b"other", 0o600)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_nothing_is_left_of_a_folder_that_could_not_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "server", lambda *_: (_ for _ in ()).throw(ConfigError("no")))
    with pytest.raises(ConfigError, match="no"):
        founding.create(tmp_path / "fed", Connection(sites=SITES), 30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"host": "a b"}, "expected a name"),
        ({"port": 0}, "expected 1 to 65535"),
        ({"sites": ("basel", "Basel")}, "no name for a site"),
        ({"sites": ("../etc",)}, "no name for a site"),
        ({"sites": ("basel", "basel")}, "one twice"),
    ],
)
def test_an_address_or_a_name_that_cannot_be_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Connection(**{"sites": SITES, **changes})  # type: ignore[arg-type]


def test_nobody_goes_without_tls_unawares(folder: Path, tmp_path: Path) -> None:
    founding.create(tmp_path / "open", Connection(sites=SITES, insecure=True), 30)
    assert not list((tmp_path / "open").rglob("*.key"))
    assert connection.read(tmp_path / "open", insecure=True).insecure
    assert connection.read(folder, insecure=False).sites == SITES
    with pytest.raises(ConfigError, match="say --insecure"):
        connection.read(tmp_path / "open", insecure=False)
    with pytest.raises(ConfigError, match="leave --insecure out"):
        connection.read(folder, insecure=True)


def test_a_folder_that_lacks_something_is_refused_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of metabayfl federate init"):
        connection.read(tmp_path, insecure=False)
    own, data = folder / "sites" / "bern", tmp_path / "rows.csv"
    data.write_text("a\n")
    with pytest.raises(ConfigError, match="is the server's folder"):
        starting.node(folder, data, "", secure_only=False, insecure=False)
    with pytest.raises(MetabayflError, match="there is no file"):
        starting.node(own, tmp_path / "none.csv", "", secure_only=False, insecure=False)
    (own / "site.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        starting.node(own, data, "", secure_only=False, insecure=False)
    (own / "ca.pem").unlink()
    with pytest.raises(ConfigError, match=r"has no ca\.pem"):
        starting.node(own, data, "", secure_only=False, insecure=False)
    (folder / "keys" / "bern.pub").unlink()
    with pytest.raises(MetabayflError, match=r"no public key .* of site 'bern'"):
        starting.link(folder, "127.0.0.1", insecure=False)
    with pytest.raises(ConfigError, match="the certificate holds for other addresses"):
        starting.link(folder, "192.0.2.1", insecure=False)
    (own / "connection.json").write_text("{")
    with pytest.raises(ConfigError, match="no JSON"):
        connection.read(own, insecure=False)


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        storage.write_json(folder / "connection.json", {"port": other.getsockname()[1], "sites": list(SITES)})
        with pytest.raises(MetabayflError, match="is a server running there already"):
            starting.link(folder, "127.0.0.1", insecure=False)


def test_the_example_is_the_app_that_init_writes(folder: Path) -> None:
    for name, text in app_folder.FILES.items():
        assert (folder / "app" / name).read_text() == text
        assert (ROOT / "examples" / "flower_app" / name).read_text() == text


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_flower_accepts_the_app_and_loads_both_ends() -> None:
    pytest.importorskip("flwr")
    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.config_utils import load_and_validate
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    example = ROOT / "examples" / "flower_app"
    config, warnings = load_and_validate(example / "pyproject.toml")
    assert warnings == []
    assert config["project"]["dependencies"] == []
    assert build_fab_from_disk(example)
    loaded = runpy.run_path(str(example / "federated.py"))
    assert isinstance(loaded["client"], ClientApp)
    assert isinstance(loaded["server"], ServerApp)


def test_half_an_app_from_before_a_kill_is_taken_away(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    own, data = folder / "sites" / "basel", tmp_path / "rows.csv"
    data.write_text("a\n")
    (own / "flower" / "apps" / "half").mkdir(parents=True)
    command = starting.node(own, data, "", secure_only=False, insecure=False)
    assert not (own / "flower" / "apps").exists()
    assert command.words[0] == "flower-supernode"
    assert os.environ.items() <= {**command.environment, "PATH": os.environ["PATH"]}.items()
