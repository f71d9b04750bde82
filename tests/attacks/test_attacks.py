"""Attacks: closed forms of what is sent, honest clients left alone, and who is hostile."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.attacks import ATTACKS, AttackOptions, build_attack, hostile
from metabayfl.attacks.updates import z_max
from metabayfl.errors import ConfigError
from metabayfl.types import Batch, Message, Task

KEY = random.key(3)
WHICH = torch.tensor([False, True, False, False, True, False])
HONEST = torch.tensor([0, 2, 3])  # client 5 has no example


def messages() -> Message:
    weight = torch.tensor([4.0, 5.0, 6.0, 7.0, 8.0, 0.0])
    update = {"z": random.normal(random.fold(KEY, "z"), (6, 3, 2)), "head": {"k": torch.arange(6.0), "mu0": torch.ones(6, 4)}}
    return Message(update, weight, {"loss": 2 * weight, "examples": weight.clone()})


def tasks(kind: str = "classification") -> Task:
    x = random.normal(random.fold(KEY, "x"), (6, 4, 1, 8, 8))
    y = torch.arange(24).view(6, 4) % 5 if kind == "classification" else random.normal(KEY, (6, 4, 1))
    return Task(Batch(x, y, torch.ones(6, 4)), Batch(x + 1, y, torch.ones(6, 4)))


def sent(name: str, strength: float = 0.0) -> Message:
    attack = build_attack(AttackOptions(name, strength=strength), "classification", 5)
    assert attack.messages is not None
    return attack.messages(messages(), WHICH, KEY)


@pytest.mark.parametrize("name", ATTACKS)
def test_honest_clients_and_the_callers_tensors_stay_as_they_are(name: str) -> None:
    attack = build_attack(AttackOptions(name), "classification", 5)
    assert attack.name == name
    if attack.messages is not None:
        given = messages()
        changed = attack.messages(given, WHICH, KEY)
        torch.testing.assert_close(given, messages())
        for new, old in zip(tree.leaves(changed.update), tree.leaves(given.update), strict=True):
            torch.testing.assert_close(new[~WHICH], old[~WHICH])
            assert new.dtype == old.dtype
        torch.testing.assert_close(changed.weight[~WHICH], given.weight[~WHICH])
    if attack.data is not None:
        own = tasks()
        poisoned = attack.data(own, WHICH, KEY)
        torch.testing.assert_close(own, tasks())
        for new, old in zip(poisoned, own, strict=True):
            torch.testing.assert_close([part[~WHICH] for part in new], [part[~WHICH] for part in old])
            torch.testing.assert_close(new.mask, old.mask)
            assert (new.y[WHICH] != old.y[WHICH]).any()


def moved(name: str, path: str, strength: float = 0.0) -> Tensor:
    return tree.flatten(sent(name, strength).update)[path][WHICH]


def test_what_is_sent_in_closed_form() -> None:
    own = messages().update
    honest = own["z"][HONEST]
    torch.testing.assert_close(moved("sign_flip", "z"), -own["z"][WHICH])
    torch.testing.assert_close(moved("scaling", "z", 7.0), 7 * own["z"][WHICH])
    torch.testing.assert_close(moved("backdoor", "z", 3.0), 3 * own["z"][WHICH])
    torch.testing.assert_close(moved("inner_product", "z", 0.1)[0], -0.1 * honest.mean(0))
    torch.testing.assert_close(moved("a_little", "z", 1.5)[1], honest.mean(0) - 1.5 * honest.std(0))


def test_size_lies_about_examples_in_every_number_that_tells_them() -> None:
    lied = sent("size", 100.0)
    assert lied.weight.tolist() == [4.0, 500.0, 6.0, 7.0, 800.0, 0.0]
    assert lied.metrics["examples"].tolist() == lied.weight.tolist()
    torch.testing.assert_close(lied.update["z"][WHICH], -messages().update["z"][WHICH])


def test_noise_is_as_large_as_told_and_its_own_for_every_client() -> None:
    wide = Message({"w": torch.ones(6, 5000)}, torch.ones(6), {})
    attack = build_attack(AttackOptions("gaussian", strength=4.0), "classification", 5)
    assert attack.messages is not None
    noise = attack.messages(wide, WHICH, KEY).update["w"][WHICH]
    assert abs(float(noise.std()) - 4.0) < 0.1
    assert abs(float(torch.corrcoef(noise)[0, 1])) < 0.05


def test_bombs_hold_nan_in_every_leaf_and_infinity_where_there_is_room() -> None:
    spoilt = sent("not_a_number").update
    assert all(leaf[WHICH].reshape(2, -1).isnan().any(1).all() for leaf in tree.leaves(spoilt))
    assert spoilt["z"][WHICH].isinf().any()


@pytest.mark.parametrize("name, sign", [("prior_strong", -1.0), ("prior_weak", 1.0)])
def test_only_the_priors_precision_is_pushed(name: str, sign: float) -> None:
    """The server descends: a negative update raises log kappa. The largest honest one is client 3's."""
    assert moved(name, "head/k").tolist() == [sign * 30.0, sign * 30.0]
    torch.testing.assert_close(moved(name, "z"), messages().update["z"][WHICH])
    torch.testing.assert_close(moved(name, "head/mu0"), messages().update["head"]["mu0"][WHICH])


