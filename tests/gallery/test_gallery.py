"""The gallery: every script runs, draws a sound picture, and says what is missing; its pages hold no number that the script did not print."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
GALLERY, PAGES = ROOT / "examples" / "gallery", ROOT / "docs" / "gallery"
DATA = Path(os.environ.get("METABAYFL_DATA") or ROOT.parent / "shared" / "data")
NEEDS = {
    "heart": "heart_disease/processed.va.data",
    "parkinsons": "parkinsons/parkinsons_updrs.data",
    "cmapss": "cmapss/train_FD001.txt",
    "activity": "uci_har/uci_har_feats81.npz",
    "handwriting": "femnist_digits/femnist_digits_190writers.npz",
    "robots": "",
    "loans": "hierarchical/openintro_loans_full_schema.csv",
}
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*\.\d+")
"""A measured number has a decimal point."""
NAMES_WITH_NUMBERS = ("CC BY 4.0",)
Captured: TypeAlias = pytest.CaptureFixture[str]


def run(name: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """A script as ``python examples/gallery/NAME.py`` runs it, in this process."""
    for module in ("running", "drawing", "carts"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(GALLERY))
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(GALLERY / f"{name}.py"), run_name="__main__")


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def printed(name: str) -> str:
    """The output that a page shows."""
    return page(name).partition("<!-- printed -->\n```text\n")[2].partition("```")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_every_entry_runs_and_draws(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    if not (DATA / NEEDS[name]).exists():
        pytest.skip(f"{NEEDS[name]} is not in {DATA}: set METABAYFL_DATA to the folder of the data sets")
    monkeypatch.setenv("METABAYFL_DATA", str(DATA))
    run(name, monkeypatch, "--out", str(tmp_path), "--quick")
    assert capsys.readouterr().out.rstrip().endswith(f"picture: {name}.svg")
    text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label")
    assert "nan" not in re.sub(r"<style>.*?</style>|href=\"[^\"]*\"", "", text, flags=re.DOTALL).lower()


def test_the_concept_page_shows_what_its_script_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    run("uncertainty", monkeypatch, "--out", str(tmp_path))
    shown = re.findall(r"^[ \d]\d samples: .*$", (ROOT / "docs" / "uncertainty.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(shown) == 2
    assert capsys.readouterr().out.splitlines()[:2] == shown
    ElementTree.parse(tmp_path / "uncertainty.svg")


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METABAYFL_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"heart_disease/processed\.cleveland\.data.*METABAYFL_DATA"):
        run("heart", monkeypatch, "--out", str(tmp_path / "out"), "--quick")


def test_every_script_has_a_card_a_page_and_a_picture() -> None:
    scripts = {path.stem for path in GALLERY.glob("*.py") if 'if __name__ == "__main__":\n    start(' in path.read_text(encoding="utf-8")}
    assert scripts == set(NEEDS)
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    for name in NEEDS:
        assert f"({name}.md)" in index
        assert f"({name}.svg)" in index
        assert f"]({name}.svg)" in page(name)
        assert f"python examples/gallery/{name}.py --out runs/gallery" in page(name)
        ElementTree.parse(PAGES / f"{name}.svg")


@pytest.mark.parametrize("name", NEEDS)
def test_a_page_names_only_numbers_that_its_script_printed(name: str) -> None:
    assert printed(name).strip()
    prose = re.sub(r"`[^`\n]*`", "", page(name).replace(printed(name), ""))  # code is no measurement
    for words in NAMES_WITH_NUMBERS:
        prose = prose.replace(words, "")
    assert [number for number in NUMBER.findall(prose) if number not in NUMBER.findall(printed(name))] == []


def test_the_cards_name_only_numbers_that_their_scripts_printed() -> None:
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    known = {number for name in NEEDS for number in NUMBER.findall(printed(name))}
    assert [number for number in NUMBER.findall(index) if number not in known] == []


@pytest.mark.long
@pytest.mark.parametrize("name", NEEDS)
def test_a_full_run_prints_what_its_page_shows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("METABAYFL_DATA", str(DATA))
    run(name, monkeypatch, "--out", str(tmp_path))
    shown = capsys.readouterr().out.partition("\npicture: ")[0].strip()
    assert [line.rstrip() for line in shown.splitlines()] == printed(name).rstrip().splitlines()
