"""Noise: the distributions are what they are called, and no floating-point number decides an exact draw."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from metabayfl import random
from metabayfl.errors import ConfigError
from metabayfl.privacy import noise, skellam, words
from metabayfl.privacy.discrete_gaussian import discrete_gaussian, discrete_laplace, exponential_events
from metabayfl.privacy.words import bernoulli, integers, secure, seeded, uniform

DRAWS = 40_000


def p_value(drawn: NDArray[np.int64], mass: NDArray[np.float64], first: int) -> float:
    """Of the chi-square test of integers against probabilities of ``first``, ``first + 1``, ...; rare values are taken together."""
    expected = np.append(mass, max(0.0, 1.0 - mass.sum())) * len(drawn)
    found = np.bincount(np.clip(drawn - first, -1, len(mass)) % (len(mass) + 1), minlength=len(mass) + 1).astype(float)
    common = expected >= 8
    gather = [np.append(part[common], part[~common].sum()) for part in (found, expected)]
    return float(stats.chisquare(*(part if gather[1][-1] > 1e-6 else part[:-1] for part in gather), sum_check=False).pvalue)


def gaussian_mass(variance: float) -> tuple[NDArray[np.float64], int]:
    reach = math.ceil(12 * math.sqrt(variance)) + 2
    k = np.arange(-reach, reach + 1)
    mass = np.exp(-(k**2) / (2 * variance))
    return mass / mass.sum(), -reach


@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(1), Fraction(7, 3), Fraction(100), Fraction(12345, 8)])
def test_discrete_gaussian_has_its_probabilities(variance: Fraction) -> None:
    drawn = discrete_gaussian(seeded(random.key(1)), (DRAWS,), variance).numpy()
    assert p_value(drawn, *gaussian_mass(float(variance))) > 1e-3


@pytest.mark.parametrize("variance", [10**6, 2**40, 2**51])
def test_discrete_gaussian_of_large_variance_is_normal_in_its_moments(variance: int) -> None:
    scaled = discrete_gaussian(seeded(random.key(2)), (DRAWS,), variance).double() / math.sqrt(variance)
    assert abs(float(scaled.mean())) < 4 / math.sqrt(DRAWS)
    assert float(scaled.var()) == pytest.approx(1.0, abs=4 * math.sqrt(2 / DRAWS))
    assert float((scaled**4).mean()) == pytest.approx(3.0, abs=4 * math.sqrt(96 / DRAWS))
    assert stats.kstest(scaled.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("scale", [1, 5])
def test_discrete_laplace_has_its_probabilities(scale: int) -> None:
    k = np.arange(-60 * scale, 60 * scale + 1)
    mass = np.exp(-np.abs(k) / scale)
    assert p_value(discrete_laplace(seeded(random.key(3)), DRAWS, scale), mass / mass.sum(), int(k[0])) > 1e-3


@pytest.mark.parametrize("mean", [0.1, 2.5, 14.75, 200.0, 5000.25])
def test_poisson_has_its_probabilities(mean: float) -> None:
    k = np.arange(math.ceil(mean + 12 * math.sqrt(mean)) + 12)
    assert p_value(skellam.poisson(seeded(random.key(4)), (DRAWS,), mean).numpy(), stats.poisson.pmf(k, mean), 0) > 1e-3


@pytest.mark.parametrize("variance", [0.5, 20.0, 1e4])
def test_skellam_has_its_probabilities_and_its_shares_add_up(variance: float) -> None:
    reach = math.ceil(14 * math.sqrt(variance)) + 10
    mass = stats.skellam.pmf(np.arange(-reach, reach + 1), variance / 2, variance / 2)
    whole = skellam.skellam(seeded(random.key(5)), (10_000,), variance).numpy()
    shares = sum(skellam.skellam(seeded(random.key(10 + share)), (10_000,), variance / 4).numpy() for share in range(4))
    assert p_value(whole, mass, -reach) > 1e-3
    assert p_value(np.asarray(shares), mass, -reach) > 1e-3


def test_gaussian_is_normal_in_float64_and_takes_the_shape_asked_for() -> None:
    drawn = noise.gaussian(seeded(random.key(6)), 3.0)((DRAWS // 5, 5))
    assert drawn.shape == (DRAWS // 5, 5)
    assert drawn.dtype == torch.float64
    assert stats.kstest(drawn.flatten().numpy() / 3.0, "norm").pvalue > 1e-3
    assert noise.gaussian(seeded(random.key(6)), 3.0)(()).shape == ()
    filled = noise.like(noise.gaussian(seeded(random.key(6)), 1.0), {"a": torch.zeros(3), "b": {"c": torch.zeros(2, 2, dtype=torch.float64)}})
    assert filled["a"].dtype == torch.float32
    assert filled["b"]["c"].shape == (2, 2)


@pytest.mark.parametrize("kind", ["discrete_gaussian", "skellam"])
def test_integral_noise_has_at_least_the_variance_asked_for(kind: noise.Integral) -> None:
    drawn = noise.integral(kind, seeded(random.key(7)), 300.7)((DRAWS,))
    assert drawn.dtype == torch.int64
    assert float(drawn.double().var()) == pytest.approx(300.7, rel=0.04)


def test_seeded_words_repeat_and_secure_words_do_not() -> None:
    assert (seeded(random.key(1))(8) == seeded(random.key(1))(8)).all()
    assert (seeded(random.key(1))(8) != seeded(random.key(2))(8)).all()
    assert (secure()(8) != secure()(8)).all()
    bits = np.unpackbits(secure()(20_000).view(np.uint8))
    assert stats.binomtest(int(bits.sum()), len(bits)).pvalue > 1e-6


def test_integers_are_uniform_without_the_bias_of_a_remainder() -> None:
    drawn = integers(seeded(random.key(8)), np.full(DRAWS, 7))
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-3
    large = 3 * 2**61  # a plain remainder of 64 bits would find the lower 2^62 twice as often as the others
    halves = integers(seeded(random.key(9)), np.full(DRAWS, large)) < 2**61
    assert stats.binomtest(int(halves.sum()), DRAWS, 1 / 3).pvalue > 1e-3


def test_uniform_numbers_stay_inside_the_open_interval() -> None:
    ends = uniform(lambda count: np.array([0, 2**64 - 1], dtype=np.uint64), 2)
    assert ends[0] > 0
    assert ends[1] < 1


@pytest.mark.parametrize("exponent", [Fraction(0), Fraction(1, 1000), Fraction(1, 3), Fraction(1)])
def test_exponential_events_happen_as_often_as_they_should(exponent: Fraction) -> None:
    events = exponential_events(seeded(random.key(11)), np.full(DRAWS, float(exponent)), lambda i: exponent)
    assert stats.binomtest(int(events.sum()), DRAWS, math.exp(-exponent)).pvalue > 1e-3


def test_whole_numbers_alone_decide_as_floating_point_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slack of 1 every comparison goes the exact way."""
    quick = [discrete_gaussian(seeded(random.key(12)), (60,), Fraction(7, 3)), skellam.poisson(seeded(random.key(13)), (60,), 2500.5)]
    monkeypatch.setattr(words, "SLACK", 1.0)
    exact = [discrete_gaussian(seeded(random.key(12)), (60,), Fraction(7, 3)), skellam.poisson(seeded(random.key(13)), (60,), 2500.5)]
    assert all(torch.equal(one, other) for one, other in zip(quick, exact, strict=True))


