"""A real browser for the pages: Debian's Chromium, driven by playwright. Skipped where there is none, unless METABAYFL_BROWSER=required."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi", reason="the extra is not installed: pip install 'metabayfl[serve]'")

from wards import Served, furnish, served, train

from metabayfl.personal import PersonalStrategy

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MOST_BYTES = 150_000
"""Of a screenshot in the documentation."""

Open = Callable[..., Any]
Shoot = Callable[..., None]


def _missing(reason: str) -> None:
    if os.environ.get("METABAYFL_BROWSER") == "required":
        pytest.fail(f"METABAYFL_BROWSER=required, and {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")  # no longer: playwright's event loop would be in the way of other tests' own
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        _missing("there is no Chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed: pip install 'metabayfl[dev]'")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens an address in a window of its own. No script may fail, nothing may be asked of another server, no policy may be broken."""
    contexts, wrong = [], []

    def opened(address: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1180, "height": 900}, "reduced_motion": "reduce", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" and "Failed to load resource" not in said.text else None)
        page.on("request", lambda asked: None if asked.url.startswith(address) else wrong.append(asked.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    """Takes a picture for the documentation: into METABAYFL_SCREENSHOTS if that is set, else into nowhere that lasts."""
    folder = Path(os.environ.get("METABAYFL_SCREENSHOTS", tmp_path)).resolve()

    def shot(page: Page, name: str, **options: Any) -> None:
        assert len(page.screenshot(path=folder / f"{name}.png", animations="disabled", **options)) < MOST_BYTES

    return shot


@pytest.fixture(scope="session")
def ward_strategy(tmp_path_factory: pytest.TempPathFactory) -> PersonalStrategy:
    return train(tmp_path_factory.mktemp("wards"))


@pytest.fixture
def hospital(ward_strategy: PersonalStrategy, tmp_path: Path) -> Iterator[tuple[Served, str]]:
    """A server with one furnished client, ``north``, and its token."""
    with served(ward_strategy, tmp_path / "store") as server:
        yield server, furnish(server, "north", seed=1)