def test_a_mean_field_priors_standard_deviation_is_pushed_the_other_way() -> None:
    attack = build_attack(AttackOptions("prior_strong"), "classification", 5)
    assert attack.messages is not None
    given = Message({"mean": {"w": torch.ones(6, 2)}, "log_sd": {"w": torch.ones(6, 2)}}, torch.ones(6), {})
    assert attack.messages(given, WHICH, KEY).update["log_sd"]["w"][1].tolist() == [10.0, 10.0]


def test_a_strategy_without_a_precision_cannot_be_poisoned_there() -> None:
    attack = build_attack(AttackOptions("prior_weak"), "classification", 5)
    assert attack.messages is not None
    with pytest.raises(ConfigError, match="'prior_weak' needs a prior with a precision"):
        attack.messages(Message({"w": torch.ones(6, 2)}, torch.ones(6), {}), WHICH, KEY)


def test_a_little_is_the_quantile_that_keeps_supporters() -> None:
    """n = 50, m = 24: s = 2 honest clients of 26 must lie further out (Baruch et al. 2019, section 3.3)."""
    assert z_max(50, 24) == pytest.approx(1.4260768722)
    assert z_max(10, 1) == 0.0
    assert math.isfinite(z_max(4, 4))


def test_labels_turn_round() -> None:
    attack = build_attack(AttackOptions("label_flip"), "classification", 5)
    assert attack.data is not None
    turned = attack.data(tasks(), WHICH, KEY)
    torch.testing.assert_close(turned.query.y[WHICH], 4 - tasks().query.y[WHICH])
    real = build_attack(AttackOptions("label_flip"), "regression", 1)
    assert real.data is not None
    torch.testing.assert_close(real.data(tasks("regression"), WHICH, KEY).support.y[WHICH], -tasks("regression").support.y[WHICH])


def test_a_backdoor_stamps_every_second_sample_and_names_its_target() -> None:
    attack = build_attack(AttackOptions("backdoor", target=2), "classification", 5)
    assert attack.data is not None
    stamped, own = attack.data(tasks(), WHICH, KEY).support, tasks().support
    assert stamped.y[1].tolist() == [2, int(own.y[1, 1]), 2, int(own.y[1, 3])]
    assert (stamped.x[1, 0, :, -3:, -3:] == own.x[1, 0].amax()).all()
    torch.testing.assert_close(stamped.x[1, 0, :, :5], own.x[1, 0, :, :5])
    torch.testing.assert_close(stamped.x[1, 1], own.x[1, 1])


@pytest.mark.parametrize("kind, target", [("regression", 0), ("classification", 5)])
def test_a_backdoor_needs_a_class(kind: str, target: int) -> None:
    with pytest.raises(ConfigError, match="a backdoor wants a class from 0 to 4"):
        build_attack(AttackOptions("backdoor", target=target), kind, 5)  # type: ignore[arg-type]


def test_who_is_hostile_goes_by_id_and_key_alone() -> None:
    ids = [f"client {number}" for number in range(100)]
    chosen = hostile(ids, 0.2, KEY)
    assert int(chosen.sum()) == 20
    assert torch.equal(hostile(ids[::-1], 0.2, KEY).flip(0), chosen)
    assert not torch.equal(hostile(ids, 0.2, random.key(4)), chosen)
    assert int(hostile(ids, 0.0, KEY).sum()) == 0
    more = hostile(ids, 0.4, KEY)
    assert bool((more | ~chosen).all())  # a larger share keeps the hostile ones of a smaller one


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"share": -0.1}, {"target": -1}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        AttackOptions("sign_flip", **wrong)  # type: ignore[arg-type]


def test_an_unknown_attack_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown attack 'sign_flop': did you mean 'sign_flip'"):
        build_attack(AttackOptions("sign_flop"), "classification", 5)
