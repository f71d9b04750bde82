"""The live view of a training, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from metabayfl import config, storage, study
from metabayfl.watch.options import Options
from metabayfl.watch.server import live
from tiny import write_digits

Open, Shoot = Callable[..., Any], Callable[..., None]

LONGER = (
    ('name = "tiny"', 'name = "digits"'),
    ("rounds = 3", "rounds = 24"),
    ("checkpoint_every = 2", "checkpoint_every = 50"),
    ("batch_size = 0", "batch_size = 10\nclient_lr = 0.03"),
    ('generator = "full"', 'generator = "full"\nbody_lr = 1e-2'),
)
"""Long enough for curves to look at."""


def test_curves_grow_while_a_study_runs_and_the_end_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_page: Open, shoot: Shoot) -> None:
    monkeypatch.chdir(tmp_path)
    read, out, said = config.read(write_digits(tmp_path, *LONGER)), Path("runs/digits"), []
    events = study.compare(read, read.algorithms, (0,), out)
    with live(out, Options(port=0), said.append):
        page = open_page(said[0].rpartition(" ")[2])
        page.get_by_text("preparing", exact=True).wait_for()
        for _ in range(6):
            next(events)
        page.get_by_text("6 of 48 rounds").wait_for()
        drawn = page.locator("#validation svg").inner_html()
        assert (page.locator("#validation .line").count(), page.locator("#loss .line").count()) == (1, 1)
        while (event := next(events)) and not (isinstance(event, study.Trained) and (event.algorithm, event.info.round) == ("meta_bayfl", 15)):
            pass
        page.get_by_text("39 of 48 rounds").wait_for()
        page.locator("#validation .line").nth(1).wait_for()
        assert page.locator("#validation svg").inner_html() != drawn
        assert page.locator("#runs tbody tr").count() == 2
        assert page.get_by_text(re.compile(r"about \d+ s left")).count() == 1
        page.locator("#figures tbody tr").wait_for()  # the first run is judged
        shoot(page, "watch")
        for _ in events:
            pass
        page.get_by_role("link", name="Open the report").wait_for()
        assert page.locator("#figures tbody tr").count() == 2
    page.get_by_text("The report is written").wait_for()  # the view is closed, and what it showed last stays


def test_a_hostile_title_stays_text_and_the_report_has_no_script(digits_study: Path, tmp_path: Path, open_page: Open) -> None:
    out, said = tmp_path / "out", []
    hostile = '<img src=x onerror="window.struck=1">'
    for name in (
        "study.json",
        "report.html",
        *(f"runs/{run}-seed0/{file}" for run in ("fedavg", "meta_bayfl") for file in ("run.json", "figures.json", "metrics.jsonl")),
    ):
        storage.write_bytes(out / name, (digits_study / name).read_bytes())
    storage.write_json(out / "study.json", {**storage.read_json(out / "study.json"), "title": hostile})
    storage.write_bytes(out / "report.html", (digits_study / "report.html").read_bytes())
    with live(out, Options(port=0), said.append):
        address = said[0].rpartition(" ")[2]
        page = open_page(address)
        page.get_by_role("heading", name=hostile).wait_for()
        assert page.evaluate("window.struck") is None
        page.get_by_role("button", name="fedavg").click()
        assert page.locator("#loss .line.dimmed").count() == 1
        page.get_by_role("link", name="Open the report").click()
        page.get_by_role("heading", name="How good are the predictions?").wait_for()
        assert "script-src" not in httpx.get(address + "report").headers["content-security-policy"]
        assert httpx.get(address, headers={"Host": "elsewhere.example"}).status_code == 400
