"""Several studies side by side, and what must be said before they are compared."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import report_data as data

from metabayfl.errors import ConfigError
from metabayfl.report import comparison_table, gathered
from metabayfl.report.comparison import compared, comparison_page, labels
from metabayfl.report.sections import Study
from tiny import run


def studied() -> Study:
    return gathered(*data.class_study())


def test_equal_tasks_share_one_table_with_its_best() -> None:
    found = compared({"a": studied(), "b": studied()})
    assert found.notes == ()
    table = comparison_table(found.study.summary)
    assert [row[0] for row in table[1:4]] == ["a: fedavg", "b: fedavg", "a: local"]
    assert any(cell.endswith(" *") for row in table[1:] for cell in row)
    alone = {row[0]: row[1:] for row in comparison_table(studied().summary)}
    assert [cell.rstrip(" *") for cell in table[1][1:]] == [cell.rstrip(" *") for cell in alone["fedavg"]]


def test_the_page_holds_every_algorithm_of_every_study() -> None:
    page = comparison_page(compared({"a": studied(), "<b>": studied()}))
    tree = ET.fromstring(page)
    rows = ["".join(cell.itertext()) for cell in tree.iter("th") if cell.get("scope") == "row"]
    assert {"a: fedavg", "<b>: meta_bayfl"} <= set(rows)
    assert "Model card" not in page
    assert len(list(tree.iter("svg"))) > 10


def test_other_data_at_a_shared_seed_are_said_and_nothing_is_best() -> None:
    other = studied()
    other.summary["about"]["data"][1]["fingerprint"] = "else"
    found = compared({"a": studied(), "b": other})
    assert found.notes == ("a and b were on different data: at seed 1 their clients, samples or splits are not the same.",)
    assert not any("*" in cell for row in comparison_table(found.study.summary) for cell in row)
    page = comparison_page(found)
    assert found.notes[0] in page
    assert "★" not in page


def test_other_seeds_unknown_data_and_other_versions_are_said() -> None:
    summary, rows, figures = data.class_study()
    summary["seeds"] = [0]
    summary["versions"] = {"metabayfl": "1"}
    del summary["about"]
    assert compared({"a": studied(), "b": gathered(summary, rows, figures)}).notes == (
        "b does not say which data it was on.",
        "The seeds differ (a 0, 1, b 0): means are over different splits.",
        "metabayfl differs (a 0, b 1): times and last digits may.",
    )


def test_other_versions_alone_may_be_compared() -> None:
    other = studied()
    other.summary["versions"]["metabayfl"] = "1"
    found = compared({"a": studied(), "b": other})
    assert len(found.notes) == 1
    assert found.study.summary["comparable"]


def test_a_regression_beside_a_classification_is_refused() -> None:
    with pytest.raises(ConfigError, match="a is a classification, b is a regression: they have no figures in common"):
        compared({"a": studied(), "b": gathered(*data.regression_study())})


def test_the_same_study_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is named twice"):
        labels([tmp_path, tmp_path / "x" / ".."])


def test_the_command_prints_the_table_and_the_notes(
    digits_study: Path, dose_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("summary.json", "figures.json", "metrics.jsonl"):
        (copy / name).write_bytes((digits_study / name).read_bytes())
    assert run("report", digits_study, copy) == 0
    said = capsys.readouterr().out
    assert "out: meta_bayfl" in said
    assert "copy: fedavg" in said
    assert said.endswith("\ncomparison.html\n")
    assert ET.parse(tmp_path / "comparison.html").getroot().tag == "html"
    assert run("report", digits_study, dose_study, "--out", tmp_path / "elsewhere") == 2
    assert "they have no figures in common" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
