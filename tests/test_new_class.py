"""A class that the federation never saw: old odds stay, few samples are enough, and files carry it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from metabayfl import tree
from metabayfl.artifact import Strategy
from metabayfl.errors import ConfigError, SchemaError
from metabayfl.heads.conjugate_classification import kappa, no_data, posterior, zero_shot
from metabayfl.new_class import row_more, with_class
from metabayfl.personal import PersonalStrategy, load, load_personal, rebuild
from tiny import digits


@pytest.fixture(scope="module")
def nine(trained_digits: PersonalStrategy) -> PersonalStrategy:
    """The strategy of all ten digits, without its row for the 9."""
    whole = trained_digits.strategy
    head = {name: leaf[:9] if name in ("mu0", "k_C", "log_a") else leaf for name, leaf in whole.meta["head"].items()}
    schema = dataclasses.replace(trained_digits.schema, classes=trained_digits.schema.classes[:9])
    return rebuild(Strategy(whole.spec, {**whole.meta, "head": head}, schema.to_json(), whole.provenance, whole.figures, whole.codec))


def prior() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    leaves = {"mu0": (4, 3), "k": (), "k_M": (3,), "k_C": (4,), "log_a": (4,), "eta": (), "log_t": ()}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in leaves.items()}


def test_the_new_row_is_one_more_draw_of_the_class_means() -> None:
    before, after = prior(), row_more(prior())
    torch.testing.assert_close(after["mu0"][-1], before["mu0"].mean(0))
    t = before["log_t"].exp()
    around = ((before["mu0"] - before["mu0"].mean(0)) ** 2).sum(0) / 3
    own = (1 / (t * kappa(before))).mean(0)
    wanted, given = torch.log(around + own), -torch.log(t * kappa(after)[-1])
    torch.testing.assert_close(given.mean(), wanted.mean())
    assert (given[0] - given[1]) == pytest.approx(float(before["k_M"][1] - before["k_M"][0]))


def test_old_rows_and_their_odds_stay() -> None:
    before, after, features = prior(), row_more(prior()), torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name in ("mu0", "k_C", "log_a"):
        assert torch.equal(after[name][:-1], before[name])
    odds = torch.log_softmax(zero_shot(after, features)[:, :-1], -1)
    torch.testing.assert_close(odds, zero_shot(before, features), rtol=1e-12, atol=1e-12)
    assert posterior(after, no_data(after))["mean"].shape == (5, 3)


def test_with_a_vanishing_share_old_probabilities_are_as_before(nine: PersonalStrategy) -> None:
    x, y = digits(0, 200)
    old = [at for at, name in enumerate(y) if name != "9"]
    x, y = x[old], [y[at] for at in old]
    ten = nine.with_class("9")
    head = {**ten.strategy.meta["head"], "log_a": torch.cat([nine.strategy.meta["head"]["log_a"], torch.tensor([-60.0])])}
    # codes of a byte would round the other shares away: this strategy travels exactly
    spec = {**ten.strategy.spec, "arguments": {**ten.strategy.spec["arguments"], "down": "exact"}}
    vanishing = rebuild(dataclasses.replace(ten.strategy, meta={**ten.strategy.meta, "head": head}, codec="exact", spec=spec))
    same = rebuild(dataclasses.replace(nine.strategy, codec="exact", spec=spec))
    before, after = (one.personalize(x[:60], y[:60]).predict(x[60:]) for one in (same, vanishing))
    assert before.probabilities is not None
    assert after.probabilities is not None
    assert after.probabilities[:, 9].max() < 1e-6
    assert np.abs(after.probabilities[:, :9] - before.probabilities).max() < 2e-3  # k_C of the old rows travels a little coarser
    assert np.allclose(after.probabilities.sum(1), 1, atol=1e-6)


def test_five_samples_of_the_new_class_are_enough(nine: PersonalStrategy) -> None:
    x, y = digits(0, 130)  # one writing form
    names = np.array(y)
    nines, others = np.flatnonzero(names == "9"), np.flatnonzero(names != "9")
    model = nine.personalize(x[others[:60]], names[others[:60]])
    with pytest.raises(SchemaError, match="given class '9'"):
        model.update(x[nines[:1]], ["9"])
    grown = model.with_class("9")
    test = others[60:]
    assert (grown.predict(x[test]).label == names[test]).mean() > (model.predict(x[test]).label == names[test]).mean() - 0.03
    taught = grown.update(x[nines[:5]], names[nines[:5]])
    assert (taught.predict(x[nines[5:]]).label == "9").mean() >= 0.5
    assert (taught.predict(x[test]).label == names[test]).mean() > (model.predict(x[test]).label == names[test]).mean() - 0.1


def test_a_class_that_the_schema_knows_needs_nothing(trained_digits: PersonalStrategy) -> None:
    x, y = digits(0, 130)  # one writing form
    names = np.array(y)
    nines, others = np.flatnonzero(names == "9"), np.flatnonzero(names != "9")
    model = trained_digits.personalize(x[others[:60]], names[others[:60]]).update(x[nines[:5]], names[nines[:5]])
    assert (model.predict(x[nines[5:]]).label == "9").mean() > 0.6


def test_a_model_of_a_new_class_is_one_file(nine: PersonalStrategy, tmp_path: Path) -> None:
    x, y = digits()
    old = [at for at, name in enumerate(y) if name != "9"]
    model = nine.personalize(x[old], [y[at] for at in old]).with_forgetting(0.9).with_class("nine").update(x[9:10], ["nine"])
    model.save(tmp_path / "own")
    again = load_personal(tmp_path / "own")
    assert np.array_equal(again.predict(x).probabilities, model.predict(x).probabilities)
    assert again.schema.classes == (*(str(at) for at in range(9)), "nine")
    assert again.source.strategy.provenance["derived_from"] == nine.strategy.digest()
    assert again.source.strategy.provenance["new_class"] == "nine"
    assert again.source.strategy.figures == {}
    assert again.source.strategy.digest() == model.source.strategy.digest()
    assert (again.forgetting, again.change) == (0.9, model.change)


def test_the_derived_strategy_is_the_same_before_and_after_its_file(nine: PersonalStrategy, tmp_path: Path) -> None:
    derived = nine.with_class("9")
    derived.strategy.save(tmp_path / "s")
    loaded = load(tmp_path / "s")
    assert loaded.strategy.digest() == derived.strategy.digest()
    for path, leaf in tree.flatten(loaded.strategy.meta).items():
        assert torch.equal(leaf, tree.flatten(derived.strategy.meta)[path]), path


@pytest.mark.parametrize(("name", "message"), [("", "expected a name"), ("3", "one of the schema's already"), (9, "expected a name")])
def test_names_that_cannot_be_are_refused(nine: PersonalStrategy, name: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        nine.with_class(name)


def test_strategies_without_a_conjugate_head_for_classes_are_refused(digits_study: Path, dose_strategy: PersonalStrategy) -> None:
    for strategy in (load(digits_study / "runs" / "fedavg-seed0" / "strategy.safetensors").strategy, dose_strategy.strategy):
        with pytest.raises(ConfigError, match="has no conjugate head for classes"):
            with_class(strategy, "new")
