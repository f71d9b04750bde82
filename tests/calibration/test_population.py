"""Histograms add up and their quantiles are those of the pooled cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.calibration import Cases, Known, counts, novelty_limit, referral_for_error, referral_for_share, set_limits, table, template
from metabayfl.calibration.population import TAIL, WHOLE
from metabayfl.errors import ConfigError
from metabayfl.types import Tree

CLASSES = 3


def uniform(name: str, *shape: int) -> Tensor:
    return random.uniform(random.fold(random.key(11), name), shape, torch.float64)


def drawn(name: str, count: int, targets: int = 1) -> Cases:
    uncertainty = uniform(f"{name}/uncertainty", count)
    wrong = (uniform(f"{name}/wrong", count) < 0.5 * uncertainty).double()
    truth = (uniform(f"{name}/truth", count) * CLASSES).long()
    return Cases(uniform(f"{name}/conformity", count, targets), truth, uncertainty, 0.1 * uncertainty, wrong)


def joined(*parts: Cases) -> Cases:
    return Cases(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def none(targets: int = 1) -> Cases:
    return Cases(*(field[:0] for field in drawn("none", 1, targets)))


def summed(*parts: Cases, classes: int = CLASSES) -> Tree:
    return tree.map(lambda *leaves: torch.stack(leaves).sum(0), *(counts(part, classes) for part in parts))


def test_clients_histograms_add_up_to_that_of_all_their_cases() -> None:
    parts = [drawn(name, 40) for name in "abc"]
    together, apart = counts(joined(*parts), CLASSES), summed(*parts)
    for name in ("conformity", "uncertainty", "wrong", "epistemic"):
        torch.testing.assert_close(apart[name], together[name])
    assert float(apart["clients"]) == 3


def test_kept_quantiles_are_those_of_the_cases() -> None:
    found = drawn("many", 20_000)
    kept = table(counts(found, CLASSES))
    for level, value in zip(TAIL, kept["conformity"][0].double(), strict=True):
        assert float(value) == pytest.approx(float(torch.quantile(found.conformity[:, 0], level)), abs=2e-3)
    of_class = found.conformity[found.truth == 2, 0]
    assert float(kept["conformity"][3][9]) == pytest.approx(float(torch.quantile(of_class, TAIL[9])), abs=2e-3)
    for level, value in list(zip(WHOLE, kept["uncertainty"].double(), strict=True))[5:]:
        assert float(value) == pytest.approx(float(torch.quantile(found.uncertainty, level)), rel=0.02)


def test_the_wrong_answers_are_counted_where_they_are() -> None:
    found = drawn("many", 20_000)
    kept = table(counts(found, CLASSES))["wrong"].double()
    assert float(kept.mean()) == pytest.approx(float(found.wrong.mean()), abs=1e-3)
    upper = found.wrong[found.uncertainty > torch.quantile(found.uncertainty, 0.8)]
    assert float(kept[80:].mean()) == pytest.approx(float(upper.mean()), abs=5e-3)


def test_a_table_has_the_shape_of_its_template() -> None:
    for targets, classes in ((1, CLASSES), (2, 0)):
        made = table(counts(drawn("few", 30, targets), classes))
        expected = template(classes, targets)
        assert {name: (leaf.shape, leaf.dtype) for name, leaf in made.items()} == {name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()}


def test_a_class_that_nobody_had_has_no_say() -> None:
    found = drawn("few", 60)
    two = found._replace(truth=found.truth.clamp(max=1))
    kept = table(counts(two, CLASSES))
    assert not bool(kept["conformity"][3].any())
    limits = set_limits(Known(none(), {**kept, "clients": torch.tensor(50.0)}, CLASSES), 0.8, "class")
    assert limits[2] == -torch.inf
    assert bool(torch.isfinite(limits[:2]).all())


def test_without_own_cases_the_limits_are_the_other_clients_quantiles() -> None:
    found = drawn("many", 20_000)
    known = Known(none(), {**table(counts(found, CLASSES)), "clients": torch.tensor(400.0)}, CLASSES)
    assert float(set_limits(known, 0.9)[0]) == pytest.approx(0.1, abs=0.01)
    assert referral_for_share(known, 0.25) == pytest.approx(0.75, abs=0.02)
    assert novelty_limit(known, 0.05) == pytest.approx(0.095, abs=0.002)
    # accepted up to t, a share t^2/4 of all cases is wrong
    assert referral_for_error(known, 0.09) == pytest.approx(0.6, abs=0.03)


def test_with_many_own_cases_the_limits_are_their_own() -> None:
    own = drawn("own", 5000)._replace(conformity=0.5 * drawn("own", 5000).conformity)
    known = Known(own, table(summed(drawn("a", 40), drawn("b", 40))), CLASSES)
    assert float(set_limits(known, 0.8)[0]) == pytest.approx(0.1, abs=0.01)
    by_class = set_limits(known, 0.8, "class")
    assert by_class.shape == (CLASSES,)
    assert torch.allclose(by_class, torch.full((CLASSES,), 0.1), atol=0.02)


def test_each_other_client_weighs_as_one_own_case() -> None:
    own = none()._replace(conformity=torch.full((10, 1), 0.9, dtype=torch.float64), truth=torch.zeros(10, dtype=torch.int64))
    own = own._replace(uncertainty=torch.full((10,), 0.1), epistemic=torch.zeros(10), wrong=torch.zeros(10))
    strange = own._replace(uncertainty=torch.full((10,), 0.8))
    kept = table(summed(*[strange] * 10))
    known = Known(own, kept, CLASSES)
    assert referral_for_share(known, 0.4) > 0.7
    assert referral_for_share(known, 0.6) == pytest.approx(0.1)


def test_a_regression_has_a_limit_for_each_target() -> None:
    own = drawn("own", 4000, targets=2)
    own = own._replace(conformity=own.conformity * torch.tensor([1.0, 0.5]))
    limits = set_limits(Known(own, {}, 0), 0.9)
    assert torch.allclose(limits, torch.tensor([0.1, 0.05]), atol=0.02)
    with pytest.raises(ConfigError, match="by is 'hospital'"):
        set_limits(Known(own, {}, 0), 0.9, "hospital")  # type: ignore[arg-type]
