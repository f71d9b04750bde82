"""Follows the tutorials to the letter in a fresh environment, says how long each block takes, and takes the picture that each ends with.

    python benchmarks/tutorials.py                       # all three
    python benchmarks/tutorials.py research              # one of them
    python benchmarks/tutorials.py --pictures docs/images

Every tutorial begins with a copy of this checkout in an empty folder and with no environment at all: the page's own set-up makes one. ``clock`` is
what a person waits, ``processor`` what the machine works (all cores, all processes); where other programs run at the same time they are far apart.
Pictures are taken with Chromium by playwright (``pip install -e '.[dev]'``, ``apt-get install chromium``).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "docs"))  # the tests follow the same pages with the same code

from following import Step, Terminal, follow, free_port, script, this_environment  # noqa: E402
from pages import read  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

MOST_BYTES = 150_000
WIDTH, HEIGHT = 1100, 720

Scene = Callable[["Page", Path, dict[str, str]], "Page | Locator"]
"""What the picture shows of a browser's page, given the tutorial's folder and what was typed in place of the page's texts."""


def labelled(page: Page, folder: Path, replaced: dict[str, str]) -> Locator:
    """The cases on the prediction server's page, after the topmost got a label."""
    page.goto(f"http://127.0.0.1:{replaced['8080']}")
    page.get_by_label("Token").fill((folder / "token").read_text().strip())
    page.keyboard.press("Enter")
    page.get_by_role("button", name="yes", exact=True).click()
    page.locator(".moved b").get_by_text("Learned: yes.", exact=True).wait_for()
    return page.locator("section", has=page.locator("article"))


def site_report(page: Page, folder: Path, replaced: dict[str, str]) -> Locator:
    """What Zug's report says of Zug's own model."""
    page.goto((folder / "zug.html").as_uri())
    return page.locator("body")


def comparison(page: Page, folder: Path, replaced: dict[str, str]) -> Page:
    """The comparison at the top of a study's report."""
    page.goto((folder / "runs" / "writers" / "report.html").as_uri())
    return page


SCENES: dict[str, Scene] = {"application": labelled, "federation": site_report, "research": comparison}


@contextmanager
def browser_page() -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
        browser.close()


def take(name: str, folder: Path, replaced: dict[str, str], pictures: Path) -> Path:
    """Take a tutorial's picture.

    Raises:
        ValueError: if it is too large for a page.
    """
    path = pictures / f"tutorial_{name}.png"
    with browser_page() as page:
        size = len(SCENES[name](page, folder, replaced).screenshot(path=path, animations="disabled"))
    if size > MOST_BYTES:
        raise ValueError(f"{path} has {size} bytes, expected at most {MOST_BYTES}")
    return path


def checkout(folder: Path) -> None:
    """What a clone of this checkout would hold, changes that are not committed included."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


PORTS = {"application": ("8080",), "federation": ("8443",), "research": ()}
"""The ports on each page; another one is typed in their place, for they may be taken here."""


def followed(name: str, pictures: Path, *, here: bool) -> list[Step]:
    """Follow a tutorial from an empty folder, and take its picture where the page shows it.

    Args:
        name: the page's.
        pictures: where the picture goes.
        here: without the set-up, in the environment that runs this.
    """
    page = f"docs/tutorials/{name}.md"
    shown = read(page).partition("![")[0].count("\n")
    replace = {port: str(free_port()) for port in PORTS[name]}
    with tempfile.TemporaryDirectory(prefix=f"tutorial-{name}-") as home:
        checkout(Path(home))
        with Terminal(Path(home), this_environment() if here else {"PYTHONPATH": ""}) as terminal:
            steps, todo = [], script(page, replace, set_up=not here)
            for block in (block for block in todo if block.line < shown):
                steps.append(follow(block, terminal))
            take(name, terminal.place(), replace, pictures)
            return steps + [follow(block, terminal) for block in todo if block.line > shown]


def table(name: str, steps: list[Step]) -> Table:
    """A row a block, and the sum."""
    shown = Table("block", "clock, s", "processor, s", title=f"docs/tutorials/{name}.md")
    for step in steps:
        first = step.block.title or step.block.text.splitlines()[0]
        shown.add_row(first, f"{step.seconds:.1f}", f"{step.cpu:.1f}")
    shown.add_section()
    shown.add_row("all", f"{sum(step.seconds for step in steps):.1f}", f"{sum(step.cpu for step in steps):.1f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="TUTORIAL", help=f"one or more of {', '.join(SCENES)}; all of them if none")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "images", help="where to write them")
    parser.add_argument("--here", action="store_true", help="without the set-up, in the environment that runs this: for the pictures alone")
    given = parser.parse_args()
    unknown = set(given.names) - set(SCENES)
    if unknown:
        parser.error(f"there is no tutorial {', '.join(sorted(unknown))}: expected {', '.join(SCENES)}")
    given.pictures.mkdir(parents=True, exist_ok=True)
    for name in given.names or SCENES:
        Console(width=110).print(table(name, followed(name, given.pictures, here=given.here)))


if __name__ == "__main__":
    main()
