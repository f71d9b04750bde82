"""From scores to summary.json and figures.json."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from toy_clients import class_clients, class_schema, level, nearest, regression_clients, regression_schema

from metabayfl import random
from metabayfl.errors import DataError
from metabayfl.evaluation import HeldOut, evaluate, metrics, over_seeds, payload, summarise
from metabayfl.evaluation.scores import ClassScores, class_scores
from metabayfl.evaluation.summary import auroc_unseen

KEY = random.key(3)


def classified(*, epistemic: bool = False) -> HeldOut:
    method = nearest(epistemic=epistemic)
    group = class_clients(np.random.default_rng(0), [[0, 1], [1, 2, 3], [3], [0, 2]])
    return evaluate(method, method.init(KEY), group, class_schema(), KEY)


def regressed() -> HeldOut:
    method = level()
    return evaluate(method, method.init(KEY), regression_clients(np.random.default_rng(0), [0.0, 3.0]), regression_schema(5.0, 2.0), KEY)


def test_summary_has_exactly_the_keys_of_its_kind() -> None:
    assert list(summarise(classified())) == [
        "accuracy",
        "nll",
        "brier",
        "ece",
        "ece_worst_client",
        "accuracy_worst_decile",
        "auroc_unseen",
        "accuracy_at_80_coverage",
    ]
    assert list(summarise(regressed())) == ["rmse", "nll", "crps", "coverage_90"]


def test_summary_pools_samples_and_looks_for_the_worst_client() -> None:
    held = classified()
    scores = class_scores(held)
    found = summarise(held)
    probs, y = np.concatenate([one.probs for one in scores]), np.concatenate([one.y for one in scores])
    assert found["nll"] == pytest.approx(metrics.nll(probs, y))
    assert found["ece_worst_client"] == max(metrics.ece(one.probs, one.y) for one in scores)
    assert found["accuracy_worst_decile"] == min(metrics.accuracy(one.probs, one.y) for one in scores)


def client(name: str, seen: list[bool], strange: list[float], epistemic: list[float] | None = None) -> ClassScores:
    """Two certain test samples of class 0 with uncertainties 0.1 and 0.3, and unseen examples with these."""
    own, none = np.array([0.1, 0.3]), np.zeros(2)
    part = np.zeros(len(strange)) if epistemic is None else np.array(epistemic)
    return ClassScores(name, 2, np.array(seen), np.array([0, 0]), np.eye(2)[[0, 0]], own, own, none, np.array(strange), part)


def test_the_epistemic_score_is_used_where_there_is_one() -> None:
    fooled = client("a", [True, False], [0.0, 0.2], epistemic=[0.1, 0.2])
    assert auroc_unseen([fooled]) == pytest.approx(0.25)  # no test sample has an epistemic part: the totals decide
    split = fooled._replace(epistemic=np.array([0.01, 0.02]))
    assert auroc_unseen([split]) == 1.0


def test_auroc_is_the_mean_over_clients_that_have_both_sorts() -> None:
    known = client("a", [True, False], [0.2, 0.4])  # 3 of 4 pairs in order
    perfect = client("b", [True, False], [0.9])
    without = client("c", [True, True], [])
    strangers = client("d", [False, True], [0.5])  # no own test sample of a seen class
    assert auroc_unseen([known, perfect, without, strangers]) == pytest.approx((0.75 + 1.0) / 2)
    assert auroc_unseen([without, strangers]) is None


def test_missing_and_infinite_values_become_none_and_json_takes_them() -> None:
    held = classified()
    (first, *rest) = class_scores(held)
    broken = held._replace(clients=(first._replace(probs=np.full_like(first.probs, np.nan)), *rest))
    found = summarise(broken)
    assert found["nll"] is None
    text = json.dumps({"summary": over_seeds([found, summarise(held)]), "kept": payload(broken)}, allow_nan=False)
    assert "NaN" not in text


def test_over_seeds() -> None:
    found = over_seeds([{"nll": 1.0, "auroc": None}, {"nll": 2.0, "auroc": 0.5}, {"nll": 6.0, "auroc": 0.7}])
    assert found["mean"] == {"nll": 3.0, "auroc": None}
    assert found["sd"] == {"nll": pytest.approx(math.sqrt(7.0)), "auroc": None}
    assert found["per_seed"][1] == {"nll": 2.0, "auroc": 0.5}
    assert over_seeds([{"nll": 1.5}])["sd"] == {"nll": 0.0}
    assert over_seeds([]) == {"mean": {}, "sd": {}, "per_seed": []}


def test_nobody_to_summarise_is_an_error() -> None:
    with pytest.raises(DataError, match="no scored client"):
        summarise(HeldOut("fedavg", "classification", ("a", "b"), ()))


def test_payload_of_a_classification_agrees_with_the_summary() -> None:
    held = classified(epistemic=True)
    found, figures = payload(held), summarise(held)
    json.dumps(found, allow_nan=False)
    bins = {name: np.array(values) for name, values in found["reliability"].items()}
    gap = (bins["examples"] * np.abs(bins["accuracy"] - bins["confidence"])).sum() / bins["examples"].sum()
    assert gap == pytest.approx(figures["ece"], abs=1e-5)
    assert min(found["clients"]["accuracy"]) == pytest.approx(figures["accuracy_worst_decile"], abs=1e-5)
    at = found["referral"]["referred"].index(0.2)
    assert found["referral"]["accuracy"][at] == pytest.approx(figures["accuracy_at_80_coverage"], abs=1e-5)
    groups = found["uncertainty"]["epistemic"]
    assert groups["right"]["n"] + groups["wrong"]["n"] == 40
    assert groups["unseen"]["quantiles"][50] > groups["right"]["quantiles"][50]
    assert payload(classified())["uncertainty"]["epistemic"] is None


def test_payload_of_a_regression_agrees_with_the_summary() -> None:
    held = regressed()
    found, figures = payload(held), summarise(held)
    json.dumps(found, allow_nan=False)
    at = found["coverage"]["nominal"].index(0.9)
    assert found["coverage"]["observed"][at] == pytest.approx(figures["coverage_90"], abs=1e-5)
    (points,) = found["points"]
    assert len(points["true"]) == len(points["low"]) == 200
    inside = [low <= true <= high for true, low, high in zip(points["true"], points["low"], points["high"], strict=True)]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.08)
    assert found["clients"]["n"] == [400, 400]
