"""Somebody who follows a tutorial to the letter: saves its files, and types its commands into one terminal, in the page's order.

A block with a file's name is saved under that name. A block of shell is typed as it is; what ends in ``&`` goes on in the background, as it would in
a person's terminal, until the page stops it. Any other block (output, a piece of a file) is only read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from pages import Block, blocks

SET_UP, END = "set-up", "at the end of "
"""How the titles of the set-up block and of blocks that are added to a file begin."""

MARK = "METABAYFL_TERMINAL"
"""A variable that everything started in the terminal inherits, so that it can be found again and ended."""


class Step(NamedTuple):
    """One block that was followed."""

    block: Block
    seconds: float  # by the clock
    cpu: float  # of processors, children that ended included
    output: str


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as test:
        test.bind(("127.0.0.1", 0))
        return int(test.getsockname()[1])


def processes(variable: str, program: str = "") -> list[int]:
    """Those with ``NAME=VALUE`` in the environment that they began with and a text in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words, values = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:  # ended meanwhile, or no process
            continue
        if program.encode() in words and variable.encode() in values.split(b"\0"):
            found.append(int(entry.name))
    return found


def is_set_up(block: Block) -> bool:
    return (block.title or "").startswith(SET_UP)


def is_file(block: Block) -> bool:
    return block.title is not None and not is_set_up(block)


def this_environment() -> dict[str, str]:
    """Variables with which a terminal finds the commands of the environment that runs this, in place of one that a set-up block makes."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


class Terminal:
    """A shell with job control in a folder; a command that fails ends it.

    Args:
        folder: where it begins.
        environment: variables beside those of this process.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._mark = uuid.uuid4().hex
        self._said, self._script = folder / f".said-{self._mark}", folder / f".typed-{self._mark}"
        with self._said.open("wb") as output:
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=folder,
                env={**os.environ, **environment, MARK: self._mark},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.type("set -em", patience=60)  # job control, and an end at the first failure

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing that was started here goes on."""
        for process in self.running():
            with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                os.kill(process, signal.SIGKILL)
        self._shell.wait(timeout=60)
        if self._shell.stdin is not None:
            self._shell.stdin.close()
        for path in (self._said, self._script):
            path.unlink(missing_ok=True)

    @property
    def output(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")

    def running(self) -> list[int]:
        """The processes that were started here, the shell among them."""
        return processes(f"{MARK}={self._mark}")

    def place(self) -> Path:
        """Where the terminal is now."""
        return Path(os.readlink(f"/proc/{self._shell.pid}/cwd"))

    def type(self, text: str, patience: float) -> str:
        """Run some lines and return what they said.

        Raises:
            RuntimeError: if a command failed, or they took longer than ``patience`` seconds; the message ends with what was said.
        """
        before, end = len(self.output), f"end-{uuid.uuid4().hex}"
        self._script.write_text(text, encoding="utf-8")
        assert self._shell.stdin is not None
        self._shell.stdin.write(f". '{self._script}' < /dev/null\necho {end}\n".encode())
        self._shell.stdin.flush()
        last = time.monotonic() + patience
        while f"{end}\n" not in self.output[before:]:
            if self._shell.poll() is not None or time.monotonic() > last:
                what = f"took more than {patience:g} s" if self._shell.poll() is None else f"ended the terminal with code {self._shell.poll()}"
                raise RuntimeError(f"this {what}:\n{text}\nand said:\n{self.output[before:][-4000:]}")
            time.sleep(0.05)
        return self.output[before:].replace(f"{end}\n", "")


def script(page: str, replace: dict[str, str], *, set_up: bool) -> list[Block]:
    """What a page asks to save and to type, in its order.

    Args:
        page: its path in the repository.
        replace: what to type in place of a text of the page (a port that is taken); each must be there.
        set_up: whether to type the set-up block too.

    Raises:
        ValueError: if the page does not have what is to be replaced.
    """
    wanted = [block for block in blocks(page) if is_file(block) or (block.language == "bash" and (set_up or not is_set_up(block)))]
    missing = [old for old in replace if not any(old in block.text for block in wanted)]
    if missing:
        raise ValueError(f"{page} has no {', '.join(missing)} to replace")
    return [block._replace(text=_replaced(block.text, replace)) for block in wanted]


def _replaced(text: str, replace: dict[str, str]) -> str:
    for old, new in replace.items():
        text = text.replace(old, new)
    return text


def follow(block: Block, terminal: Terminal, patience: float = 1200.0) -> Step:
    """Save one block or type it, and wait for its end; ``patience`` is in seconds."""
    began, used = time.monotonic(), _cpu(terminal)
    said = _save(block, terminal.place()) if is_file(block) else terminal.type(block.text, patience)
    spent = max(0.0, _cpu(terminal) - used)  # a process that is killed takes along the time of its children that ended before it
    return Step(block, time.monotonic() - began, spent, said)


def _save(block: Block, folder: Path) -> str:
    """Write a file, or add to one; a person would see nothing."""
    title = block.title or ""
    with (folder / title.removeprefix(END)).open("a" if title.startswith(END) else "w", encoding="utf-8") as file:
        file.write(block.text)
    return ""


def _cpu(terminal: Terminal) -> float:
    """Seconds of processors that the terminal's processes have used, with those of their children that ended."""
    ticks = 0
    for process in terminal.running():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        ticks += sum(int(fields[at]) for at in (11, 12, 13, 14))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")
