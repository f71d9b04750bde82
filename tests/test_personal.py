"""A client's own model: exact updates, exact files, decisions, units, and clear refusals."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabayfl import tree, tree_file
from metabayfl.artifact import load_strategy, save_posterior
from metabayfl.calibration import set_limits
from metabayfl.errors import ArtifactError, ConfigError, DataError, MetabayflError, SchemaError, StorageError
from metabayfl.personal import PersonalModel, PersonalStrategy, load, load_personal
from metabayfl.presentation import PersonalPrediction
from tiny import digits, patients

ALGORITHMS = ("meta_bayfl", "fedavg")


def loaded(study: Path, algorithm: str) -> PersonalStrategy:
    return load(study / "runs" / f"{algorithm}-seed0" / "strategy.safetensors")


def arrays(prediction: PersonalPrediction) -> dict[str, Any]:
    return {item.name: getattr(prediction, item.name) for item in dataclasses.fields(prediction)}


def same(a: PersonalPrediction, b: PersonalPrediction) -> bool:
    pairs = zip(arrays(a).values(), arrays(b).values(), strict=True)
    return all(x == y if isinstance(x, tuple) else np.array_equal(x, y) for x, y in pairs)


def close(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=0, atol=1e-6))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_update_equals_personalizing_on_all(digits_study: Path, algorithm: str) -> None:
    strategy, (x, y), (new, _) = loaded(digits_study, algorithm), digits(), digits(40, 60)
    first = strategy.personalize(x[:5], y[:5])
    step_by_step = first.update(x[5:6], y[5:6]).update(x[6:], y[6:])
    at_once = strategy.personalize(x, y)
    assert close(step_by_step.predict(new).probabilities, at_once.predict(new).probabilities)
    assert close(step_by_step.predict(new).epistemic, at_once.predict(new).epistemic)
    assert step_by_step.threshold == at_once.threshold
    assert len(first.support.mask) == 5
    assert not close(first.predict(new).probabilities, at_once.predict(new).probabilities) or algorithm == "fedavg"


def test_meta_bayfl_updates_by_its_statistics(digits_strategy: PersonalStrategy) -> None:
    (x, y), update = digits(), digits_strategy.algorithm.update
    assert update is not None
    updated = update(digits_strategy.personalize(x[:1], y[:1]).posterior, digits_strategy.personalize(x[1:], y[1:]).support)
    whole = tree.flatten(digits_strategy.personalize(x, y).posterior)
    for path, leaf in tree.flatten(updated).items():
        assert torch.allclose(leaf, whole[path], atol=1e-4, rtol=1e-5), path


def test_a_regression_updates_exactly_too(dose_strategy: PersonalStrategy) -> None:
    own, new = patients(seed=1).iloc[:14], patients(seed=1).iloc[14:20]
    step_by_step = dose_strategy.personalize(own[:6], own["dose"][:6]).update(own[6:], own["dose"][6:]).predict(new)
    at_once = dose_strategy.personalize(own, own["dose"]).predict(new)
    scale = dose_strategy.schema.target_scale[0]
    assert close(step_by_step.label / scale, at_once.label / scale)
    assert close(step_by_step.total / scale**2, at_once.total / scale**2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [1, 12])
def test_a_saved_model_predicts_the_same_to_the_bit(digits_study: Path, tmp_path: Path, algorithm: str, count: int) -> None:
    (x, y), (new, _) = digits(), digits(40, 60)
    model = loaded(digits_study, algorithm).personalize(x[:count], y[:count], refer_share=0.3, seed=4)
    model.save(tmp_path / "own.safetensors")
    again = load_personal(tmp_path / "own.safetensors")
    assert same(again.predict(new), model.predict(new))
    assert (again.threshold, again.refer_share, again.seed) == (model.threshold, 0.3, 4)
    assert same(again.update(x[count:], y[count:]).predict(new), model.update(x[count:], y[count:]).predict(new))


def test_a_loaded_regression_predicts_the_same_to_the_bit(dose_strategy: PersonalStrategy, tmp_path: Path) -> None:
    own = patients(seed=1).iloc[:14]
    model = dose_strategy.personalize(own, own["dose"])
    model.save(tmp_path / "own.safetensors")
    assert same(load_personal(tmp_path / "own.safetensors").predict(own), model.predict(own))


def test_a_prediction_in_the_clients_words(digits_strategy: PersonalStrategy) -> None:
    (x, y), (new, _) = digits(), digits(40, 60)
    prediction = digits_strategy.personalize(x, y).predict(new)
    assert prediction.classes == tuple("0123456789")
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == (20, 10)
    assert close(prediction.probabilities.sum(1), 1)
    assert prediction.label.tolist() == [prediction.classes[at] for at in prediction.probabilities.argmax(1)]
    assert close(prediction.total, prediction.aleatoric + prediction.epistemic)
    assert (prediction.total >= 0).all()
    assert (prediction.total <= math.log(10) + 1e-6).all()
    assert prediction.interval is None


def test_the_decision_goes_by_the_threshold(digits_strategy: PersonalStrategy) -> None:
    (x, y), (new, _) = digits(), digits(40, 60)
    model = digits_strategy.personalize(x, y)
    chosen = model.predict(new)
    assert chosen.threshold == model.threshold
    assert chosen.refer.tolist() == (chosen.total > np.float32(model.threshold)).tolist()
    middle = float(np.median(chosen.total))
    given = model.predict(new, threshold=middle)
    assert given.threshold == middle
    assert given.referred == int((chosen.total > middle).sum()) > 0
    assert model.predict(new, threshold=math.inf).referred == 0
    assert model.predict(new, threshold=-math.inf).referred == 20


def test_the_threshold_refers_the_share_that_was_asked_for(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    by_share = [digits_strategy.personalize(x, y, refer_share=share).threshold for share in (1.0, 0.5, 0.2, 0.0)]
    assert by_share == sorted(by_share)
    assert by_share[0] == -math.inf
    with pytest.raises(ConfigError, match="expected a number from 0 to 1"):
        digits_strategy.personalize(x, y, refer_share=1.5)


def uncalibrated(strategy: PersonalStrategy) -> PersonalStrategy:
    """The same without what other clients know."""
    return dataclasses.replace(strategy, strategy=dataclasses.replace(strategy.strategy, calibration={}))


def test_one_sample_and_no_other_client_refer_nothing_and_promise_nothing(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    model = uncalibrated(digits_strategy).personalize(x[:1], y[:1])
    assert model.threshold == math.inf
    prediction = model.predict(x, coverage=0.7)
    assert (prediction.referred, prediction.guaranteed) == (0, False)
    assert prediction.sets is not None
    assert prediction.probabilities is not None
    for probs, names in zip(prediction.probabilities, prediction.sets, strict=True):
        inside = [probs[prediction.classes.index(name)] for name in names]
        assert sum(inside) >= 0.7 > sum(inside[:-1])


def test_one_sample_leans_on_what_other_clients_saw(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    model = digits_strategy.personalize(x[:1], y[:1])
    assert math.isfinite(model.threshold)
    assert model.threshold == pytest.approx(float(digits_strategy.strategy.calibration["uncertainty"][79]), rel=0.05)


def test_sets_hold_what_is_as_probable_as_the_limit(digits_strategy: PersonalStrategy) -> None:
    (x, y), (new, _) = digits(), digits(40, 60)
    model = digits_strategy.personalize(x, y)
    assert model.predict(new).guaranteed
    for by in ("client", "class"):
        limits = set_limits(model.known, 0.8, by)
        prediction = model.predict(new, coverage=0.8, by=by)
        assert prediction.sets is not None
        assert prediction.probabilities is not None
        for probs, names, novel in zip(prediction.probabilities, prediction.sets, prediction.novel, strict=True):
            kept = [name for name, p, limit in zip(prediction.classes, probs, limits.tolist(), strict=True) if p >= limit or novel]
            assert sorted(names) == kept


def test_an_own_case_is_predicted_without_itself(digits_strategy: PersonalStrategy) -> None:
    """With as many samples as folds each fold is one sample: the model of the others, built anew."""
    (x, y), source = digits(0, 5), digits_strategy
    model = source.personalize(x, y)
    for row in range(5):
        others = [at for at in range(5) if at != row]
        alone = source.personalize(x[others], [y[at] for at in others]).predict(x[row : row + 1])
        assert alone.probabilities is not None
        given = alone.probabilities[0][alone.classes.index(y[row])]
        assert float(model.cases.conformity[row, 0]) == pytest.approx(float(given), abs=1e-5)
        assert float(model.cases.uncertainty[row]) == pytest.approx(float(alone.total[0]), abs=1e-4)


def test_a_novel_case_is_referred_and_may_be_anything(digits_strategy: PersonalStrategy) -> None:
    (x, y), (new, _) = digits(), digits(40, 60)
    model = digits_strategy.personalize(x, y, novelty_rate=0.9)
    prediction = model.predict(new, threshold=math.inf)
    assert 0 < prediction.novel.sum() < 20
    assert prediction.novel.tolist() == (prediction.epistemic > np.float32(model.limits[1])).tolist() == prediction.refer.tolist()
    assert prediction.sets is not None
    assert all(len(names) == 10 for names, novel in zip(prediction.sets, prediction.novel, strict=True) if novel)


def test_the_least_certain_of_these_inputs_are_referred_where_a_share_of_them_is_wanted(digits_strategy: PersonalStrategy) -> None:
    (x, y), (new, _) = digits(), digits(40, 60)
    prediction = digits_strategy.personalize(x, y, novelty_rate=0.001).predict(new, refer_share=0.25)
    assert prediction.referred == 5
    assert prediction.total[prediction.refer].min() > prediction.total[~prediction.refer].max()


def test_a_wanted_error_sets_the_threshold_by_the_risk(digits_strategy: PersonalStrategy, dose_strategy: PersonalStrategy) -> None:
    x, y = digits()
    by_error = [digits_strategy.personalize(x, y, refer_error=error).threshold for error in (0.5, 0.2, 0.08)]
    assert by_error == sorted(by_error, reverse=True)
    own = patients(seed=1).iloc[:10]
    with pytest.raises(ConfigError, match="give refer_share"):
        dose_strategy.personalize(own, own["dose"], refer_error=0.1)
    for wanted in ({"refer_error": 0.0}, {"novelty_rate": 1.0}):
        with pytest.raises(ConfigError, match="expected a number between 0 and 1"):
            digits_strategy.personalize(x, y, **wanted)


def test_an_interval_has_the_mass_that_the_limits_leave(dose_strategy: PersonalStrategy) -> None:
    own, new = patients(seed=1).iloc[:10], patients(seed=1).iloc[10:14]
    model = dose_strategy.personalize(own, own["dose"])
    narrow, wide = (model.predict(new, coverage=level).interval for level in (0.5, 0.8))
    assert narrow is not None
    assert wide is not None
    assert ((wide[..., 1] - wide[..., 0]) > (narrow[..., 1] - narrow[..., 0])).all()


def test_a_regression_speaks_in_the_targets_unit(dose_strategy: PersonalStrategy) -> None:
    own, new = patients(seed=1).iloc[:10], patients(seed=1).iloc[10:14]
    prediction = dose_strategy.personalize(own, own["dose"]).predict(new)
    assert prediction.probabilities is None
    assert prediction.classes == ("dose",)
    assert prediction.label.shape == (4, 1)
    assert 50 < prediction.label.mean() < 400
    assert prediction.interval is not None
    assert prediction.interval.shape == (4, 1, 2)
    assert (prediction.interval[..., 0] < prediction.label).all()
    assert np.allclose(prediction.interval.mean(-1), prediction.label)
    half = (prediction.interval[..., 1] - prediction.interval[..., 0]) / 2
    assert (half > 1.2 * np.sqrt(prediction.total)).all()  # a Gaussian's 1.64, less for a Student-t of few degrees of freedom
    assert np.allclose(prediction.total, prediction.aleatoric + prediction.epistemic, rtol=1e-4)


def test_more_samples_leave_less_to_know(dose_strategy: PersonalStrategy) -> None:
    own, new = patients(seed=1).iloc[:14], patients(seed=1).iloc[14:]
    few, many = (dose_strategy.personalize(own[:count], own["dose"][:count]).predict(new) for count in (2, 14))
    assert (many.epistemic / many.total).mean() < (few.epistemic / few.total).mean()


def test_no_row_gives_no_prediction(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    prediction = digits_strategy.personalize(x, y).predict(x[:0])
    assert (len(prediction.label), prediction.referred) == (0, 0)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (digits()[0][:0], [], DataError, "no sample to personalise on"),
        (digits()[0], digits()[1][:-1], SchemaError, "30 inputs with 29 targets"),
        (digits()[0], ["zero"] * 30, SchemaError, "given class 'zero' in row 0, expected one of 0, 1"),
        (digits()[0] / 16, digits()[1], SchemaError, "expected the training range 0..16"),
        (digits()[0] * 1000, digits()[1], SchemaError, "expected the training range 0..16"),
        (digits()[0].astype(str), digits()[1], SchemaError, "given values of type <U"),
        (digits()[0][:, :7], digits()[1], SchemaError, "given shape"),
        (np.where(digits()[0] > 15, np.nan, digits()[0]), digits()[1], SchemaError, "NaN or infinite"),
        (patients(), digits()[1], SchemaError, "given values of type object"),
    ],
)
def test_samples_that_do_not_fit_are_refused(digits_strategy: PersonalStrategy, x: Any, y: Any, error: type[MetabayflError], message: str) -> None:
    with pytest.raises(error, match=message):
        digits_strategy.personalize(x, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": ["old"] * 14}, "feature 'age': given text 'old' in row 0, expected a number"),
        ({"age": [1e5] * 14}, "feature 'age': .* training standard deviations .* Is it in another unit"),
        ({"age": [math.inf] * 14}, "feature 'age': 14 infinite values"),
        ({"sex": [3] * 14}, "feature 'sex': given the number 3 in row 0"),
        ({"dose": [math.nan] * 14}, "expected 1 finite numbers a row: dose"),
        ({"dose": ["much"] * 14}, "target dose: .* expected numbers"),
    ],
)
def test_columns_that_do_not_fit_are_refused(dose_strategy: PersonalStrategy, change: dict[str, Any], message: str) -> None:
    own = patients(seed=1).iloc[:14].assign(**change)
    with pytest.raises(SchemaError, match=message):
        dose_strategy.personalize(own, own["dose"])
    with pytest.raises(SchemaError, match="feature 'age' is missing"):
        dose_strategy.personalize(own.drop(columns="age"), own["dose"])


def damage(data: bytes) -> dict[str, bytes]:
    middle = len(data) // 2
    return {"cut short": data[:middle], "altered": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "empty": b"", "other": b"x" * 999}


@pytest.mark.parametrize("kind", ["cut short", "altered", "empty", "other"])
def test_damaged_files_are_refused(digits_study: Path, tmp_path: Path, kind: str) -> None:
    strategy, (x, y), own = digits_study / "strategy.safetensors", digits(), tmp_path / "own.safetensors"
    load(strategy).personalize(x, y).save(own)
    for path, read in ((strategy, load), (own, load_personal)):
        (tmp_path / "bad").write_bytes(damage(path.read_bytes())[kind])
        with pytest.raises(ArtifactError, match="bad"):
            read(tmp_path / "bad")


def test_another_version_another_kind_and_no_file_are_refused(digits_study: Path, tmp_path: Path) -> None:
    value, about = tree_file.load_tree(digits_study / "strategy.safetensors", kind="strategy")
    tree_file.save_tree(tmp_path / "new", value, {**about, "version": 99}, kind="strategy")
    with pytest.raises(ArtifactError, match="version 99, this library reads 1"):
        load(tmp_path / "new")
    with pytest.raises(ArtifactError, match="is a 'strategy', expected a 'posterior'"):
        load_personal(digits_study / "strategy.safetensors")
    with pytest.raises(ArtifactError, match="there is no file"):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    "spec", [{}, {"algorithm": "newest"}, {"arguments": {"speed": 3}}, {"model": {"name": "net"}}, {"model": None}, {"schema": {}}]
)
def test_a_specification_of_the_future_is_refused(digits_study: Path, tmp_path: Path, spec: dict[str, Any]) -> None:
    strategy = load_strategy(digits_study / "strategy.safetensors")
    changed = (
        dataclasses.replace(strategy, **spec) if "schema" in spec else dataclasses.replace(strategy, spec={**strategy.spec, **spec} if spec else {})
    )
    changed.save(tmp_path / "s")
    with pytest.raises(ArtifactError, match="another version"):
        load(tmp_path / "s")


def test_numbers_that_do_not_fit_their_specification_are_refused(digits_study: Path, tmp_path: Path) -> None:
    strategy = load_strategy(digits_study / "strategy.safetensors")
    dataclasses.replace(strategy, spec={**strategy.spec, "model": {"name": "mlp", "hidden": [16, 9]}}).save(tmp_path / "s")
    with pytest.raises(ArtifactError, match="does not fit this algorithm and model"):
        load(tmp_path / "s")


def test_a_posterior_without_its_support_is_refused(digits_strategy: PersonalStrategy, tmp_path: Path) -> None:
    save_posterior(tmp_path / "p", {"posterior": {"w": torch.zeros(2)}}, digits_strategy.strategy, {})
    with pytest.raises(ArtifactError, match="without its support"):
        load_personal(tmp_path / "p")


def test_a_model_that_cannot_be_written_says_so(digits_strategy: PersonalStrategy, tmp_path: Path) -> None:
    x, y = digits()
    model: PersonalModel = digits_strategy.personalize(x, y)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="could not write"):
        model.save(tmp_path / "file" / "own")
