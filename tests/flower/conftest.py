"""Small federations whose sites hold a file each, for runs in one process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from hospitals import HOSPITALS, MakeJob, job_in, write_sites

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metabayfl[flower]'")

from deployed import SITES, Machines, call, page_command, page_config, write_data
from following import free_port
from secure_bench import Bench, bench

from metabayfl import config as configs
from metabayfl.artifact import Strategy, load_strategy
from metabayfl.data import Schema
from metabayfl.flower.coordinator import Job, Options
from metabayfl.flower.in_process import rehearse
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import plan
from tiny import patients


@pytest.fixture(scope="session")
def rows() -> pd.DataFrame:
    return patients(hospitals=len(HOSPITALS), rows=14)


@pytest.fixture
def sites(tmp_path: Path, rows: pd.DataFrame) -> list[Site]:
    return write_sites(tmp_path, rows)


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame) -> Path:
    """A finished run, ``server`` and ``kept/SITE``, that keeps test rows; tests read it and never write to it."""
    folder = tmp_path_factory.mktemp("rehearsed")
    rehearse(job_in(folder, algorithm="meta_bayfl", test_share=0.2), write_sites(folder, rows))
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame) -> Path:
    """The server's folder of a run in which nothing went wrong; tests read it and never write to it."""
    folder = tmp_path_factory.mktemp("whole")
    job = job_in(folder)
    rehearse(job, write_sites(folder, rows))
    return job.out


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """A job over the hospitals; time limits are in the still-standing time of the grid."""
    return partial(job_in, tmp_path)


@pytest.fixture
def schema(rehearsed: Path) -> Schema:
    return Schema.from_json(load_strategy(rehearsed / "server" / "strategy.safetensors").schema)


@pytest.fixture
def on(tmp_path: Path, sites: list[Site], schema: Schema) -> Bench:
    return bench(tmp_path, sites, schema)


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
        found.end()


@pytest.fixture(scope="module")
def expected(machines: Machines) -> Strategy:
    """The strategy of the page's run in one process: with one round, and with noise that can be repeated."""
    folder = machines.folder
    text = page_config().replace("rounds = 20", "rounds = 1").replace('source = "secure"', 'source = "seeded"')
    (folder / "short.toml").write_text(text, encoding="utf-8")
    sites = [Site(name, folder / f"processed.{name}.data", folder / "rehearsal" / name) for name in SITES]
    agreed = plan(configs.read(folder / "short.toml"), "meta_bayfl", 0)
    return rehearse(Job(agreed, folder / "rehearsal" / "server", Options(sites=3, quorum=3)), sites)
