"""A site, the server's app and the link, each killed in every phase of a run: long, run by hand with ``pytest -m long tests/flower``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metabayfl[flower]'")

from deployed import SITES, Machines, Process, same, until, words_of_run

from metabayfl.artifact import Strategy, load_strategy
from metabayfl.flower.flower_transport import TYPES

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

PHASES = ("survey", "deviate", "enrol", "advertise", "share", "mask", "unmask", "personalize")
"""Those of the page's run, in their order."""
FIRST, SECOND = PHASES[:4], PHASES[4:]
"""A run whose app is started five times before a round is done stops and asks for ``--resume``: so two runs for what stops the app."""


def kill_site(machines: Machines, happens: Callable[[Callable[[], object], str], None]) -> None:
    machines.running["va"].kill()
    machines.start("va")


def kill_app(machines: Machines, happens: Callable[[Callable[[], object], str], None]) -> None:
    (app,) = machines.apps()
    os.kill(app, signal.SIGKILL)
    happens(lambda: set(machines.apps()) - {app}, "a new app after the kill")


def kill_link(machines: Machines, happens: Callable[[Callable[[], object], str], None]) -> None:
    machines.running["server"].kill()
    happens(lambda: not machines.apps(), "the app's end with its link")
    machines.start("server")


@pytest.mark.parametrize(("kill", "phases"), [(kill_site, PHASES), (kill_app, FIRST), (kill_app, SECOND), (kill_link, FIRST), (kill_link, SECOND)])
def test_a_kill_in_every_phase_changes_nothing(
    machines: Machines,
    expected: Strategy,
    kill: Callable[[Machines, Callable[[Callable[[], object], str], None]], None],
    phases: tuple[str, ...],
) -> None:
    out = machines.folder / "runs" / f"{kill.__name__}-{phases[0]}"
    read = {name: len(process.text) for name, process in machines.running.items()}
    run = Process(machines.folder, [*words_of_run(f"runs/{out.name}"), "--resend", "60", "--grace", "600"], f"{out.name}.log")

    def happens(condition: Callable[[], object], what: str) -> None:
        until(lambda: condition() or run.popen.poll() is not None, what, lambda: run.text + machines.logs())
        assert run.popen.poll() is None, f"the run ended before {what}\n{run.text}"

    def asked(phase: str) -> bool:
        """Whether a site got that phase's request since the last kill; the one that is killed must be among those that work on it."""
        watched = ("va",) if kill is kill_site else SITES
        return any(f"Receiving: {TYPES[phase]} message" in machines.running[name].text[read[name] :] for name in watched)

    try:
        for phase in phases:
            happens(lambda phase=phase: asked(phase), f"phase {phase!r}")  # type: ignore[misc]
            read.update({name: len(process.text) for name, process in machines.running.items()})
            kill(machines, happens)
        until(lambda: run.popen.poll() is not None, "the end of the run", lambda: run.text + machines.logs())
    finally:
        run.kill()
    assert run.popen.returncode == 0, run.text
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert (row["round"], row["skipped"]) == (1, {})
    assert same(load_strategy(out / "strategy.safetensors"), expected)
