"""The page on deployment, followed to the letter: processes, TLS, keys, masks and noise; then the same with everything killed once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metabayfl[flower]'")

from deployed import SITES, Process, call, free_port, page_command, page_config, running, until, write_data

from metabayfl import config as configs
from metabayfl import tree
from metabayfl.artifact import Strategy, load_strategy
from metabayfl.flower import connection
from metabayfl.flower.coordinator import Job, Options
from metabayfl.flower.in_process import rehearse
from metabayfl.flower.plan import plan
from metabayfl.flower.site_data import Site
from metabayfl.personal import load_personal

pytestmark = [pytest.mark.deployment, pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]


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


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("deployment")
    write_data(folder)
    made = call(folder, *page_command("init"), "--port", str(free_port()))
    assert made.returncode == 0, made.stderr
    found = Machines(folder)
    try:
        for name in ("server", *SITES):
            found.start(name)
        yield found
    finally:
        for process in found.running.values():
            process.kill()
        for process_id in running("flwr-serverapp", found.home):
            os.kill(process_id, signal.SIGKILL)


def short(folder: Path, name: str, rounds: int) -> str:
    """The page's config with fewer rounds and with noise that can be repeated."""
    text = page_config().replace("rounds = 20", f"rounds = {rounds}").replace('source = "secure"', 'source = "seeded"')
    (folder / name).write_text(text, encoding="utf-8")
    return name


def expected(folder: Path, config: str) -> Strategy:
    """The strategy of the same run in one process."""
    sites = [Site(name, folder / f"processed.{name}.data", folder / config / "kept" / name) for name in SITES]
    agreed = plan(configs.read(folder / f"{config}.toml"), "meta_bayfl", 0)
    return rehearse(Job(agreed, folder / config / "server", Options(sites=3, quorum=3)), sites)


def same(a: Strategy, b: Strategy) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a.meta), tree.leaves(b.meta), strict=True))


def words_of_run(config: str, out: str) -> list[str]:
    given = page_command("run")
    return [config if word == "heart.toml" else out if word == "runs/heart" else word for word in given]


def test_the_page_is_followed_and_strangers_stay_outside(machines: Machines) -> None:
    folder = machines.folder
    run = Process(folder, words_of_run(short(folder, "plain.toml", 1), "runs/heart"), "run.log")
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
    assert same(shipped, expected(folder, "plain"))
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
    connection.create(folder / "other", connection.read(folder / "federation", insecure=False), 30)
    elsewhere = call(folder, "federate", "site", "other/sites/va", "--data", "processed.va.data")
    until(lambda: "is ready for" in machines.running["server"].text, "the link", machines.logs)
    if elsewhere.returncode != 2:  # it came before the link did
        elsewhere = call(folder, "federate", "site", "other/sites/va", "--data", "processed.va.data")
    assert elsewhere.returncode == 2
    assert "does not prove with other/sites/va/ca.pem to be this federation's server" in elsewhere.stderr
    shutil.copytree(folder / "federation" / "sites" / "va", folder / "stranger", ignore=shutil.ignore_patterns("kept", "flower"))
    shutil.copy(folder / "other" / "sites" / "va" / "site.key", folder / "stranger" / "site.key")
    unknown = call(folder, "federate", "site", "stranger", "--data", "processed.va.data")
    assert unknown.returncode not in (0, 2)
    assert "Failed to activate SuperNode" in unknown.stdout + unknown.stderr
    assert "if its key is refused" in unknown.stdout


def test_everything_is_killed_once_and_the_strategy_is_the_same(machines: Machines) -> None:
    folder, out = machines.folder, machines.folder / "runs" / "faults"
    words = [*words_of_run(short(folder, "faults.toml", 2), "runs/faults"), "--resend", "15", "--grace", "600"]
    run = Process(folder, words, "faults.log")

    def happens(condition: object, what: str) -> None:
        assert callable(condition)
        until(lambda: condition() or run.popen.poll() is not None, what, lambda: run.text + machines.logs())
        assert run.popen.poll() is None, f"the run ended before {what}\n{run.text}"

    try:
        happens((out / "secure_round.safetensors").exists, "the first phase of a round")
        machines.running["va"].kill()
        machines.start("va")
        happens(lambda: status(out).get("round") == 1, "a round without loss")
        (first,) = running("flwr-serverapp", machines.home)
        os.kill(first, signal.SIGKILL)
        happens(lambda: set(running("flwr-serverapp", machines.home)) - {first}, "a new app after the kill")
        happens(lambda: status(out)["stage"] == "waiting for sites" or (out / "secure_round.safetensors").exists(), "the app's work")
        machines.running["server"].kill()
        happens(lambda: not running("flwr-serverapp", machines.home), "the app's end with its link")
        machines.start("server")
        until(lambda: run.popen.poll() is not None, "the end of the run", lambda: run.text + machines.logs())
    finally:
        run.kill()
    assert run.popen.returncode == 0, run.text
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(row["round"], row["skipped"]) for row in rows] == [(1, {}), (2, {})]
    assert same(load_strategy(out / "strategy.safetensors"), expected(folder, "faults"))


def status(out: Path) -> dict[str, object]:
    return json.loads((out / "status.json").read_text())  # type: ignore[no-any-return]
