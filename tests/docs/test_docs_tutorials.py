"""Every tutorial is followed to the letter in the environment that is there, by the code that ``benchmarks/tutorials.py`` times and pictures with.

The application developer's is followed by ``make test``; the two others take minutes: ``pytest -m long tests/docs``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from following import Step, Terminal, follow, free_port, script, this_environment
from pages import TUTORIALS


def followed(page: str, folder: Path, replace: dict[str, str]) -> list[Step]:
    """What a page's commands said when it was followed without its set-up: this environment stands for the one that it makes."""
    with Terminal(folder, this_environment()) as terminal:
        return [step for block in script(page, replace, set_up=False) if (step := follow(block, terminal)).output]


def test_every_tutorial_is_followed() -> None:
    assert {Path(page).stem for page in TUTORIALS} == {"application", "federation", "research"}


@pytest.mark.long
def test_the_researchers_tutorial(tmp_path: Path) -> None:
    first, second = followed("docs/tutorials/research.md", tmp_path, {})
    assert "half_way" not in first.output
    assert "half_way" in second.output
    assert "half_way" in (tmp_path / "runs" / "writers" / "report.html").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.deployment
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_the_federation_engineers_tutorial(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metabayfl[flower]'")
    steps = followed("docs/tutorials/federation.md", tmp_path, {"8443": str(free_port())})
    ended = next(step for step in steps if "wait %5" in step.block.text)
    assert ended.output.splitlines()[-2:] == ["done", "has the strategy: basel, bern, zug"]
    assert (tmp_path / "zug.html").is_file()


@pytest.mark.slow
def test_the_application_developers_tutorial(tmp_path: Path) -> None:
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(module, reason="the server's libraries are not installed: pip install 'metabayfl[serve]'")
    steps = followed("docs/tutorials/application.md", tmp_path, {"8080": str(free_port())})
    asked = next(step for step in steps if step.block.text == "python ask.py\n").output.splitlines()
    assert len(asked) == 25
    assert 0 < sum(line.endswith("-> a person") for line in asked) < 25
