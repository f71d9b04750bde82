"""The page: whole, self-contained, and safe whatever the data are called."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_data as data

from metabayfl.errors import ArtifactError, StorageError
from metabayfl.report import gathered, report_page, write_report

Study = tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[dict[str, Any]]]]
STUDIES: list[Callable[[], Study]] = [data.class_study, data.regression_study]
HOSTILE = "<script>alert('&\"')</script>\x00\ud800]]><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def seen(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    return tags


def text(page: str) -> str:
    return " ".join(seen(page).words)


@pytest.mark.parametrize("study", STUDIES)
def test_the_page_is_well_formed_and_self_contained(study: Callable[[], Study]) -> None:
    page = report_page(gathered(*study()))
    assert ET.fromstring(page).tag == "html"
    tags = seen(page)
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(tags.names)
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name in ("src", "href", "action")]
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page


@pytest.mark.parametrize("study", STUDIES)
def test_every_picture_has_a_description_and_numbers_alone(study: Callable[[], Study]) -> None:
    tree = ET.fromstring(report_page(gathered(*study())))
    pictures = list(tree.iter("svg"))
    assert len(pictures) > 10
    assert all(picture.get("role") == "img" and picture.get("aria-label") for picture in pictures)
    for element in tree.iter():
        for name, value in element.attrib.items():
            assert not re.search(r"\b(nan|inf)\b", value, re.I), (element.tag, name, value)


def test_classification_has_all_its_pictures() -> None:
    words = text(report_page(gathered(*data.class_study())))
    for heading in (
        "How good are the predictions?",
        "How did training go?",
        "Can the stated confidence be believed?",
        "Is every client served well?",
        "Does the model know when it does not know?",
        "Uncertainty that more data would remove",
        "What if the doubtful cases go to a person?",
        "Quality against bytes",
        "What does it cost?",
        "Model card",
    ):
        assert heading in words


def test_regression_has_all_its_pictures() -> None:
    words = text(report_page(gathered(*data.regression_study())))
    for heading in ("Predicted against true", "motor", "total", "Can the intervals be believed?", "RMSE on a client's own test samples"):
        assert heading in words


@pytest.mark.parametrize("study", STUDIES)
def test_hostile_names_stay_text(study: Callable[[], Study]) -> None:
    summary, rows, figures = study()
    summary["title"] = HOSTILE
    summary["versions"] = {HOSTILE: HOSTILE}
    summary["notes"] = [HOSTILE]
    summary["about"] = data.about(HOSTILE, regression=study is data.regression_study)
    summary["algorithms"][HOSTILE] = summary["algorithms"].pop("fedavg")
    figures[HOSTILE] = figures.pop("fedavg")
    for entry in figures[HOSTILE]:
        entry["clients"]["id"] = [HOSTILE] * len(entry["clients"]["id"])
        entry.get("classes", {})["name"] = [HOSTILE] * 3
        for points in entry.get("points", ()):
            points["target"] = HOSTILE
    page = report_page(gathered(summary, [{**row, "algorithm": HOSTILE} if row["algorithm"] == "fedavg" else row for row in rows], figures))
    assert ET.fromstring(page).tag == "html"
    tags = seen(page)
    assert not {"script", "img"} & set(tags.names)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert "\x00" not in page
    page.encode()


def test_the_best_is_marked_without_colour_alone() -> None:
    page = report_page(gathered(*data.class_study()))
    tree = ET.fromstring(page)
    best = [cell for cell in tree.iter("td") if cell.get("class") == "best"]
    assert best
    assert all("★" in "".join(cell.itertext()) for cell in best)


@pytest.mark.parametrize("study", STUDIES)
def test_nothing_kept_gives_a_page_that_says_so(study: Callable[[], Study]) -> None:
    summary, _, _ = study()
    page = report_page(gathered(summary, [], {}))
    assert ET.fromstring(page).tag == "html"
    assert page.count("Nothing was kept for this picture.") >= 5


def test_one_algorithm_one_seed_one_client() -> None:
    figures = {"local": [data.class_entry(clients=1, epistemic=False)]}
    page = report_page(gathered(data.summary(("local",), seeds=1), data.metrics(("local",), seeds=1, rounds=3), figures))
    assert ET.fromstring(page).tag == "html"
    assert "±" not in "".join(cell.text or "" for cell in ET.fromstring(page).iter("td"))


def test_many_algorithms_stay_tellable_apart() -> None:
    names = tuple(f"method_{at}" for at in range(15))
    page = report_page(gathered(data.summary(names), data.metrics(names), {name: [data.class_entry(at)] for at, name in enumerate(names)}))
    looks = re.findall(r'class="(s\d(?: dashed)?)"', page.replace("swatch ", ""))
    assert len(set(looks)) == 15


def test_missing_figures_are_dashes() -> None:
    summary, rows, figures = data.class_study()
    for part in ("mean", "sd"):
        summary["algorithms"]["fedavg"][part]["nll"] = None
        summary["algorithms"]["local"][part]["auroc_unseen"] = None
    page = report_page(gathered(summary, rows, figures))
    cells = ["".join(cell.itertext()) for cell in ET.fromstring(page).iter("td")]
    assert cells.count("–") == 2


def test_no_algorithm_has_any_auroc() -> None:
    summary, rows, figures = data.class_study()
    for entry in summary["algorithms"].values():
        entry["mean"]["auroc_unseen"] = None
    assert "unseen AUROC" not in text(report_page(gathered(summary, rows, figures)))


def write(directory: Path, study: Study) -> None:
    summary, rows, figures = study
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "figures.json").write_text(json.dumps(figures))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_write_report_reads_a_study_and_writes_the_page_and_the_card(tmp_path: Path) -> None:
    write(tmp_path, data.class_study())
    path, card = write_report(tmp_path)
    assert (path, card) == (tmp_path / "report.html", tmp_path / "model_card.md")
    assert path.read_text(encoding="utf-8") == report_page(gathered(*data.class_study()))
    again = write_report(tmp_path, tmp_path / "elsewhere")
    assert [one.read_bytes() for one in again] == [path.read_bytes(), card.read_bytes()]


def test_a_study_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"summary\.json"):
        write_report(tmp_path)
    write(tmp_path, data.class_study())
    (tmp_path / "metrics.jsonl").write_text('{"algorithm": "fed')
    with pytest.raises(ArtifactError, match="not one JSON object a line"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "name, value", [("summary.json", []), ("summary.json", {"algorithms": {"a": 3}}), ("summary.json", {}), ("figures.json", [1])]
)
def test_files_of_another_shape_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    write(tmp_path, data.class_study())
    (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(ArtifactError):
        write_report(tmp_path)


def test_figures_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    summary, rows, figures = data.class_study()
    del figures["fedavg"][0]["reliability"]["accuracy"]
    write(tmp_path, (summary, rows, figures))
    with pytest.raises(ArtifactError, match="do not fit each other"):
        write_report(tmp_path)


def test_a_report_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    write(tmp_path, data.class_study())
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_report(tmp_path, tmp_path / "file")
