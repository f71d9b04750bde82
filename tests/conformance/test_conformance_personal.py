"""What every ``adapt`` and ``predict`` must do, whatever the method."""

from __future__ import annotations

import math

import pytest
import torch
from battery import CASES, KINDS, adapted, assert_close, assert_finite, build, case, posterior, supports

from metabayfl import compression, random, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.algorithms.preparation import prepare
from metabayfl.errors import ModelError
from metabayfl.types import Batch, ClassPrediction, Prediction, RegressionPrediction
from scenarios import CLASSES, TARGETS, client, padded

KEY = random.key(5)


def prediction(name: str, kind: str) -> Prediction:
    one = case(name, kind)
    return one.algorithm.predict(posterior(name, kind), client(one.tasks, 0).query.x, KEY)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_kind_of_model_is_taken_or_refused_by_name(name: str, kind: str) -> None:
    if supports(name, kind):
        assert (build(name, kind).name, build(name, kind).model.kind) == (name, kind)
    else:
        with pytest.raises(ModelError, match=kind):
            build(name, kind)


@pytest.mark.parametrize("name, kind", CASES)
def test_vectorised_personalisation_equals_one_client_at_a_time(name: str, kind: str) -> None:
    one = case(name, kind)

    def personal(support: Batch, x: torch.Tensor, key: torch.Tensor) -> Prediction:
        return one.algorithm.predict(one.algorithm.adapt(one.meta, support, key), x, KEY)

    together = torch.func.vmap(personal)(one.tasks.support, one.tasks.query.x, one.keys)
    for row in range(2):
        task = client(one.tasks, row)
        alone = one.algorithm.predict(adapted(one, task.support, row), task.query.x, KEY)
        assert_close(type(alone)(*(field[row] for field in together)), alone)


@pytest.mark.parametrize("extra", [0, 3])
@pytest.mark.parametrize("name, kind", CASES)
def test_huge_padded_support_rows_change_no_prediction(name: str, kind: str, extra: int) -> None:
    one = case(name, kind)
    for row in range(2):
        task = client(one.tasks, row)
        real = Batch(*(part[task.support.mask > 0] for part in task.support))
        posteriors = [adapted(one, support, row) for support in (padded(task.support, extra), real)]
        assert_close(*(one.algorithm.predict(personal, task.query.x, KEY) for personal in posteriors))


@pytest.mark.parametrize("name, kind", CASES)
def test_same_key_same_posterior_and_inputs_stay_as_they_are(name: str, kind: str) -> None:
    one, support = case(name, kind), client(case(name, kind).tasks, 0).support
    before = tree.map(torch.clone, one.meta), Batch(*(part.clone() for part in support))
    assert_close(adapted(one, support, 0), posterior(name, kind), tolerance=0.0)
    kept = tree.map(torch.clone, posterior(name, kind))
    assert_close(prediction(name, kind), prediction(name, kind), tolerance=0.0)
    assert_close((one.meta, support, posterior(name, kind)), (*before, kept), tolerance=0.0)


@pytest.mark.parametrize("name, kind", CASES)
def test_posterior_is_a_tree_that_can_be_stored(name: str, kind: str) -> None:
    codec, personal = compression.exact(), posterior(name, kind)
    assert_finite(personal)
    restored = codec.decode(codec.encode(personal, None), personal)
    x = client(case(name, kind).tasks, 0).query.x
    assert_close(case(name, kind).algorithm.predict(restored, x, KEY), prediction(name, kind), tolerance=0.0)


@pytest.mark.parametrize("name, kind", CASES)
def test_a_prepared_posterior_answers_as_predict_does(name: str, kind: str) -> None:
    prepared = prepare(case(name, kind).algorithm, posterior(name, kind), KEY)
    x = client(case(name, kind).tasks, 0).query.x
    assert_close(prepared.answer(prepared.constants, x), prediction(name, kind), tolerance=0.0)


@pytest.mark.parametrize("name, kind", CASES)
def test_prediction_without_any_support_is_finite(name: str, kind: str) -> None:
    one, task = case(name, kind), client(case(name, kind).tasks, 0)
    nothing = adapted(one, task.support._replace(mask=torch.zeros_like(task.support.mask)), 0)
    first = one.algorithm.predict(nothing, task.query.x, KEY)[0]
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "classification"])
def test_class_probabilities_and_the_split_add_up(name: str) -> None:
    out = prediction(name, "classification")
    assert isinstance(out, ClassPrediction)
    assert out.probs.shape == (6, CLASSES)
    assert ((out.probs >= 0) & (out.probs <= 1)).all()
    assert_close(out.probs.sum(-1), torch.ones(6).double())
    assert_close(out.total, out.aleatoric + out.epistemic)
    assert all(((part >= 0) & (part <= math.log(CLASSES) + 1e-12)).all() for part in out[1:])


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "regression"])
def test_variances_are_positive_and_the_split_adds_up(name: str) -> None:
    out = prediction(name, "regression")
    assert isinstance(out, RegressionPrediction)
    assert all(field.shape == (6, TARGETS) for field in out)
    assert torch.isfinite(out.mean).all()
    assert ((out.scale > 0) & torch.isfinite(out.scale) & (out.dof > 0)).all()
    assert ((out.aleatoric > 0) & (out.epistemic >= 0) & torch.isfinite(out.total)).all()
    assert_close(out.total, out.aleatoric + out.epistemic)


@pytest.mark.parametrize("name, kind", CASES)
def test_single_precision_stays_single(name: str, kind: str) -> None:
    one, task = case(name, kind), client(case(name, kind).tasks, 0)
    support = Batch(*(part.float() if part.is_floating_point() else part for part in task.support))
    personal = one.algorithm.adapt(tree.to(one.meta, torch.float32), support, one.keys[0])
    out = one.algorithm.predict(personal, task.query.x.float(), KEY)
    assert all(field.dtype == torch.float32 for field in out)
    assert torch.isfinite(out[0]).all()
