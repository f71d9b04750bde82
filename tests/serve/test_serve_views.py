"""Figures for the page and for Prometheus, against sums done by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats
from served import Served, posted, serve

from metabayfl.personal import PersonalStrategy
from metabayfl.serve import answers, history, meters, openapi, views, watch
from metabayfl.serve.answers import Assessed
from metabayfl.serve.clients import Client
from metabayfl.serve.feedback import Feedback
from metabayfl.serve.history import Sums
from metabayfl.serve.service import minute, now


def label(confidence: float, correct: float, at: float = 0.0) -> Feedback:
    return Feedback("h0", at, 1, "a", "a", confidence, correct, 0.0, 0.0, 0.0, 0.0, 0)


def meter(served: Served) -> dict[str, float]:
    text = served.get("/metrics", who="").text
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples if not sample.labels}


def test_reliability_is_confidence_against_accuracy_by_bin(served: Served) -> None:
    served.post("/v1/clients/h0/personalize", posted())
    for seed in (2, 3):
        served.post("/v1/clients/h0/update", posted(14, seed=seed))
    found, labels = served.get("/v1/clients/h0/reliability").json(), served.get("/v1/clients/h0/feedback").json()["feedback"]
    confidence, correct = (np.array([item[name] for item in labels]) for name in ("confidence", "correct"))
    assert found["feedback"] == len(labels) == 28
    assert (correct == [item["truth"] == item["answer"] for item in labels]).all()
    error = 0.0
    for at, item in enumerate(found["bins"]):
        inside = (confidence > at / 15) & (confidence <= (at + 1) / 15)
        assert item["count"] == inside.sum()
        if item["count"]:
            assert item["confidence"] == pytest.approx(confidence[inside].mean())
            assert item["accuracy"] == pytest.approx(correct[inside].mean())
            error += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert found["error"] == pytest.approx(error)
    assert len(found["bins"]) == 15


def test_feedback_is_what_was_said_before_the_label_was_learned(served: Served) -> None:
    served.post("/v1/clients/h0/personalize", posted())
    more = posted(5, seed=2)
    said = served.post("/v1/clients/h0/predict", {"rows": more["rows"], "keep": False}).json()["predictions"]
    served.post("/v1/clients/h0/update", more)
    labels = served.get("/v1/clients/h0/feedback").json()["feedback"]
    for item, answer, truth in zip(labels, said, more["labels"], strict=True):
        assert (item["answer"], item["truth"], item["version"]) == (answer["label"], truth, 1)
        assert item["confidence"] == pytest.approx(max(answer["probabilities"].values()))
        assert item["log_probability"] == pytest.approx(math.log(answer["probabilities"][truth]))
        assert item["total"] == pytest.approx(answer["total"])
        assert item["referred"] == answer["refer"]


def test_the_level_of_a_truth_is_that_of_the_interval_that_just_holds_it(dose_strategy: PersonalStrategy) -> None:
    given = posted(target="dose")
    table = {name: np.array([row[name] for row in given["rows"]]) for name in ("age", "sex")}
    model = dose_strategy.personalize(table, given["labels"])
    raw = model.prepared.answer(model.prepared.constants, torch.from_numpy(model.schema.encode(table)))
    mean, scale, dof = raw.mean.numpy(), raw.scale.numpy(), raw.dof.numpy()
    edges = model.schema.decode_targets(mean - scale * stats.t.ppf(0.95, dof))  # a truth on the edge of the 90 % interval has the level 0.9
    prediction, assessed = answers.assess(model, table, edges)
    assert np.allclose(assessed.confidence, 0.9, atol=2e-3)
    _, centre = answers.assess(model, table, prediction.label)
    assert np.allclose(centre.confidence, 0, atol=1e-3)
    assert (centre.correct == 1).all()
    density = stats.t.logpdf(0, dof) - np.log(scale)
    assert np.allclose(centre.log_probability, density[:, 0], atol=1e-4)


def test_reliability_of_a_regression_counts_truths_within_each_level() -> None:
    found = views._levels(np.array([0.05, 0.15, 0.5, 0.92]))
    assert [item["accuracy"] for item in found] == [0.25, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75, 1.0]
    assert views._levels(np.array([]))[0] == {"low": 0.0, "high": 0.1, "count": 0, "confidence": None, "accuracy": None}


def test_history_adds_up_by_span(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    sums: history.Tally = {}
    for at, part in [(100, 1.0), (100, 2.0), (103, 4.0)]:
        history.tally(sums, "h0", at, Sums(2, 1, 0, part, part / 2, part / 2))
    for _ in range(2):
        served.runner.run(served.service.writer.write(lambda store: history.add(store, sums)))
    monkeypatch.setattr(views, "now", lambda: 60.0 * 110)
    found = served.get("/v1/clients/h0/history?minutes=60").json()
    assert found["step_minutes"] == 1
    assert [(item["at"], item["predictions"], item["referred"], item["total"]) for item in found["points"]] == [
        ("1970-01-01T01:40:00.000Z", 8, 4, 0.75), ("1970-01-01T01:43:00.000Z", 4, 2, 2.0),
    ]  # fmt: skip
    wide = served.get("/v1/clients/h0/history?minutes=2000").json()
    assert (wide["step_minutes"], [item["predictions"] for item in wide["points"]]) == (4, [12])


def test_history_older_than_a_month_is_forgotten(served: Served) -> None:
    for at in (0, history.KEPT_MINUTES, history.KEPT_MINUTES + 1):
        sums = {("h0", at): Sums(1, 0, 0, 1.0, 1.0, 0.0)}
        served.runner.run(served.service.writer.write(lambda store, sums=sums: history.add(store, sums)))
    assert [at for at, _ in history.points(served.service.viewer, "h0", 0, 1)] == [history.KEPT_MINUTES, history.KEPT_MINUTES + 1]


def test_an_alarm_is_raised_where_confidence_is_not_earned() -> None:
    fair = [label(0.8, float(at % 5 != 0), at) for at in range(100)]
    assert watch.alarms(fair, "classification") == []
    (alarm,) = watch.alarms([label(0.8, float(at % 2), at) for at in range(100)], "classification")
    assert (alarm.kind, alarm.at, alarm.value) == ("calibration", 99, pytest.approx(0.3))
    edge = 3 * math.sqrt(100 * 0.8 * 0.2)  # 12 fewer than 80
    assert watch.alarms([label(0.8, float(at < 80 - edge)) for at in range(100)], "classification") == []
    assert watch.alarms([label(0.8, float(at < 79 - edge)) for at in range(100)], "classification") != []
    assert watch.alarms([label(0.8, 0.0) for _ in range(10)], "classification") == []  # too few to tell
    (covered,) = watch.alarms([label(0.2, float(at % 2)) for at in range(60)], "regression")
    assert covered.value == pytest.approx(0.4)


def test_an_alarm_is_raised_where_more_is_novel_than_chance_explains() -> None:
    """At a rate of 2 %, three of twenty have probability .007 and four .0006."""
    client = Client("h0", "", 1, 20, None, 0.0, 0.0)
    assert watch.alarms([], "classification", client, Sums(20, 0, 3, 1.0, 1.0, 0.0)) == []
    (alarm,) = watch.alarms([], "classification", client, Sums(20, 0, 4, 1.0, 1.0, 0.0))
    assert (alarm.kind, alarm.value) == ("novelty", 0.2)
    assert watch.alarms([], "classification", client._replace(novelty_rate=0.2), Sums(20, 0, 4, 1.0, 1.0, 0.0)) == []


def test_novel_predictions_of_the_day_raise_the_alarm(served: Served) -> None:
    served.post("/v1/clients/h0/personalize", {**posted(), "novelty_rate": 0.01})
    assert served.get("/v1/clients/h0/alarms").json()["alarms"] == []
    sums = {("h0", minute(now())): Sums(30, 12, 12, 1.0, 1.0, 0.0)}
    served.runner.run(served.service.writer.write(lambda store: history.add(store, sums)))
    (alarm,) = served.get("/v1/clients/h0/alarms").json()["alarms"]
    assert (alarm["kind"], alarm["value"]) == ("novelty", 0.4)
    (line,) = [line for line in served.get("/v1/overview", who="").json()["clients"] if line["client"] == "h0"]
    assert line["alarms"] == 1


def test_the_meters_count(served: Served) -> None:
    served.post("/v1/clients/h0/personalize", {**posted(), "refer_share": 1.0})
    served.post("/v1/clients/h0/predict", {"rows": posted(5, seed=2)["rows"]})
    served.post("/v1/clients/h0/update", posted(3, seed=3))
    served.get("/v1/clients/h0/nothing")
    found = meter(served)
    assert found["metabayfl_predictions_total"] == found["metabayfl_referred_total"] == 5
    assert (found["metabayfl_labels_total"], found["metabayfl_clients"], found["metabayfl_cases_waiting"]) == (17, 1, 5)
    labels = served.get("/v1/clients/h0/feedback").json()["feedback"]
    gap = 0.0
    for item in labels:
        gap = 0.99 * gap + 0.01 * (item["confidence"] - item["correct"])
    assert found["metabayfl_calibration_gap"] == pytest.approx(gap)
    assert found["metabayfl_calibration_drift"] == pytest.approx(abs(gap))
    text = served.get("/metrics", who="").text
    assert 'metabayfl_requests_total{endpoint="/v1/clients/{client}/predict",status="200"} 1.0' in text
    assert 'metabayfl_requests_total{endpoint="other",status="404"} 1.0' in text
    assert "h0" not in text


def test_the_gap_of_a_regression_is_against_the_intervals_level() -> None:
    one = Assessed(np.array([0.3]), np.array([1.0]), np.array([0.0]))
    assert meters.drifted(meters.build(), 0.0, one, 0.9) == pytest.approx(-0.001)
    assert meters.drifted(meters.build(), 0.0, one, None) == pytest.approx(-0.007)


@pytest.mark.parametrize("name", ["outcome_strategy", "dose_strategy", "digits_strategy"])
def test_the_documents_examples_are_accepted(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with serve(request.getfixturevalue(name), tmp_path) as served:
        document = served.get("/openapi.json").json()
        words = ("personalize", "update", "predict")
        for word in words:
            body = document["paths"][f"/v1/clients/{{client}}/{word}"]["post"]["requestBody"]["content"]["application/json"]
            answer = served.post(f"/v1/clients/h0/{word}", body["example"])
            assert answer.status_code == 200, answer.text
        assert openapi.posted_row(served.service.source.schema) == served.get("/v1/strategy").json()["example"]


def test_a_client_that_has_changed_is_told_so_until_it_begins_anew(served: Served) -> None:
    first = {"rows": [{"age": 20 + at, "sex": "f"} for at in range(40)], "labels": ["ill", "well"] * 20}
    served.post("/v1/clients/h0/personalize", first)
    held = served.runner.run(served.service.model("h0"))
    ringing = dataclasses.replace(held.model, change=held.model.change._replace(evidence=math.log1p(held.model.change.run_length))).to_bytes()
    text = "UPDATE clients SET posterior = ? WHERE client = 'h0'"
    served.runner.run(served.service.writer.write(lambda store: store.execute(text, (ringing,))))
    served.service.ready.drop("h0")
    state = served.post("/v1/clients/h0/update", posted(1, seed=2)).json()
    (alarm,) = [item for item in served.get("/v1/clients/h0/alarms").json()["alarms"] if item["kind"] == "drift"]
    assert alarm["at"] == state["drift"] == state["updated"]
    assert served.post("/v1/clients/h0/update", posted(1, seed=3)).json()["drift"] == state["drift"]
    assert served.post("/v1/clients/h0/personalize", {**posted(), "replace": True}).json()["drift"] is None
    assert served.get("/v1/clients/h0/alarms").json()["alarms"] == []
