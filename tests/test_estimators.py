"""Scikit-learn's own checks, and what scikit-learn has no word for: groups and personal estimators."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from metabayfl import MetaBayesClassifier, MetaBayesRegressor, load
from metabayfl.errors import ConfigError, DataError, SchemaError

FEW: dict[str, Any] = {"rounds": 12, "hidden": (12, 6)}


@pytest.mark.parametrize("estimator", [MetaBayesClassifier(**FEW), MetaBayesRegressor(**FEW)])
def test_scikit_learns_checks(estimator: Any) -> None:
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    assert len(results) > 40
    assert {row["check_name"]: repr(row["exception"]) for row in results if row["status"] not in ("passed", "skipped")} == {}
    assert sum(row["status"] == "skipped" for row in results) <= 2  # what needs SCIPY_ARRAY_API to be set before SciPy is imported


def blobs(groups: int = 8, rows: int = 16, seed: int = 0) -> tuple[Any, Any, Any]:
    """Clients that each name the two clouds their own way: only personal models can be right."""
    rng = np.random.default_rng(seed)
    client, cloud = np.repeat(np.arange(groups), rows), rng.integers(0, 2, groups * rows)
    cloud[::rows], cloud[1::rows] = 0, 1
    labels = np.array(["cat", "dog"])[(cloud + client) % 2]
    return rng.normal(size=(groups * rows, 3)) + 4 * cloud[:, None], labels, client


def lines(groups: int = 8, rows: int = 16, seed: int = 0) -> tuple[Any, Any, Any]:
    """One slope for all, an offset per client."""
    rng = np.random.default_rng(seed)
    client = np.repeat(np.arange(groups), rows)
    x = rng.normal(size=(groups * rows, 2))
    return x, 100 + 10 * x[:, 0] + np.repeat(rng.normal(0, 30, groups), rows) + rng.normal(size=groups * rows), client


@pytest.fixture(scope="module")
def classifier() -> MetaBayesClassifier:
    x, y, client = blobs()
    return MetaBayesClassifier(**{**FEW, "rounds": 40}).fit(x, y, groups=client)


@pytest.fixture(scope="module")
def regressor() -> MetaBayesRegressor:
    x, y, client = lines()
    return MetaBayesRegressor(**{**FEW, "rounds": 60}).fit(x, y, groups=client)


def test_a_personal_classifier_knows_what_the_shared_one_cannot(classifier: MetaBayesClassifier) -> None:
    x, y, _ = blobs(groups=2, rows=40, seed=5)
    for start in (0, 40):
        own = classifier.personalize(x[start : start + 10], y[start : start + 10])
        assert own.score(x[start + 10 : start + 40], y[start + 10 : start + 40]) > 0.9
    assert classifier.score(x, y) < 0.8
    assert own.predict_proba(x).shape == (80, 2)
    assert np.allclose(own.predict_proba(x).sum(1), 1)
    assert own.predict(x).tolist() == own.classes_[own.predict_proba(x).argmax(1)].tolist()


def test_uncertainty_has_its_two_parts(classifier: MetaBayesClassifier) -> None:
    x, y, _ = blobs(seed=5)
    shared, own = (model.predict_uncertainty(x) for model in (classifier, classifier.personalize(x[:10], y[:10])))
    for parts in (shared, own):
        assert np.allclose(parts["total"], parts["aleatoric"] + parts["epistemic"])
        assert (parts["total"] <= np.log(2) + 1e-9).all()
    assert own["total"].mean() < shared["total"].mean()


def test_a_personal_regressor_finds_its_offset(regressor: MetaBayesRegressor) -> None:
    x, y, _ = lines(groups=1, rows=60, seed=5)
    own = regressor.personalize(x[:20], y[:20])
    errors = [float(np.sqrt(np.mean((model.predict(x[20:]) - y[20:]) ** 2))) for model in (own, regressor)]
    assert errors[0] < errors[1]
    mean, std = own.predict(x[20:], return_std=True)
    assert np.array_equal(mean, own.predict(x[20:]))
    assert (std > 0).all()
    assert np.mean(np.abs(mean - y[20:]) < 2 * std) > 0.7


def test_personalizing_leaves_the_shared_estimator_as_it_is(classifier: MetaBayesClassifier) -> None:
    x, y, _ = blobs(seed=5)
    before = classifier.predict_proba(x)
    own = classifier.personalize(x[:10], y[:10])
    assert np.array_equal(classifier.predict_proba(x), before)
    assert not np.allclose(own.predict_proba(x), before)


@pytest.mark.parametrize("copied", [lambda model: pickle.loads(pickle.dumps(model))])
def test_pickles_predict_the_same(classifier: MetaBayesClassifier, regressor: MetaBayesRegressor, copied: Callable[[Any], Any]) -> None:
    for model, (x, y, _) in ((classifier, blobs()), (regressor, lines())):
        own = model.personalize(x[:10], y[:10])
        assert np.array_equal(copied(own).predict(x), own.predict(x))
        assert np.array_equal(copied(model).personalize(x[:10], y[:10]).predict(x), own.predict(x))


def test_a_clone_has_the_arguments_and_nothing_learned(classifier: MetaBayesClassifier) -> None:
    fresh = clone(classifier)
    assert fresh.get_params() == classifier.get_params()
    assert not hasattr(fresh, "strategy_")
    x, y, client = blobs()
    assert np.array_equal(fresh.fit(x, y, groups=client).predict_proba(x), classifier.predict_proba(x))


def test_the_strategy_is_an_artifact(classifier: MetaBayesClassifier, tmp_path: Any) -> None:
    classifier.strategy_.save(tmp_path / "strategy.safetensors")
    x, y, _ = blobs(seed=5)
    prediction = load(tmp_path / "strategy.safetensors").personalize(x[:10], ["0" if label == "cat" else "1" for label in y[:10]]).predict(x)
    assert np.allclose(prediction.probabilities, classifier.personalize(x[:10], y[:10]).predict_proba(x), atol=1e-3)
    assert classifier.n_iter_ == 40


def test_every_row_of_one_population_counts() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(59, 2)), np.array([0] * 56 + [7, 7, 7])  # the rare class must not be dealt away
    for state in range(3):
        model = MetaBayesClassifier(rounds=2, hidden=(4, 3), random_state=state).fit(x, y)
        assert model.predict_proba(x).shape == (59, 2)


def test_twelve_classes_keep_their_order() -> None:
    y = np.repeat(np.arange(12) * 10, 6)
    x = np.stack([np.cos(y / 20), np.sin(y / 20), y / 50], 1) * 5
    model = MetaBayesClassifier(rounds=5, hidden=(16, 12)).fit(x, y)
    assert model.classes_.tolist() == list(range(0, 120, 10))
    assert model.score(x, y) > 0.7  # far above the twelfth that mixed-up names would give


def test_what_cannot_be_is_refused(classifier: MetaBayesClassifier) -> None:
    x, y, client = blobs()
    with pytest.raises(SchemaError, match=r"labels \['cow'\] that training never saw"):
        classifier.personalize(x[:3], ["cat", "cow", "dog"])
    with pytest.raises(DataError, match="lengths differ"):
        MetaBayesClassifier(**FEW).fit(x, y, groups=client[:-1])
    with pytest.raises(ConfigError, match="rounds is 0, expected at least 1"):
        MetaBayesClassifier(rounds=0).fit(x, y, groups=client)
    with pytest.raises(DataError, match="fewer than 2 samples"):
        MetaBayesClassifier(**FEW).fit(x, y, groups=np.arange(len(y)))
    with pytest.raises(ValueError, match="one class"):
        MetaBayesClassifier(**FEW).fit(x, np.zeros(len(y)), groups=client)
