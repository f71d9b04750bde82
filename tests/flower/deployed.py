"""Real processes for the tests of a deployment: the commands of the page, logs beside them, and nothing that is waited for without end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from following import processes
from pages import blocks, commands

from metabayfl import tree
from metabayfl.artifact import Strategy, load_strategy
from metabayfl.flower.flower_transport import TYPES

PAGE = "docs/deployment.md"
SITES = ("cleveland", "hungarian", "va")
PATIENCE = 1200.0
"""Seconds for anything at all: rounds take many on a busy machine."""

METABAYFL = [sys.executable, "-c", "from metabayfl.cli import entry; entry()"]


def page_config() -> str:
    (found,) = (block.text for block in blocks(PAGE) if block.title == "heart.toml")
    return found


def page_command(*beginning: str) -> list[str]:
    """The words of the page's one command that begins so."""
    chosen = [words for block in blocks(PAGE) for words in commands(block) if words[: 1 + len(beginning)] == ["federate", *beginning]]
    assert len(chosen) == 1, f"{len(chosen)} commands of the page begin with {beginning}"
    return chosen[0]


def write_data(folder: Path) -> None:
    """The hospitals' true files where this machine has them, else made-up rows of the same columns."""
    for number, site in enumerate(SITES):
        name = f"processed.{site}.data"
        true = Path(os.environ.get("METABAYFL_DATA", "data")) / "heart_disease" / name
        (folder / name).write_text(true.read_text() if true.is_file() else _made_up(number), encoding="utf-8")


def _made_up(seed: int) -> str:
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 2, 60)
    numbers = draw.normal(50, 10, (60, 14)) + 8 * y[:, None]
    for column, kinds in {1: 2, 2: 4, 5: 2, 6: 3, 8: 2}.items():
        numbers[:, column] = draw.integers(0, kinds, 60)
    numbers[:, 13] = y
    return "\n".join(",".join(f"{value:.1f}" for value in row) for row in numbers) + "\n"


class Process:
    """One command, in a session of its own so that it can be killed with its children, as when a machine goes down."""

    def __init__(self, folder: Path, words: list[str], log: str) -> None:
        self._log = folder / log
        with self._log.open("ab") as file:
            self.popen = subprocess.Popen([*METABAYFL, *words], cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        for send in (lambda: os.killpg(self.popen.pid, signal.SIGKILL), self.popen.kill):
            try:
                send()
            except ProcessLookupError:
                continue
        self.popen.wait(timeout=60)


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. What it says goes to files: a child that outlives it would keep a pipe open."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        ended = subprocess.run([*METABAYFL, *words], cwd=folder, stdout=out, stderr=err, timeout=PATIENCE, check=False)
        said = [file.seek(0) or file.read() for file in (out, err)]
    return subprocess.CompletedProcess(words, ended.returncode, *said)


def until(condition: Callable[[], object], what: str, logs: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {PATIENCE:g} s\n{logs()[-4000:]}"
        time.sleep(0.2)


class Machines:
    """A link and its sites, which any test may kill and start again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "federation" / "flower"
        self.running: dict[str, Process] = {}

    def start(self, name: str) -> Process:
        words = page_command("server") if name == "server" else page_command("site", f"federation/sites/{name}")
        self.running[name] = Process(self.folder, words, f"{name}.log")
        return self.running[name]

    def logs(self) -> str:
        return "\n".join(f"== {name}\n{process.text[-2000:]}" for name, process in self.running.items())

    def end(self) -> None:
        """Nothing of it goes on."""
        for process in self.running.values():
            process.kill()
        for app in self.apps():
            os.kill(app, signal.SIGKILL)

    def apps(self) -> list[int]:
        """The server's app, which the link starts."""
        return processes(f"FLWR_HOME={self.home}", "flwr-serverapp")


def same(a: Strategy, b: Strategy) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a.meta), tree.leaves(b.meta), strict=True))


def words_of_run(out: str) -> list[str]:
    return ["short.toml" if word == "heart.toml" else out if word == "runs/heart" else word for word in page_command("run")]


class Shaken:
    """The page's run while processes are killed: it must end with nobody skipped and with the strategy of a run that nothing happened to."""

    def __init__(self, machines: Machines, name: str) -> None:
        self.machines, self.out = machines, machines.folder / "runs" / name
        self._read: dict[str, int] = {}
        self.forget()
        self._run = Process(machines.folder, [*words_of_run(f"runs/{name}"), "--resend", "60", "--grace", "600"], f"{name}.log")

    def __enter__(self) -> Shaken:
        return self

    def __exit__(self, *_: object) -> None:
        self._run.kill()

    def forget(self) -> None:
        """From here on only what sites are asked later counts."""
        self._read = {name: len(process.text) for name, process in self.machines.running.items()}

    def is_asked(self, phase: str, *sites: str) -> None:
        """Wait until one of the sites has got that phase's request."""
        wanted = f"Receiving: {TYPES[phase]} message"
        self._happens(lambda: any(wanted in self.machines.running[site].text[self._read[site] :] for site in sites), f"phase {phase!r}")

    def kill_site(self) -> None:
        self.machines.running["va"].kill()
        self.machines.start("va")

    def kill_app(self) -> None:
        (app,) = self.machines.apps()
        os.kill(app, signal.SIGKILL)
        self._happens(lambda: set(self.machines.apps()) - {app}, "a new app after the kill")

    def kill_link(self) -> None:
        self.machines.running["server"].kill()
        self._happens(lambda: not self.machines.apps(), "the app's end with its link")
        self.machines.start("server")

    def ends_as(self, expected: Strategy) -> None:
        until(lambda: self._run.popen.poll() is not None, "the end of the run", self._logs)
        assert self._run.popen.returncode == 0, self._run.text
        (row,) = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
        assert (row["round"], row["skipped"]) == (1, {})
        assert same(load_strategy(self.out / "strategy.safetensors"), expected)

    def _happens(self, condition: Callable[[], object], what: str) -> None:
        until(lambda: condition() or self._run.popen.poll() is not None, what, self._logs)
        assert self._run.popen.poll() is None, f"the run ended before {what}\n{self._run.text}"

    def _logs(self) -> str:
        return self._run.text + self.machines.logs()
