"""Held-out clients: what is kept of them, and that it depends on nothing it should not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_clients import class_clients, class_schema, level, nearest, regression_clients, regression_schema

from metabayfl import compression, random, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Clients, in_memory
from metabayfl.errors import DataError
from metabayfl.evaluation import evaluate, heldout, summarise, timings, validation_loss
from metabayfl.evaluation.scores import HeldOut, class_scores, draw_unseen, regression_scores, some
from metabayfl.models import mlp
from metabayfl.types import Codec

KEY = random.key(7)
HELD = [[0, 1], [1, 2], [2, 3]]


def clients(seed: int = 0, held: list[list[int]] | None = None) -> Clients:
    return class_clients(np.random.default_rng(seed), HELD if held is None else held)


def run(group: Clients, **options: object) -> HeldOut:
    method = nearest()
    return evaluate(method, method.init(KEY), group, class_schema(), KEY, **options)  # type: ignore[arg-type]


def test_test_samples_are_kept_and_support_is_not() -> None:
    held = class_scores(run(clients()))
    assert [scores.client for scores in held] == ["client 0", "client 1", "client 2"]
    for scores, classes in zip(held, HELD, strict=True):
        assert scores.support == 12
        assert scores.probs.shape == (10, 4)
        assert np.flatnonzero(scores.seen).tolist() == classes
        assert set(scores.y.tolist()) == set(classes)
        assert scores.probs.sum(-1) == pytest.approx(1.0)
        assert scores.total == pytest.approx(scores.aleatoric + scores.epistemic)


def test_unseen_examples_come_from_all_clients_and_miss_the_support() -> None:
    held = class_scores(run(clients()))
    # client 0 knows 0 and 1: of the 30 test samples 5 + 10 are of class 2 or 3
    assert [len(scores.unseen_total) for scores in held] == [15, 10, 15]


def test_unseen_examples_are_capped_by_seed() -> None:
    held = class_scores(run(clients(), unseen_cap=4))
    assert [len(scores.unseen_total) for scores in held] == [4, 4, 4]
    again = class_scores(run(clients(), unseen_cap=4))
    assert all((one.unseen_total == two.unseen_total).all() for one, two in zip(held, again, strict=True))


def test_the_pool_is_bounded() -> None:
    held = class_scores(run(clients(), pool_cap=6))  # two rows a client
    assert all(len(scores.unseen_total) <= 6 for scores in held)


def test_own_test_samples_of_a_missing_class_are_positives_not_negatives() -> None:
    x = np.array([[0.0], [0.0], [1.0], [0.0]], np.float32)
    group = in_memory(["a"], [(x, np.array([0, 0, 1, 0]))], [2])
    (scores,) = class_scores(run(group))
    assert len(scores.unseen_total) == 1
    assert scores.seen[scores.y].tolist() == [False, True]


def test_every_class_seen_leaves_no_positive() -> None:
    held = run(clients(held=[[0, 1, 2, 3]]))
    assert len(class_scores(held)[0].unseen_total) == 0
    assert summarise(held)["auroc_unseen"] is None


def test_fewer_support_samples_change_the_model_but_not_the_test() -> None:
    whole, part = class_scores(run(clients())), class_scores(run(clients(), support=1))
    assert [scores.support for scores in part] == [1, 1, 1]
    assert [int(scores.seen.sum()) for scores in part] == [1, 1, 1]
    for one, two in zip(whole, part, strict=True):
        assert (one.y == two.y).all()
        assert not np.allclose(one.probs, two.probs)
    assert (class_scores(run(clients(), support=99))[0].probs == whole[0].probs).all()


def test_no_support_at_all_is_zero_shot() -> None:
    held = class_scores(run(clients(), support=0))
    assert all(scores.support == 0 and not scores.seen.any() for scores in held)
    assert all(np.isfinite(scores.probs).all() for scores in held)


def test_the_order_of_clients_changes_nothing() -> None:
    group = clients()
    turned = Clients(group.ids[::-1], group.sizes[::-1], group.support[::-1], lambda at: group.read(len(group.ids) - 1 - at))
    one = {scores.client: scores for scores in class_scores(run(group))}
    two = {scores.client: scores for scores in class_scores(run(turned))}
    for name in one:
        assert (one[name].probs == two[name].probs).all()
        assert sorted(one[name].unseen_total) == sorted(two[name].unseen_total)


def test_the_strategy_arrives_as_the_client_gets_it() -> None:
    lossy = Codec("shift", lambda value, key: tree.map(lambda leaf: leaf + 1.0, value), compression.exact().encode, compression.exact().decode)
    plain, shifted = nearest(), nearest(codec=lossy)
    good = summarise(evaluate(plain, plain.init(KEY), clients(), class_schema(), KEY))
    bad = summarise(evaluate(shifted, shifted.init(KEY), clients(), class_schema(), KEY))
    assert good["accuracy"] == 1.0
    assert bad["accuracy"] is not None
    assert bad["accuracy"] < 0.6


def test_long_tests_are_predicted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = class_scores(run(clients()))
    monkeypatch.setattr(heldout, "ROWS", 3)
    pieces = class_scores(run(clients()))
    assert all(np.allclose(one.probs, two.probs) for one, two in zip(whole, pieces, strict=True))


def test_regression_is_scored_in_the_targets_unit() -> None:
    group = regression_clients(np.random.default_rng(0), [-1.0, 2.0], test=2000)
    method = level()
    held = evaluate(method, method.init(KEY), group, regression_schema(100.0, 10.0), KEY)
    figures = summarise(held)
    plain = summarise(evaluate(method, method.init(KEY), group, regression_schema(0.0, 1.0), KEY))
    assert regression_scores(held)[1].y.mean() == pytest.approx(120.0, abs=2.0)
    assert {name: round(value or 0.0, 6) for name, value in figures.items()} == {
        "rmse": round(10 * (plain["rmse"] or 0), 6),
        "nll": round((plain["nll"] or 0) + math.log(10), 6),
        "crps": round(10 * (plain["crps"] or 0), 6),
        "coverage_90": round(plain["coverage_90"] or 0, 6),
    }


@pytest.mark.parametrize("chunk", [1, 2, 16])
def test_validation_loss_is_the_nll_after_adapting(chunk: int) -> None:
    group = class_clients(np.random.default_rng(3), HELD, support=7)
    ragged = Clients(
        group.ids, group.sizes - np.array([0, 3, 1]), group.support, lambda at: tuple(part[: 17 - (0, 3, 1)[at]] for part in group.read(at))
    )
    method = nearest()
    meta = method.init(KEY)
    by_hand = summarise(evaluate(method, meta, ragged, class_schema(), KEY))["nll"]
    assert validation_loss(method, meta, ragged, KEY, chunk=chunk) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("name", ["fedavg", "fedavg_ft", "meta_bayfl"])
def test_real_algorithms_agree_one_by_one_and_side_by_side(name: str) -> None:
    group = class_clients(np.random.default_rng(3), HELD, support=7)
    method = ALGORITHMS[name](mlp((1,), 4, hidden=(8, 8)))
    meta = method.init(KEY)
    held = class_scores(evaluate(method, meta, group, class_schema(), KEY))
    by_hand = summarise(HeldOut(name, "classification", class_schema().classes, tuple(held)))["nll"]
    assert held[0].probs.sum(-1) == pytest.approx(1.0, abs=1e-5)
    # Meta-BayFL draws its uncertainty from the key, not its probabilities below 20 samples
    assert validation_loss(method, meta, group, KEY, chunk=2) == pytest.approx(by_hand, rel=1e-4)


def test_validation_loss_of_a_regression_and_of_some_rows() -> None:
    group = regression_clients(np.random.default_rng(0), [0.0, 1.0])
    method = level()
    by_hand = summarise(evaluate(method, method.init(KEY), group, regression_schema(0.0, 1.0), KEY))["nll"]
    assert by_hand is not None
    assert validation_loss(method, method.init(KEY), group, KEY, rows=1000) == pytest.approx(by_hand, rel=1e-5)
    some_rows = validation_loss(method, method.init(KEY), group, KEY, rows=50)
    assert some_rows == pytest.approx(by_hand, rel=0.2)
    assert some_rows == validation_loss(method, method.init(KEY), group, KEY, rows=50)


def test_timings_are_medians_of_wall_time() -> None:
    method = nearest()
    found = timings(method, method.init(KEY), clients(), KEY, most=2)
    assert 0 < found.adapt_ms < 10_000
    assert 0 < found.predict_ms < 10_000


def test_a_client_without_a_test_sample_is_refused() -> None:
    group = clients()
    with pytest.raises(DataError, match=r"'client 0' has 22 samples and 22 of them are support"):
        run(group._replace(support=group.sizes))
    with pytest.raises(DataError, match="no client"):
        run(Clients((), np.zeros(0, np.int64), np.zeros(0, np.int64), group.read))


def test_scores_of_one_kind_are_not_taken_for_the_other() -> None:
    held = run(clients())
    with pytest.raises(DataError, match="classification"):
        regression_scores(held)
    method = level()
    regression = evaluate(method, method.init(KEY), regression_clients(np.random.default_rng(0), [0.0]), regression_schema(0.0, 1.0), KEY)
    with pytest.raises(DataError, match="regression"):
        class_scores(regression)


def test_draws_are_without_replacement_and_exhaustive() -> None:
    assert some(KEY, 5, 9).tolist() == [0, 1, 2, 3, 4]
    drawn = some(KEY, 100, 10)
    assert len(set(drawn.tolist())) == 10
    assert drawn.tolist() == sorted(drawn.tolist())
    pool = heldout.Pool(np.arange(6, dtype=np.float32)[:, None], np.array([0, 1, 2, 0, 1, 2]))
    found = draw_unseen(pool, np.array([True, False, True]), KEY, 9)
    assert found.ravel().tolist() == [1.0, 4.0]


def test_nothing_touches_the_global_generators() -> None:
    before = torch.get_rng_state()
    state = np.random.get_state()[1]
    run(clients(), unseen_cap=3, pool_cap=9)
    assert (torch.get_rng_state() == before).all()
    assert (np.random.get_state()[1] == state).all()
