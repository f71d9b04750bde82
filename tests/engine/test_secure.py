"""Secure aggregation in the engine: the same strategy up to the encoding's rounding, whatever is combined, clipped or noised on the way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.aggregators import DefenceOptions, weighted_mean
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Federation
from metabayfl.engine import pipeline, private, rounds, secure
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.secure import SecureOptions
from metabayfl.errors import ConfigError
from metabayfl.models import mlp
from metabayfl.privacy.options import PrivacyOptions
from metabayfl.types import Aggregate, Algorithm, Message

pytest.importorskip("cryptography", reason="secure aggregation needs the extra 'privacy'")

KEY, WIDE = random.key(5), SecureOptions(clip=1e3, bits=32)


@pytest.fixture
def algorithm() -> Algorithm:
    network = mlp((4,), 3, hidden=(6,))
    return ALGORITHMS["fedavg"](network)._replace(init=lambda key: tree.to(network.init(key), torch.float64))


def cohort(algorithm: Algorithm, federation: Federation, options: TrainOptions) -> Aggregate:
    meta = algorithm.init(random.key(1))
    steps = private.guarded(pipeline.build(options), options, 8, meta)
    states = {**pipeline.begin(pipeline.build(options), meta), **private.begin(options)}
    aggregate = rounds.run_cohort(algorithm, steps, states, federation.train, np.arange(8), KEY, options, meta)
    return pipeline.on_aggregate(steps, states, aggregate, KEY)[1]


def furthest(one: Aggregate, other: Aggregate) -> float:
    return max(float((left - right).abs().max()) for left, right in zip(tree.leaves(one.update), tree.leaves(other.update), strict=True))


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_the_sum_is_the_plain_one_up_to_rounding(algorithm: Algorithm, federation: Federation, weighting: str) -> None:
    plain = cohort(algorithm, federation, TrainOptions(weighting=weighting))
    masked = cohort(algorithm, federation, TrainOptions(weighting=weighting, secure=WIDE))
    most = WIDE.most_samples if weighting == "examples" else 1
    step = 2.0 * most * WIDE.clip / 2**31  # a step is the next power of two
    assert 0 < furthest(plain, masked) <= 8 * step / float(plain.weight)
    assert float(masked.weight) == float(plain.weight)
    assert float(masked.metrics["examples"]) == float(plain.metrics["examples"])
    assert float(masked.metrics["loss"]) == pytest.approx(float(plain.metrics["loss"]), abs=1e-2)
    assert float(masked.metrics["clipped"]) == 0


def test_masks_chunks_and_loops_change_no_bit(algorithm: Algorithm, federation: Federation) -> None:
    whole = cohort(algorithm, federation, TrainOptions(secure=WIDE, vectorise=False))
    for change in ({"secure": dataclasses.replace(WIDE, masks=False)}, {"chunk": 1}, {"chunk": 3}):
        options = dataclasses.replace(TrainOptions(secure=WIDE, vectorise=False), **change)
        assert furthest(cohort(algorithm, federation, options), whole) == 0.0


def test_the_geometric_median_composes(algorithm: Algorithm, federation: Federation) -> None:
    defence = DefenceOptions(combine="geometric_median", smoothing=1e-3)
    plain = cohort(algorithm, federation, TrainOptions(defence=defence))
    masked = cohort(algorithm, federation, TrainOptions(defence=defence, secure=WIDE))
    assert 0 < furthest(plain, masked) < 1e-5


def test_a_combine_that_needs_each_update_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"secure aggregation.*median needs each"):
        pipeline.build(TrainOptions(defence=DefenceOptions(combine="median"), secure=WIDE))


def test_long_updates_are_cut_and_counted() -> None:
    secured = secure.Secure(SecureOptions(clip=2.0), 2.0)
    message = Message({"w": torch.tensor([3.0, 4.0], dtype=torch.float64)}, torch.tensor(7.0), {})
    cut = secure.bound(secured).client({}, message, KEY)
    torch.testing.assert_close(cut.update["w"], torch.tensor([1.2, 1.6], dtype=torch.float64), rtol=1e-6, atol=0)
    assert float(cut.metrics["clipped"]) == 1.0


def test_absurd_metrics_are_limited_and_too_many_samples_refused() -> None:
    secured = secure.Secure(SecureOptions(clip=2.0, most_samples=10, most_loss=5.0, masks=False), 2.0)
    keys = torch.stack([KEY, KEY])
    messages = Message({"w": torch.ones(2, 1)}, torch.tensor([3.0, 4.0]), {"loss": torch.tensor([1e30, float("nan")])})
    found = secure.total(secured, weighted_mean(), [(messages, keys)])
    assert float(found["weight"]) == 7.0
    assert float(found["metrics"]["loss"]) == 50.0
    with pytest.raises(ConfigError, match=r"3000 samples, and secure\.most_samples is 10"):
        secure.total(secured, weighted_mean(), [(messages._replace(weight=messages.weight * 1000), keys)])


def test_central_noise_lands_on_a_sum_whose_parts_are_no_longer_than_the_bound(algorithm: Algorithm, federation: Federation) -> None:
    privacy = PrivacyOptions(epsilon=8.0, clip=0.5, noise_multiplier=1.0)
    plain = cohort(algorithm, federation, TrainOptions(privacy=privacy, cohort=8))
    masked = cohort(algorithm, federation, TrainOptions(privacy=privacy, cohort=8, secure=SecureOptions()))
    assert furthest(plain, masked) <= 2.0 * 0.5 / 2**23  # the same noise, and numbers cut to steps towards zero
    assert masked.metrics == {}


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
def test_clients_own_noise_has_the_variance_of_the_plan(algorithm: Algorithm, federation: Federation, mechanism: str) -> None:
    privacy = PrivacyOptions(epsilon=8.0, clip=0.5, noise_multiplier=2.0, mechanism=mechanism, answering=1.0)  # type: ignore[arg-type]
    options = TrainOptions(privacy=privacy, cohort=8, secure=SecureOptions(masks=False))
    quiet = TrainOptions(privacy=dataclasses.replace(privacy, mechanism="gaussian", noise_multiplier=1e-9), cohort=8)
    loud, still = cohort(algorithm, federation, options), cohort(algorithm, federation, quiet)
    noise = torch.cat([(left - right).flatten() for left, right in zip(tree.leaves(loud.update), tree.leaves(still.update), strict=True)])
    expected = 2.0 * 0.5 / 8
    assert len(noise) == 51
    assert 0.6 < float(noise.std()) / expected < 1.5


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="quantile"):
        TrainOptions(secure=SecureOptions(), privacy=PrivacyOptions(quantile=0.5))
    with pytest.raises(ConfigError, match="bits is 40"):
        SecureOptions(bits=40)
    with pytest.raises(ConfigError, match="most_samples"):
        SecureOptions(bits=8, most_samples=1000)
