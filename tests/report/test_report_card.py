"""The model card: what it says is in the files, what is not in the files it does not say, and names from data change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import report_data as data
import yaml

from metabayfl import storage
from metabayfl.artifact import load_strategy
from metabayfl.errors import ArtifactError
from metabayfl.privacy import ledger
from metabayfl.report import gathered, report_page, write_report
from metabayfl.report.card import card
from metabayfl.report.card_files import markdown
from metabayfl.report.card_part import Part
from metabayfl.report.limits import limits
from tiny import run, write_digits

Study = tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[dict[str, Any]]]]


def part(study: Study, heading: str) -> Part:
    return next(one for one in card(gathered(*study)) if one.heading == heading)


def front_matter(text: str) -> Any:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("study", [data.class_study(), data.regression_study()])
def test_the_parts_are_those_of_the_convention(study: Study) -> None:
    headings = [one.heading for one in card(gathered(*study))]
    assert headings == [
        "Model details", "Intended use", "Data", "Training", "Privacy and security", "Evaluation", "Calibration", "Who is served worst", "Limits",
    ]  # fmt: skip
    text = markdown(gathered(*study))
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == headings
    assert "None" not in text
    assert "nan" not in text


def test_the_front_matter_is_what_hugging_face_reads() -> None:
    found = front_matter(markdown(gathered(*data.class_study())))
    assert found["library_name"] == "metabayfl"
    assert "federated-learning" in found["tags"]
    assert found["metrics"] == ["accuracy", "nll", "brier", "ece", "accuracy_at_80_coverage"]
    (result,) = found["model-index"][0]["results"]
    assert result["task"] == {"type": "tabular-classification"}
    assert result["dataset"]["revision"] == f"{0:064d}"
    mean = data.class_study()[0]["algorithms"]["meta_bayfl"]["mean"]
    assert {one["type"]: one["value"] for one in result["metrics"]} == {name: pytest.approx(mean[name]) for name in found["metrics"]}
    assert front_matter(markdown(gathered(*data.regression_study())))["metrics"] == ["rmse", "nll", "crps", "coverage_90"]


@pytest.mark.parametrize(("form", "shape", "task"), [("array", [1, 8, 8], "image-classification"), ("array", [9, 128], "classification")])
def test_the_task_is_named_by_the_inputs(form: str, shape: list[int], task: str) -> None:
    study = data.class_study()
    study[0]["about"]["inputs"] |= {"form": form, "shape": shape}
    assert front_matter(markdown(gathered(*study)))["model-index"][0]["results"][0]["task"]["type"] == task
    assert dict(part(study, "Intended use").facts)["inputs"] == "arrays of " + " x ".join(map(str, shape))


def test_names_from_data_stay_names() -> None:
    hostile = "x | y\n# head\n---\n<b> [l](javascript:0) `c` *e* _u_ \x00"
    study = data.class_study()
    study[0]["title"] = study[0]["about"]["data"][0]["name"] = study[2]["meta_bayfl"][0]["clients"]["id"][0] = hostile
    study[2]["meta_bayfl"][0]["clients"]["accuracy"][0] = 0.0
    text = markdown(gathered(*study))
    assert front_matter(text)["model-index"][0]["results"][0]["dataset"]["name"] == hostile.replace("\x00", "\ufffd")
    lines = text.split("---\n", 2)[2].splitlines()
    assert not [line for line in lines if line.startswith(("# head", "---", "<b>"))]
    row = next(line for line in lines if line.startswith("| x "))
    assert row.startswith(r"| x \| y \# head --- \<b\> \[l\](javascript:0) \`c\` \*e\* \_u\_ ")


def test_without_a_ledger_the_privacy_spent_is_none_and_said() -> None:
    facts = dict(part(data.class_study(), "Privacy and security").facts)
    assert facts["privacy spent"].startswith("none: nothing bounds")
    assert facts["secure aggregation"].startswith("none: ")
    assert facts["defence against hostile clients"] == "none: a plain mean"


def test_the_privacy_spent_is_the_ledgers(tmp_path: Path) -> None:
    table = "[train.privacy]\nepsilon = 4.0\ndelta = 1e-2\nclip = 1.0\n[algorithm.fedavg]"
    config = write_digits(tmp_path, ("cohort = 4", "cohort = 2"), ("[algorithm.fedavg]", table))
    assert run("train", config, "--out", tmp_path / "out") == 0
    book = ledger.read(tmp_path / "out" / "runs" / "meta_bayfl-seed0" / "privacy.json")
    text = (tmp_path / "out" / "model_card.md").read_text()
    assert f"epsilon {book.spent:.4g} of 4 at delta 0.01, in {book.releases} releases" in text
    assert "a simulation, which protects nobody" in text
    assert "- **updates clipped to**: 1.0" in text
    assert "what validation clients gave, the choice of the round and the sums that the file carries, has no noise" in text


def test_secure_aggregation_and_defences_are_as_configured() -> None:
    study = data.class_study()
    study[0]["about"]["training"] |= {"secure": {"clip": 3.0, "masks": False}, "defence": {"combine": "median"}, "attack": {"name": "size"}}
    facts = dict(part(study, "Privacy and security").facts)
    assert facts["secure aggregation"] == "the server sees sums alone (clip = 3.0, masks = False); simulated without masks"
    assert facts["defence against hostile clients"] == "combine = median"
    study[0]["about"]["training"] |= {"privacy": {"clip": 1.0}, "secure": {"clip": 3.0, "masks": True}}
    assert dict(part(study, "Privacy and security").facts)["secure aggregation"] == "the server sees sums alone (masks = True)"
    assert facts["attack, simulated"] == "name = size"


def test_the_worst_served_are_named_with_their_samples() -> None:
    study = data.class_study()
    rows = part(study, "Who is served worst").grid[1:]
    every = [
        (name, seed, share, nll)
        for seed, entry in enumerate(study[2]["meta_bayfl"])
        for name, share, nll in zip(entry["clients"]["id"], entry["clients"]["accuracy"], entry["clients"]["nll"], strict=True)
    ]
    lowest = {(name, str(seed)) for name, seed, _, _ in sorted(every, key=lambda row: row[2])[:5]}
    surprised = {(name, str(seed)) for name, seed, _, _ in sorted(every, key=lambda row: -row[3])[:5]}
    assert {row[:2] for row in rows} == lowest | surprised
    assert {row[2:4] for row in rows} == {("10", "20")}


def test_calibration_says_which_way_it_errs() -> None:
    study = data.class_study()
    for entry in study[2]["meta_bayfl"]:
        entry["reliability"] = {"examples": [10, 30], "confidence": [0.4, 0.9], "accuracy": [0.4, 0.7]}
    found = part(study, "Calibration")
    assert found.grid[1:] == (("40.0", "40.0", "20"), ("90.0", "70.0", "60"))
    assert found.sentences == ("Stated confidence is 77.5 % on average and 62.5 % are right: overconfident by 15.0 points.",)
    assert part(data.regression_study(), "Calibration").grid[-1] == ("90", "91.0")


def said(study: Study) -> str:
    return "\n".join(limits(gathered(*study), "meta_bayfl"))


def test_limits_follow_from_the_numbers() -> None:
    study = data.class_study()
    first = said(study)
    assert "It learned from 8 clients" in first
    assert "It was judged on 6 clients a seed" in first
    assert "No held-out client had a test sample of class c" in first
    assert "adapted on a sample of class" not in first
    assert "There are 2 seeds: the standard deviations over them are themselves uncertain, by about 71 %." in first
    assert "Held-out clients adapted on 10 samples" in first
    assert "fedavg and local had a lower NLL" in first
    for one in study[0]["about"]["data"]:
        one["clients"]["held-out"]["clients"] = one["clients"]["validation"]["clients"] = 500
    for name in ("fedavg", "local"):
        study[0]["algorithms"][name]["mean"]["nll"] = 9.0
    for entry in study[2]["meta_bayfl"]:
        entry["classes"] = {"name": ["a", "b"], "test": [5, 5], "shown": [3, 0]}
    second = said(study)
    assert "No held-out client adapted on a sample of class b." in second
    for gone in ("judged on", "chosen on", "test sample of class", "lower NLL"):
        assert gone not in second


def test_a_single_algorithm_and_seed_are_limits() -> None:
    study = (data.summary(("meta_bayfl",), seeds=1), data.metrics(("meta_bayfl",), seeds=1), {"meta_bayfl": [data.class_entry(epistemic=False)]})
    text = said(study)
    assert "There is one seed" in text
    assert "compared with no other algorithm" in text
    assert "It has no epistemic uncertainty" in text
    assert part(study, "Evaluation").sentences[0] == "On held-out clients, one seed."


def test_without_validation_nobody_chose_the_strategy() -> None:
    study = data.class_study()
    study[0]["about"]["training"]["validate_every"] = 0
    assert dict(part(study, "Training").facts)["strategy kept"] == "the last: no validation client chose it"
    study[0]["about"]["strategy"]["rounds"] = 0
    assert dict(part(study, "Training").facts)["rounds"] == "none: this algorithm sends nothing"


def test_a_study_of_an_older_version_has_a_page_that_says_why_there_is_no_card(tmp_path: Path) -> None:
    summary, rows, figures = data.class_study()
    del summary["about"]
    assert "run the study again with --resume" in report_page(gathered(summary, rows, figures))
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    (tmp_path / "metrics.jsonl").write_text("")
    assert write_report(tmp_path) == (tmp_path / "report.html",)
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "about": {}}))
    with pytest.raises(ArtifactError, match="do not fit each other"):
        write_report(tmp_path)


def test_a_real_study_has_its_card(digits_study: Path, dose_study: Path) -> None:
    strategy = load_strategy(digits_study / "strategy.safetensors")
    text = (digits_study / "model_card.md").read_text()
    assert f"sha256 {strategy.digest()}" in text
    assert f"in {(digits_study / 'strategy.safetensors').stat().st_size:,} bytes" in text
    assert strategy.provenance["data_fingerprint"] in text
    assert "| 0 | training | 8 |" in text
    assert "classes**: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
    mean = storage.read_json(digits_study / "summary.json")["algorithms"]["meta_bayfl"]["mean"]
    assert f"| in 90 % set, % | {100 * mean['set_coverage_90']:.1f} |" in text
    table = (dose_study / "model_card.md").read_text()
    assert "**inputs**: age, sex (a category: f, m)" in table
    assert "**targets**: dose" in table
    worst = [line for line in table.splitlines() if line.startswith("| h")]
    figures = storage.read_json(dose_study / "figures.json")["meta_bayfl"][0]["clients"]
    assert f"{figures['nll'][0]:.3f}" in "".join(worst)
