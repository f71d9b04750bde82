"""What the server answers is what the library says: predictions, updates, idempotency, cases."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from served import CLIENTS, Served, posted, serve

from metabayfl import tree
from metabayfl.personal import PersonalModel, PersonalStrategy, personal_from_bytes
from metabayfl.serve.options import Limits
from tiny import digits


def model(source: PersonalStrategy, given: dict[str, Any]) -> PersonalModel:
    return source.personalize(pd.DataFrame(given["rows"]), given["labels"])


def stored(served: Served, client: str = "h0") -> PersonalModel:
    data = served.get(f"/v1/clients/{client}/posterior").content
    assert hashlib.sha256(data).hexdigest() == served.get(f"/v1/clients/{client}").json()["digest"]
    return personal_from_bytes(data)


def test_predictions_are_the_librarys(served: Served) -> None:
    first, new = posted(), posted(6, seed=2)
    answer = served.post("/v1/clients/h0/personalize", first)
    assert answer.status_code == 200, answer.text
    expected = model(served.service.source, first)
    assert stored(served).to_bytes() == expected.to_bytes()
    found = served.post("/v1/clients/h0/predict", {"rows": new["rows"]}).json()
    said = expected.predict(pd.DataFrame(new["rows"]))
    assert [item["label"] for item in found["predictions"]] == said.label.tolist()
    assert said.probabilities is not None
    assert np.allclose([[*item["probabilities"].values()] for item in found["predictions"]], said.probabilities, atol=0, rtol=1e-6)
    for part in ("total", "aleatoric", "epistemic"):
        assert np.allclose([item[part] for item in found["predictions"]], getattr(said, part), atol=0, rtol=1e-6)
    assert [item["refer"] for item in found["predictions"]] == said.refer.tolist()
    assert found["threshold"] == pytest.approx(said.threshold)


def test_many_rows_are_answered_as_few_are(served: Served) -> None:
    served.post("/v1/clients/h0/personalize", posted())
    rows = posted(60, seed=3)["rows"]
    together = served.post("/v1/clients/h0/predict", {"rows": rows, "keep": False}).json()["predictions"]
    alone = [served.post("/v1/clients/h0/predict", {"rows": [row], "keep": False}).json()["predictions"][0] for row in rows[:5]]
    assert [item["total"] for item in together[:5]] == pytest.approx([item["total"] for item in alone], rel=1e-5)


def test_an_update_is_the_librarys_and_the_posterior_that_of_all_samples(served: Served) -> None:
    first, more = posted(), posted(5, seed=2)
    served.post("/v1/clients/h0/personalize", first)
    answer = served.post("/v1/clients/h0/update", more).json()
    assert (answer["version"], answer["samples"], answer["applied"]) == (2, 19, True)
    source = served.service.source
    one_by_one = model(source, first).update(pd.DataFrame(more["rows"]), more["labels"])
    assert stored(served).to_bytes() == one_by_one.to_bytes()
    both = model(source, {name: first[name] + more[name] for name in first})
    for mine, other in zip(tree.leaves(stored(served).posterior), tree.leaves(both.posterior), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def test_a_request_that_is_repeated_under_its_key_is_applied_once(served: Served) -> None:
    first, more = posted(), posted(3, seed=2)
    answers = [served.post("/v1/clients/h0/personalize", first, key="a").json() for _ in range(2)]
    answers += [served.post("/v1/clients/h0/update", more, key="b").json() for _ in range(3)]
    assert [item["applied"] for item in answers] == [True, False, True, False, False]
    assert {**answers[2], "applied": False} == answers[3] == answers[4]
    assert served.get("/v1/clients/h0").json()["samples"] == 17
    other = served.post("/v1/clients/h0/update", posted(2, seed=3), key="b")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "key_reused")
    served.post("/v1/clients/h1/personalize", first, who="h1", key="a")
    assert served.get("/v1/clients/h1", who="h1").json()["version"] == 1


def test_a_posterior_is_replaced_only_where_the_body_says_so(served: Served) -> None:
    served.post("/v1/clients/h0/personalize", posted())
    again = served.post("/v1/clients/h0/personalize", posted(8))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "exists")
    new = served.post("/v1/clients/h0/personalize", {**posted(8), "replace": True, "refer_share": 1.0}).json()
    assert (new["version"], new["samples"]) == (2, 8)
    assert all(item["refer"] for item in served.post("/v1/clients/h0/predict", {"rows": posted(3, seed=4)["rows"]}).json()["predictions"])


def test_a_label_of_a_case_is_an_update_and_is_learned_once(served: Served) -> None:
    served.post("/v1/clients/h0/personalize", {**posted(), "refer_share": 1.0})
    row = posted(1, seed=2)["rows"][0]
    case = served.post("/v1/clients/h0/predict", {"rows": [row]}).json()["predictions"][0]["case"]
    waiting = served.get("/v1/clients/h0/cases").json()
    assert (waiting["waiting"], waiting["cases"][0]["case"], waiting["cases"][0]["row"]) == (1, case, row)
    before = stored(served)
    answer = served.post(f"/v1/clients/h0/cases/{case}/label", {"label": "ill"}, who="").json()
    assert stored(served).to_bytes() == before.update(pd.DataFrame([row]), ["ill"]).to_bytes()
    assert answer["after"]["probabilities"]["ill"] > answer["before"]["probabilities"]["ill"]
    again = served.post(f"/v1/clients/h0/cases/{case}/label", {"label": "ill"})
    assert (again.status_code, again.json()["applied"], again.json()["digest"]) == (200, False, answer["digest"])
    other = served.post(f"/v1/clients/h0/cases/{case}/label", {"label": "well"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "labelled")
    assert served.get("/v1/clients/h0/cases").json()["cases"] == []
    (labelled,) = served.get("/v1/clients/h0/cases?waiting=false").json()["cases"]
    assert (labelled["case"], labelled["label"]) == (case, "ill")


def test_the_oldest_cases_are_dropped_beyond_the_limit(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    with serve(outcome_strategy, tmp_path, Limits(cases=3)) as served:
        served.post("/v1/clients/h0/personalize", {**posted(), "refer_share": 1.0})
        rows = posted(5, seed=2)["rows"]
        for row in rows:
            served.post("/v1/clients/h0/predict", {"rows": [row]})
        assert [case["row"] for case in served.get("/v1/clients/h0/cases").json()["cases"]] == rows[:1:-1]


def test_everything_is_there_when_the_server_starts_again(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    with serve(outcome_strategy, tmp_path) as served:
        for client in CLIENTS:
            served.post(f"/v1/clients/{client}/personalize", {**posted(), "refer_share": 1.0}, who=client)
        served.post("/v1/clients/h0/update", posted(2, seed=2), key="a")
        served.post("/v1/clients/h0/predict", {"rows": posted(2, seed=3)["rows"]})
        asked = served.post("/v1/clients/h0/predict", {"rows": posted(1)["rows"], "keep": False}).json()
        served.runner.run(served.service.flush())
        data, overview = served.get("/v1/clients/h0/posterior").content, served.get("/v1/overview", who="").json()
    with serve(outcome_strategy, tmp_path) as served:
        assert served.get("/v1/clients/h0/posterior").content == data
        assert served.get("/v1/overview", who="").json() == overview
        assert served.post("/v1/clients/h0/predict", {"rows": posted(1)["rows"], "keep": False}).json() == asked
        assert served.post("/v1/clients/h0/update", posted(2, seed=2), key="a").json()["applied"] is False
        assert [line["client"] for line in overview["clients"]] == [*CLIENTS]
        assert overview["clients"][0]["predictions_day"] == 3


def test_a_dropped_model_is_read_again(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    with serve(outcome_strategy, tmp_path, Limits(models=1)) as served:
        for client in CLIENTS:
            served.post(f"/v1/clients/{client}/personalize", posted(14, seed=len(client)), who=client)
        rows = {"rows": posted(2, seed=3)["rows"], "keep": False}
        turns = [served.post(f"/v1/clients/{client}/predict", rows, who=client).json() for client in (*CLIENTS, *CLIENTS)]
        assert turns[:2] == turns[2:]


def test_numbers_are_served_with_intervals(dose_strategy: PersonalStrategy, tmp_path: Path) -> None:
    with serve(dose_strategy, tmp_path) as served:
        assert served.post("/v1/clients/h0/personalize", posted(target="dose")).status_code == 200
        assert served.post("/v1/clients/h0/update", posted(4, seed=5, target="dose")).json()["samples"] == 18
        (item,) = served.post("/v1/clients/h0/predict", {"rows": posted(1, seed=2)["rows"]}).json()["predictions"]
        low, high = item["interval"]["dose"]
        assert low < item["label"]["dose"] < high
        assert item["total"]["dose"] == pytest.approx(item["aleatoric"]["dose"] + item["epistemic"]["dose"], rel=1e-4)
        found = served.get("/v1/clients/h0/reliability").json()
        assert (found["kind"], found["feedback"], [item["high"] for item in found["bins"]][-1]) == ("regression", 4, 0.95)


def test_images_are_served(digits_strategy: PersonalStrategy, tmp_path: Path) -> None:
    x, y = digits(0, 20)
    with serve(digits_strategy, tmp_path) as served:
        assert served.post("/v1/clients/h0/personalize", {"rows": x.tolist(), "labels": y}).status_code == 200
        example = served.get("/v1/strategy").json()["example"]
        found = served.post("/v1/clients/h0/predict", {"rows": [x[0].tolist(), example]}).json()["predictions"]
        assert found[0]["label"] == str(digits_strategy.personalize(x, y).predict(x[:1]).label[0])


def test_changes_at_the_same_time_are_all_kept(outcome_strategy: PersonalStrategy, tmp_path: Path) -> None:
    with serve(outcome_strategy, tmp_path) as served:
        served.post("/v1/clients/h0/personalize", posted())
        asked = [("POST", "/v1/clients/h0/update", {"json": posted(1, seed=seed), "headers": served.headers()}) for seed in range(10)]
        assert sorted(answer.json()["version"] for answer in served.together(asked)) == [*range(2, 12)]
        assert served.get("/v1/clients/h0").json()["samples"] == 24


def test_a_change_is_never_made_from_a_model_that_the_store_has_moved_past(served: Served) -> None:
    """As after a request that was given up between its commit and its end."""
    served.post("/v1/clients/h0/personalize", posted())
    old = served.service.ready.get("h0")
    assert old is not None
    served.post("/v1/clients/h0/update", posted(2, seed=2))
    served.service.ready.drop("h0")
    served.service.ready.put("h0", old)
    answer = served.post("/v1/clients/h0/update", posted(3, seed=3)).json()
    assert (answer["version"], answer["samples"]) == (3, 19)
