"""The page on deployment, followed to the letter: processes, TLS, keys, masks and noise; then the same with everything killed once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metabayfl[flower]'")

from deployed import SITES, Machines, Process, call, page_command, same, until, words_of_run

from metabayfl.artifact import Strategy, load_strategy
from metabayfl.flower import connection, founding
from metabayfl.personal import load_personal

pytestmark = [pytest.mark.deployment, pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]


def test_the_page_is_followed_and_strangers_stay_outside(machines: Machines, expected: Strategy) -> None:
    folder = machines.folder
    run = Process(folder, words_of_run("runs/heart"), "run.log")
    try:
        _strangers(machines)
        until(lambda: run.popen.poll() is not None, "the end of the run", lambda: run.text + machines.logs())
    finally:
        run.kill()
    assert run.popen.returncode == 0, run.text
    assert f"at {', '.join(SITES)}" in run.text
    assert "privacy: ε = " in run.text
    told = call(folder, *page_command("status"))
    assert told.stdout.startswith("done\n")
    assert f"has the strategy: {', '.join(SITES)}" in told.stdout
    shipped = load_strategy(folder / "runs" / "heart" / "strategy.safetensors")
    assert same(shipped, expected)
    for site in SITES:
        (own,) = (folder / "federation" / "sites" / site / "kept").glob("*/clients/*")
        assert own.name == site
        assert load_personal(own / "posterior.safetensors").source.strategy.digest() == shipped.digest()
        assert json.loads((own / "report.json").read_text())["samples_judged"] > 0
        assert (own / "report.html").is_file()
    assert not list((folder / "runs").rglob("posterior*"))


def _strangers(machines: Machines) -> None:
    """A site of another federation, and one whose key is not registered."""
    folder = machines.folder
    founding.create(folder / "other", connection.read(folder / "federation", insecure=False), 30)
    elsewhere = call(folder, "federate", "site", "other/sites/va", "--data", "processed.va.data")
    until(lambda: "is ready for" in machines.running["server"].text, "the link", machines.logs)
    if elsewhere.returncode != 2:  # it came before the link did
        elsewhere = call(folder, "federate", "site", "other/sites/va", "--data", "processed.va.data")
    assert elsewhere.returncode == 2
    assert "does not prove with other/sites/va/ca.pem to be this federation's server" in elsewhere.stderr
    shutil.copytree(folder / "federation" / "sites" / "va", folder / "stranger", ignore=shutil.ignore_patterns("kept", "flower"))
    shutil.copy(folder / "other" / "sites" / "va" / "site.key", folder / "stranger" / "site.key")
    unknown = call(folder, "federate", "site", "stranger", "--data", "processed.va.data")
    assert unknown.returncode == 2
    assert "refuses the key SHA256:" in unknown.stderr


def test_everything_is_killed_once_and_the_strategy_is_the_same(machines: Machines, expected: Strategy) -> None:
    """A site, the server's app and the link, each in another phase of secure aggregation."""
    folder, out = machines.folder, machines.folder / "runs" / "faults"
    seen = {name: len(process.text) for name, process in machines.running.items()}
    run = Process(folder, [*words_of_run("runs/faults"), "--resend", "60", "--grace", "600"], "faults.log")

    def happens(condition: Callable[[], object], what: str) -> None:
        until(lambda: condition() or run.popen.poll() is not None, what, lambda: run.text + machines.logs())
        assert run.popen.poll() is None, f"the run ended before {what}\n{run.text}"

    def asked(site: str, phase: str) -> bool:
        return f"Receiving: train.{phase} message" in machines.running[site].text[seen[site] :]

    try:
        happens(lambda: asked("va", "share"), "the second phase")
        machines.running["va"].kill()
        machines.start("va")
        happens(lambda: asked("hungarian", "mask"), "the third phase, with nobody lost")
        (app,) = machines.apps()
        os.kill(app, signal.SIGKILL)
        happens(lambda: set(machines.apps()) - {app}, "a new app after the kill")
        happens(lambda: asked("hungarian", "unmask"), "the last phase")
        machines.running["server"].kill()
        happens(lambda: not machines.apps(), "the app's end with its link")
        machines.start("server")
        until(lambda: run.popen.poll() is not None, "the end of the run", lambda: run.text + machines.logs())
    finally:
        run.kill()
    assert run.popen.returncode == 0, run.text
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert (row["round"], row["skipped"]) == (1, {})
    assert same(load_strategy(out / "strategy.safetensors"), expected)
