"""The commands as they are typed: tokens, a server that starts, answers, is stopped and is killed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from served import posted

from metabayfl.personal import PersonalStrategy
from tiny import run

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmarks" / "serving.py"
METABAYFL = [sys.executable, "-c", "from metabayfl.cli import entry; entry()"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def strategy(outcome_strategy: PersonalStrategy, tmp_path: Path) -> Path:
    outcome_strategy.strategy.save(tmp_path / "strategy.safetensors")
    return tmp_path / "strategy.safetensors"


def told(capsys: Capture, *words: object, code: int = 0) -> str:
    capsys.readouterr()
    assert run(*words) == code
    out, err = capsys.readouterr()
    return err if code else out


def start(strategy: Path, store: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    words = [*METABAYFL, "serve", "--strategy", str(strategy), "--store", str(store), "--port", "0", *more]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.fullmatch(r"serving at (https?://127\.0\.0\.1:\d+)\n", process.stdout.readline())
    assert found is not None, process.communicate()[1]
    return process, found[1]


def test_tokens_are_made_listed_and_revoked(tmp_path: Path, capsys: Capture) -> None:
    store = tmp_path / "store"
    token = told(capsys, "token", "new", "--store", store, "--client", "ward-7").strip()
    assert re.fullmatch(r"[0-9a-f]{12}\.[\w-]{43}", token)
    said = told(capsys, "token", "new", "--store", store, "--operator", "--out", tmp_path / "operator.token")
    assert said == f"{tmp_path / 'operator.token'}: the token of the operator\n"
    assert (tmp_path / "operator.token").stat().st_mode & 0o777 == 0o600
    name = token.split(".")[0]
    assert told(capsys, "token", "revoke", name, "--store", store) == f"{name} is revoked\n"
    lines = told(capsys, "token", "list", "--store", store).splitlines()
    assert [("ward-7" in line, "(operator)" in line, "revoked" in line) for line in lines] == [(True, False, True), (False, True, False)]
    assert "there is no valid token with the ID" in told(capsys, "token", "revoke", name, "--store", store, code=2)
    assert "whose token is it?" in told(capsys, "token", "new", "--store", store, code=2)
    assert "the client's name 'a/b'" in told(capsys, "token", "new", "--store", store, "--client", "a/b", code=2)


def test_what_cannot_be_served_is_one_line(strategy: Path, tmp_path: Path, capsys: Capture) -> None:
    serve: tuple[object, ...] = ("serve", "--store", tmp_path / "store", "--port", "0", "--strategy")
    assert "there is no file" in told(capsys, *serve, tmp_path / "nothing", code=2)
    assert "is no file of metabayfl" in told(capsys, *serve, Path(__file__), code=2)
    assert "the limit rows is 0" in told(capsys, *serve, strategy, "--rows", 0, code=2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"cannot listen at 127.0.0.1, port {port}" in told(capsys, *serve[:3], "--strategy", strategy, "--port", port, code=2)
    assert "TLS needs both" in told(capsys, *serve, strategy, "--tls-cert", strategy, code=2)


@pytest.mark.slow
def test_a_server_speaks_tls(strategy: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("cryptography")
    from metabayfl.flower import certificates

    authority = certificates.authority(days=1)
    pair = certificates.server(authority, ["127.0.0.1"], days=1)
    for name, content in {"authority": authority.public, "server": pair.public, "key": pair.private}.items():
        (tmp_path / name).write_bytes(content)
    process, address = start(strategy, tmp_path / "store", "--tls-cert", str(tmp_path / "server"), "--tls-key", str(tmp_path / "key"))
    try:
        with httpx.Client(verify=ssl.create_default_context(cafile=tmp_path / "authority")) as http:
            assert http.get(f"{address}/health").json() == {"status": "alive"}
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_server_answers_and_ends_well_and_a_killed_one_has_lost_nothing(strategy: Path, tmp_path: Path, capsys: Capture) -> None:
    store, rows = tmp_path / "store", posted(3, seed=2)["rows"]
    token = told(capsys, "token", "new", "--store", store, "--client", "h0").strip()
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=60.0) as http:
        process, address = start(strategy, store)
        made = http.post(f"{address}/v1/clients/h0/personalize", json=posted()).json()
        said = http.post(f"{address}/v1/clients/h0/predict", json={"rows": rows}).json()
        assert "another server holds the store" in told(capsys, "serve", "--strategy", strategy, "--store", store, "--port", 0, code=2)
        process.kill()
        process.communicate()

        process, address = start(strategy, store)
        state = http.get(f"{address}/v1/clients/h0").json()
        again = http.post(f"{address}/v1/clients/h0/predict", json={"rows": rows, "keep": False}).json()
        assert state == {name: value for name, value in made.items() if name != "applied"}
        assert [item["total"] for item in again["predictions"]] == [item["total"] for item in said["predictions"]]
        referred = sum(item["refer"] for item in said["predictions"])
        assert http.get(f"{address}/v1/clients/h0/cases").json()["waiting"] == referred
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_pages_curl_requests_are_answered(strategy: Path, tmp_path: Path, capsys: Capture) -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```bash\n(curl .*?)^```$", page, re.MULTILINE | re.DOTALL)
    token = told(capsys, "token", "new", "--store", tmp_path / "store", "--client", "ward-7").strip()
    process, address = start(strategy, tmp_path / "store")
    try:
        names = {**os.environ, "TOKEN": token, "SERVER": address}
        done = subprocess.run(["bash", "-e", "-c", script], env=names, capture_output=True, text=True, timeout=300, check=False)
    finally:
        process.kill()
        process.communicate()
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith('{"client": "ward-7"')


def kill(strategy: Path, kills: int, pause: float) -> str:
    words = [sys.executable, str(BENCHMARK), "kills", str(strategy), "--kills", str(kills), "--pause", str(pause), "--clients", "4"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_kills_under_load_lose_no_acknowledged_update(strategy: Path) -> None:
    assert kill(strategy, 2, 1.0).startswith("2 kills: ")


@pytest.mark.long
@pytest.mark.parametrize("study", ["digits_study", "dose_study"])
def test_twenty_kills_under_load_lose_no_acknowledged_update(study: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(study)
    assert kill(folder / "strategy.safetensors", 20, 2.0).startswith("20 kills: ")
