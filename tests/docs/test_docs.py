"""What the documentation says is run: every Python block, the commands of the tutorial, every example; and its tables are held against the code."""

from __future__ import annotations

import inspect
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from pages import PAGES, ROOT, TUTORIALS, Block, anchors, blocks, captions, commands, links, pictures

from metabayfl import cli
from metabayfl.algorithms import ALGORITHMS
from metabayfl.cli.commands import app
from metabayfl.config import ready_configs
from metabayfl.privacy import options
from metabayfl.privacy.accounting import epsilon
from metabayfl.privacy.options import PrivacyOptions

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
STEPS = "docs/first_steps.md"
LONG = ("demo", "compare")
"""Commands of the first steps that are only parsed: they take longer than all the others."""

COMMAND = re.compile(r"`(?:[A-Z_]+=\S+ )?(?:python|make|metabayfl|pytest) [^`]+`")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METABAYFL_MALLOC", "0")  # a command would set the allocator of the whole test process
    monkeypatch.delenv("METABAYFL_DATA", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def execute(block: Block, page: str, names: dict[str, object]) -> None:
    """Run a Python block in the page's namespace, and the tests that it defines."""
    before = set(names)
    exec(compile("\n" * block.line + block.text, page, "exec"), names)
    for name in [name for name in names if name.startswith("test_") and name not in before]:
        names[name]()  # type: ignore[operator]


def call(words: list[str], page: str) -> None:
    assert cli.main(words) == 0, f"{page}: metabayfl {shlex.join(words)} failed"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in TUTORIALS and any(block.language == "python" for block in blocks(page))])
def test_python_blocks_run(page: str) -> None:
    names: dict[str, object] = {"__name__": Path(page).stem}
    for block in blocks(page):
        if block.language == "toml" and block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            execute(block, page, names)
        elif page == STEPS:
            for words in commands(block):
                if words[0] not in LONG:
                    call(words, page)
    assert len(names) > 1


def found(group: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The command that words begin with, and the words from its own name on."""
    command = group.get_command(group.make_context("metabayfl", words, resilient_parsing=True), words[0])
    return found(command, words[1:]) if hasattr(command, "commands") else (command, words)


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(block) for block in blocks(page))])
def test_commands_are_accepted(page: str) -> None:
    group = typer.main.get_command(app)
    for words in (words for block in blocks(page) for words in commands(block)):
        command, words = found(group, words)
        assert command is not None, f"{page}: there is no command {words[0]}"
        given = command.make_context(words[0], words[1:]).params
        config = given.get("config")
        known = [*ready_configs(), *(block.title for block in blocks(page)), "visits.toml"]
        assert config is None or config in known, f"{page}: there is no config {config}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert capsys.readouterr().out.strip()


def rows() -> dict[str, str]:
    """The rows of the algorithms' table by their first cell."""
    lines = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8").splitlines()
    found = [re.match(r"\| `(\w+)` \|", line) for line in lines]
    return {at[1]: at.string for at in found if at}


def test_the_table_of_algorithms_is_the_registry() -> None:
    assert sorted(rows()) == sorted(ALGORITHMS)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_the_tables_defaults_are_the_codes(name: str) -> None:
    known = inspect.signature(ALGORITHMS[name]).parameters
    shown = re.findall(r'`(\w+)=(?:"(\w+)"|([\d.]+))`', rows()[name].rsplit(" | ", 1)[1])
    assert shown
    for argument, text, number in shown:
        assert argument in known, f"{name} has no argument {argument}"
        assert known[argument].default == (text or float(number)), f"{name}: {argument} is {known[argument].default} in the code"


def test_every_ready_config_is_in_the_results() -> None:
    table = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition("| config |")[2]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == ready_configs()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in links(page):
        assert (ROOT / target).exists(), f"{page}: there is no {target}"
        assert not anchor or anchor in anchors(target), f"{page}: {target} has no #{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if pictures(page)])
def test_every_picture_stands_beside_the_command_that_makes_it(page: str) -> None:
    """In a block of the page (or of the page that the picture is a link to) that names the picture or its folder, or in its caption."""
    for picture, beside in pictures(page):
        shell = "\n".join(block.text for block in blocks(beside) if block.language == "bash")
        named = Path(picture).stem in shell or str(Path(picture).parent) in shell
        assert named or COMMAND.search(captions(page).get(picture, "")), f"{page}: no command makes {picture}"


def test_every_page_is_in_the_contents() -> None:
    shown = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(f"docs/{page}" for page in shown) == sorted(page for page in PAGES if page != "README.md")


def test_the_page_on_deployment_tells_the_true_epsilon() -> None:
    page = "docs/deployment.md"
    (table,) = (tomllib.loads(block.text) for block in blocks(page) if block.language == "toml")
    wanted = PrivacyOptions(**table["train"]["privacy"])
    few = options.plan(wanted, clients=3, cohort=3, sampling="poisson", rounds=20, numbers=455)
    many = options.plan(wanted, clients=300, cohort=30, sampling="poisson", rounds=20, numbers=455)
    true = f"ε is {epsilon(few, 2, 1e-3):.1f} after 2 rounds and {epsilon(few, 20, 1e-3):.1f} after all {table['train']['rounds']}"
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert true in text
    assert f"the same noise and 20 rounds give ε = {epsilon(many, 20, 1e-5):.1f} at δ = 0.00001" in text
