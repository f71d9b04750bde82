"""The page on deployment, followed to the letter: processes, TLS, keys, masks and noise; then the same with everything killed once."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metabayfl[flower]'")

from deployed import SITES, Machines, Process, Shaken, call, page_command, same, until, words_of_run

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
    """A site, the server's app and the link, each in another phase of secure aggregation; all phases are in ``test_flower_kills``."""
    with Shaken(machines, "faults") as run:
        run.is_asked("share", "va")
        run.kill_site()
        run.is_asked("mask", "hungarian")  # with nobody lost
        run.kill_app()
        run.is_asked("unmask", "hungarian")
        run.kill_link()
        run.ends_as(expected)