def test_a_tie_is_broken_by_more_bits() -> None:
    """1/3 has the bits 0101...: a first word equal to them decides nothing, the next one does."""
    third = 2**64 // 3
    for second, happens in ((third - 1, True), (third + 1, False)):
        stream = iter([third, second])
        source = lambda count, stream=stream: np.array([next(stream) for _ in range(count)], dtype=np.uint64)  # noqa: E731
        assert bernoulli(source, np.array([1 / 3]), lambda i, bits: 2**bits // 3).tolist() == [happens]


@pytest.mark.parametrize(("k", "mean"), [(0, 0.75), (3, 2.5), (30, 22.0), (1999, 2100.5), (10**9 + 40_000, 1e9), (2**40, 2.0**40 + 3e6)])
def test_poisson_densities_are_right_to_many_digits(k: int, mean: float) -> None:
    with decimal.localcontext(decimal.Context(prec=60)):
        exact = k * Decimal(mean).ln() - Decimal(mean) - skellam._exact_log_factorial(k) + (2 * skellam._exact_pi()).ln() / 2
    found = float(skellam._log_density(np.array([k]), mean)[0])
    assert found == pytest.approx(float(exact), abs=1e-12 * max(1.0, abs(float(exact))))


def test_the_decimals_of_pi_and_of_factorials_are_right() -> None:
    with decimal.localcontext(skellam._DECIMALS):
        assert str(skellam._exact_pi())[:52] == "3.14159265358979323846264338327950288419716939937510"
        series, product = skellam._exact_log_factorial(2000), Decimal(math.factorial(2000)).ln()
        assert abs(series - product) < Decimal(10) ** -75


@pytest.mark.parametrize("variance", [0, -1, 2**60, Fraction(1, 2**61)])
def test_a_variance_that_whole_numbers_cannot_carry_is_refused(variance: Fraction | int) -> None:
    with pytest.raises(ConfigError, match="variance of discrete Gaussian noise"):
        discrete_gaussian(seeded(random.key(0)), (1,), variance)


@pytest.mark.parametrize("mean", [0.0, -3.0, math.nan, math.inf, 2.0**60])
def test_a_mean_that_no_poisson_number_has_is_refused(mean: float) -> None:
    with pytest.raises(ConfigError, match="mean of Poisson noise"):
        skellam.poisson(seeded(random.key(0)), (1,), mean)
