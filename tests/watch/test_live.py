"""The live view over HTTP, and from the command line."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from metabayfl import storage
from metabayfl.errors import ConfigError
from metabayfl.watch.options import Options
from metabayfl.watch.server import live
from tiny import run, write_digits

Capture = pytest.CaptureFixture[str]

MISSING = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"uvicorn", "starlette", "fastapi"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None
sys.meta_path.insert(0, Missing())
from metabayfl import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_study_is_told_and_a_damaged_one_in_a_sentence(digits_study: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with live(digits_study, Options(port=0), said.append):
        answer = httpx.get(said[0].rpartition(" ")[2] + "progress")
        assert (answer.status_code, answer.json()["state"], answer.headers["cache-control"]) == (200, "finished", "no-cache")
    storage.write_text(tmp_path / "study.json", "{")
    with live(tmp_path, Options(port=0), said.append):
        answer = httpx.get(said[1].rpartition(" ")[2] + "progress")
        assert answer.status_code == 503
        assert "study.json is no JSON" in answer.json()["error"]
        assert httpx.get(said[1].rpartition(" ")[2] + "report").status_code == 404


def test_only_this_machine_is_served(tmp_path: Path) -> None:
    said: list[str] = []
    with live(tmp_path, Options(port=0), said.append):
        found = re.fullmatch(r"live view http://127\.0\.0\.1:\d+/", said[0])
        assert found


def test_the_view_is_closed_when_the_study_fails(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(ZeroDivisionError), live(tmp_path, Options(port=0), said.append):
        raise ZeroDivisionError
    with pytest.raises(httpx.ConnectError):
        httpx.get(said[0].rpartition(" ")[2])


def test_a_port_that_is_taken_is_refused_before_anything_is_trained(tmp_path: Path, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("train", write_digits(tmp_path), "--out", tmp_path / "out", "--watch", "--port", port) == 2
    assert f"port {port} on 127.0.0.1 cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="65535"):
        Options(port=70000)


def test_train_with_watch_says_where_and_ends_by_itself(tmp_path: Path, capsys: Capture, digits_study: Path) -> None:
    assert run("train", write_digits(tmp_path), "--out", tmp_path / "out", "--watch", "--port", 0) == 0
    assert capsys.readouterr().out.startswith("live view http://127.0.0.1:")
    assert (tmp_path / "out" / "strategy.safetensors").read_bytes() == (digits_study / "strategy.safetensors").read_bytes()


def test_watching_no_study_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert run("watch", tmp_path) == 2
    assert "holds no study" in capsys.readouterr().err


def test_without_the_extra_one_line_names_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", MISSING, "train", str(write_digits(tmp_path)), "--out", str(tmp_path / "out"), "--watch", "--port", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "pip install 'metabayfl[serve]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_process_can_watch_until_it_is_interrupted(digits_study: Path) -> None:
    words = [sys.executable, "-u", "-c", "from metabayfl.cli import entry; entry()", "watch", str(digits_study), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().rpartition(" ")[2].strip()
        assert httpx.get(address + "progress", timeout=60).json()["state"] == "finished"
        process.send_signal(2)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "the view is closed; the study goes on\n", "")


def test_the_handlers_of_the_process_that_trains_stay_open(digits_study: Path) -> None:
    class Held(logging.Handler):
        closed = False

        def close(self) -> None:
            self.closed = True

    held = Held()
    with live(digits_study, Options(port=0), lambda text: None):
        assert not held.closed
