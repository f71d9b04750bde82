"""A personal model that lives on: forgetting is exact, survives its file, and an alarm leads to a restart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabayfl import change_point, continual, random, tree
from metabayfl.artifact import load_posterior, save_posterior
from metabayfl.change_point import Change
from metabayfl.errors import ArtifactError, ConfigError
from metabayfl.heads.forgetting import RETENTIONS
from metabayfl.personal import PersonalModel, PersonalStrategy, load, load_personal
from tiny import digits, patients


def close(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=0, atol=1e-6))


def same_bits(one: PersonalModel, other: PersonalModel, atol: float = 0.0) -> bool:
    left, right = tree.flatten(one.posterior), tree.flatten(other.posterior)
    return left.keys() == right.keys() and all(torch.allclose(leaf, right[path], rtol=atol, atol=atol) for path, leaf in left.items())


def swapped(y: list[str]) -> list[str]:
    """Every digit named by its opposite: nothing of the past holds."""
    return [str(9 - int(name)) for name in y]


@pytest.mark.parametrize("retention", [1.0, 0.8])
def test_forgetting_equals_adapting_with_the_weights(digits_strategy: PersonalStrategy, retention: float) -> None:
    x, y = digits()
    model = digits_strategy.personalize(x[:5], y[:5]).with_forgetting(retention).update(x[5:6], y[5:6]).update(x[6:], y[6:])
    weights = torch.tensor([retention**age for age in range(29, -1, -1)])
    assert torch.allclose(model.support.mask, weights, rtol=1e-5)
    algorithm, meta = digits_strategy.algorithm, digits_strategy.strategy.meta
    refitted = algorithm.adapt(algorithm.down.round_trip(meta, None), model.support, random.fold(random.key(0), "adapt"))
    for path, leaf in tree.flatten(refitted).items():
        assert torch.allclose(tree.flatten(model.posterior)[path], leaf, rtol=1e-4, atol=1e-4), path


def test_a_retention_of_one_forgets_nothing(digits_strategy: PersonalStrategy) -> None:
    (x, y), (new, _) = digits(), digits(40, 60)
    plain = digits_strategy.personalize(x, y)
    kept = digits_strategy.personalize(x[:9], y[:9]).with_forgetting(1.0).update(x[9:], y[9:])
    assert np.array_equal(kept.predict(new).probabilities, plain.predict(new).probabilities)
    assert kept.threshold == plain.threshold


def test_a_stream_in_pieces_is_the_stream_at_once(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    pieces = digits_strategy.personalize(x[:4], y[:4]).with_forgetting()
    for row in range(4, 12):
        pieces = pieces.update(x[row : row + 1], y[row : row + 1])
    at_once = digits_strategy.personalize(x[:12], y[:12]).with_forgetting()
    assert same_bits(pieces, at_once, atol=1e-5)
    assert pieces.change.cases == 8


def test_a_regression_forgets_exactly_too(dose_strategy: PersonalStrategy) -> None:
    own = patients(seed=1).iloc[:14]
    model = dose_strategy.personalize(own[:6], own["dose"][:6]).with_forgetting(0.7).update(own[6:], own["dose"][6:])
    assert close(model.support.mask, [0.7**age for age in range(13, -1, -1)])
    statistics = model.posterior["statistics"]
    assert math.isclose(float(statistics["count"]), sum(0.7**age for age in range(14)), rel_tol=1e-6)
    for name, past in model.posterior["stream"]["statistics"].items():
        assert torch.allclose(past[0], statistics[name], rtol=1e-5, atol=1e-5), name


def test_by_evidence_a_changed_client_forgets_its_past(trained_digits: PersonalStrategy) -> None:
    x, y = digits(0, 120)
    model = trained_digits.personalize(x[:60], y[:60]).with_forgetting("evidence")
    changed = model.update(x[60:110], swapped(y[60:110]))
    assert changed.retention in RETENTIONS[1:]
    keeping = trained_digits.personalize(x[:60], y[:60]).update(x[60:110], swapped(y[60:110]))
    assert keeping.retention == 1
    truth = np.array(swapped(y[110:]))
    assert (changed.predict(x[110:]).label == truth).mean() > (keeping.predict(x[110:]).label == truth).mean()


def test_forgetting_can_be_switched_off_again(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    plain = digits_strategy.personalize(x, y)
    assert same_bits(plain.with_forgetting(0.5).with_forgetting(None), plain)
    assert plain.with_forgetting(0.5).with_forgetting(0.9).posterior["stream"]["retention"].tolist() == pytest.approx([0.9])


def test_an_update_without_forgetting_drops_the_stream(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    model = digits_strategy.personalize(x[:9], y[:9]).with_forgetting()
    update = digits_strategy.algorithm.update
    assert update is not None
    assert "stream" not in update(model.posterior, digits_strategy.personalize(x[9:], y[9:]).support)


@pytest.mark.parametrize("forgetting", ["evidence", 0.9, None])
def test_a_saved_stream_goes_on_to_the_bit(digits_strategy: PersonalStrategy, tmp_path: Path, forgetting: Any) -> None:
    x, y = digits()
    model = digits_strategy.personalize(x[:9], y[:9]).with_forgetting(forgetting).watch(50).update(x[9:15], swapped(y[9:15]))
    model.save(tmp_path / "own")
    again = load_personal(tmp_path / "own")
    assert (again.forgetting, again.change, again.alarm) == (forgetting, model.change, model.alarm)
    assert again.change.cases == 6
    one, other = again.update(x[15:], y[15:]), model.update(x[15:], y[15:])
    assert same_bits(one, other)
    assert one.change == other.change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"change": [1000.0, 1, 0.0, 0.0]}, "no state of a change detector"),
        ({"change": [1000.0, 1, math.e, 0.0, 2]}, "no state of a change detector"),
        ({"change": [0.0, 1, 0.0, 0.0, 0]}, "no state of a change detector"),
        ({"change": [1000.0, True, 0.0, 0.0, 0]}, "no state of a change detector"),
        ({"change": "none"}, "no state of a change detector"),
        ({"forgetting": "fast"}, "expected 'evidence', None, or a retention"),
        ({"forgetting": 7.0}, "expected 'evidence', None, or a retention"),
    ],
)
def test_a_file_that_says_nonsense_is_refused(digits_strategy: PersonalStrategy, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    x, y = digits()
    digits_strategy.personalize(x, y).save(tmp_path / "own")
    value, strategy, about = load_posterior(tmp_path / "own")
    save_posterior(tmp_path / "own", value, strategy, {**about, **changes})
    with pytest.raises(ArtifactError, match=message):
        load_personal(tmp_path / "own")


def test_the_alarm_rings_after_a_change_and_a_restart_mends_it(trained_digits: PersonalStrategy) -> None:
    x, y = digits(0, 300)
    model = trained_digits.personalize(x[:60], y[:60])
    for row in range(60, 100, 4):
        model = model.update(x[row : row + 4], y[row : row + 4])
    assert not model.alarm
    wrong = swapped(y)
    for row in range(100, 160, 4):
        model = model.update(x[row : row + 4], wrong[row : row + 4])
    assert model.alarm
    assert model.change.cases == 100
    assert 20 <= model.change.start <= 50  # 40 cases were as before
    fresh = model.restart()
    assert len(fresh.support.mask) == 100 - model.change.start
    assert (fresh.alarm, fresh.change) == (False, Change())
    kept = slice(160 - len(fresh.support.mask), 160)
    assert same_bits(fresh, trained_digits.personalize(x[kept], (y[:100] + wrong[100:])[kept]), atol=1e-5)
    truth = np.array(wrong[160:300])
    assert (fresh.predict(x[160:300]).label == truth).mean() > (model.predict(x[160:300]).label == truth).mean()


def test_an_alarm_is_what_the_detector_says_of_predictions_before_their_labels(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    model = digits_strategy.personalize(x[:10], y[:10])
    new = torch.from_numpy(digits_strategy.schema.encode(x[10:])), torch.from_numpy(digits_strategy.schema.encode_targets(y[10:]))
    key = random.fold(random.key(0), "predict")
    own = digits_strategy.algorithm.predict(model.posterior, new[0], key)
    received = digits_strategy.algorithm.down.round_trip(digits_strategy.strategy.meta, None)
    alone = digits_strategy.algorithm.adapt(received, continual.nobody(digits_strategy.schema), random.fold(random.key(0), "adapt"))
    expected = change_point.follow(Change(), own, digits_strategy.algorithm.predict(alone, new[0], key), new[1])
    assert model.update(x[10:], y[10:]).change == expected


def test_a_restart_keeps_what_it_is_told(digits_strategy: PersonalStrategy) -> None:
    x, y = digits()
    model = digits_strategy.personalize(x, y, refer_share=0.4, seed=3).with_forgetting(0.9).watch(77)
    fresh = model.restart(keep=12)
    expected = digits_strategy.personalize(x[18:], y[18:], refer_share=0.4, seed=3).with_forgetting(0.9).watch(77)
    assert same_bits(fresh, expected)
    for name in ("threshold", "refer_share", "seed", "forgetting", "change"):
        assert getattr(fresh, name) == getattr(expected, name), name
    for keep in (0, 31, True, 2.0):
        with pytest.raises(ConfigError, match="expected a whole number of samples from 1 to 30"):
            model.restart(keep=keep)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there is no alarm"):
        model.restart()


@pytest.mark.parametrize("forgetting", [0.0, 1.1, math.nan, True, "fast", [0.9]])
def test_other_forms_of_forgetting_are_refused(digits_strategy: PersonalStrategy, forgetting: Any) -> None:
    x, y = digits()
    with pytest.raises(ConfigError, match="expected 'evidence', None, or a retention above 0 and at most 1"):
        digits_strategy.personalize(x, y).with_forgetting(forgetting)


def test_an_algorithm_without_a_conjugate_head_cannot_forget_and_still_has_an_alarm(digits_study: Path) -> None:
    x, y = digits()
    model = load(digits_study / "runs" / "fedavg-seed0" / "strategy.safetensors").personalize(x[:5], y[:5])
    with pytest.raises(ConfigError, match="fedavg has no posterior in closed form that could forget: use meta_bayfl"):
        model.with_forgetting()
    assert model.with_forgetting(None).update(x[5:], y[5:]).change.cases == 25
    assert len(model.restart(keep=2).support.mask) == 2
