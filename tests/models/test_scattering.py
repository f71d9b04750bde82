"""Wavelet moduli against scipy's correlations and closed forms, and the model that stands on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from metabayfl import random, tree
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models import scattering
from metabayfl.models.wavelets import contrasts, moduli, morlet, wavelets

KEY = random.key(3)


def images(count: int, *shape: int) -> Tensor:
    return random.normal(KEY, (count, *shape), torch.float64)


def wave(side: int, angle: float, frequency: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side, dtype=torch.float64), torch.arange(side, dtype=torch.float64), indexing="ij")
    return torch.cos(frequency * (x * math.cos(angle) + y * math.sin(angle))).expand(1, 1, side, side)


def by_scipy(image: np.ndarray, j: int, angle: float, scales: int) -> np.ndarray:
    """|x * psi| * phi with filters written down anew, at every pixel of the strided responses."""
    sigma, reach = 0.8 * 2**j, 4 * 2**j
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    envelope = np.exp(-(u**2 + v**2 / 4) / (2 * sigma**2))
    carrier = np.exp(1j * 3 * np.pi / 4 / 2**j * u)
    psi = envelope * (carrier - (envelope * carrier).sum() / envelope.sum()) / envelope.sum()
    real, imaginary = (ndimage.correlate(image, part, mode="nearest") for part in (psi.real, psi.imag))
    return np.hypot(real, imaginary)[::2, ::2] if scales == 2 else np.hypot(real, imaginary)


@pytest.mark.parametrize("j", [0, 1])
@pytest.mark.parametrize("turn", [0, 1, 3])
def test_moduli_are_correlations_by_scipy(j: int, turn: int) -> None:
    bank, x = wavelets(2, 4), images(2, 1, 16, 12)
    _, found = moduli(bank, x)
    at = np.arange(-4, 4) + 0.5  # phi: sigma 3.2 pixels are 1.6 responses, cut at 2.5 of them
    line = np.exp(-(at**2) / (2 * 1.6**2))
    phi = np.outer(line, line) / line.sum() ** 2
    for image, ours in zip(x[:, 0].numpy(), found[:, 0, 4 * j + turn].numpy(), strict=True):
        strength = np.pad(by_scipy(image, j, math.pi * turn / 4, 2), 3, mode="edge")
        expected = [[(strength[2 * r : 2 * r + 8, 2 * c : 2 * c + 8] * phi).sum() for c in range(3)] for r in range(4)]
        assert np.allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("j", [0, 1])
def test_a_wave_has_its_closed_form_in_its_own_filter_and_less_in_all_others(j: int) -> None:
    """``psi^(xi) = 1 - exp(-sigma^2 xi^2)``, and a cosine has half its amplitude at ``xi``."""
    expected = (1.0 - math.exp(-((0.8 * 3 * math.pi / 4) ** 2))) / 2
    for turn in range(8):
        _, found = moduli(wavelets(2, 8), wave(64, math.pi * turn / 8, 3 * math.pi / 4 / 2**j))
        middle = found[0, 0, :, 8, 8]
        assert middle.argmax() == 8 * j + turn
        assert abs(float(middle.max()) - expected) < 0.012  # pixels are not a continuum


def test_wavelets_do_not_see_even_light() -> None:
    for j in range(3):
        assert abs(complex(morlet(j, 0.7).sum())) < 1e-15
    flat = torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    features = contrasts(wavelets(2, 4), flat)
    assert torch.allclose(features[:, 0], torch.full((2, 2), 3.0, dtype=torch.float64))  # 1.5 times the light
    assert features[:, 1:].abs().max() < 1e-6


def test_contrasts_are_about_their_mean_and_hardly_see_how_strong_the_light_is() -> None:
    x = images(3, 1, 16, 16)
    features = contrasts(wavelets(2, 8), x)
    directions = features[:, 1:].unflatten(1, (2, 8))
    assert directions.mean(2).abs().max() < 1e-12
    bright = contrasts(wavelets(2, 8), 100.0 * x)[:, 1:]
    brighter = contrasts(wavelets(2, 8), 1000.0 * x)[:, 1:]
    assert torch.allclose(bright, brighter, rtol=0.0, atol=1e-2)


@pytest.mark.parametrize(
    ("shape", "scales", "angles", "expected"),
    [((1, 28, 28), 2, 8, (17, 7, 7)), ((3, 32, 32), 2, 8, (51, 8, 8)), ((2, 31, 17), 3, 4, (26, 3, 2)), ((1, 5, 4), 1, 2, (3, 2, 2))],
)
def test_one_value_for_each_cell(shape: tuple[int, ...], scales: int, angles: int, expected: tuple[int, ...]) -> None:
    x = images(2, *shape)
    features = contrasts(wavelets(scales, angles), x)
    assert features.shape == (2, *expected)
    cells = 2**scales
    cropped = x[..., : shape[1] // cells * cells, : shape[2] // cells * cells]
    assert torch.equal(features, contrasts(wavelets(scales, angles), cropped))


def test_the_channels_of_an_image_stand_side_by_side() -> None:
    x, bank = images(2, 3, 8, 8), wavelets(2, 4)
    assert torch.allclose(contrasts(bank, x), torch.cat([contrasts(bank, x[:, i : i + 1]) for i in range(3)], 1), atol=1e-12)


def test_the_model_is_one_dense_layer_on_the_contrasts() -> None:
    model = scattering((1, 12, 8), 3, angles=4, width=5)
    params = tree.to(model.init(KEY), torch.float64)
    assert sorted(tree.flatten(params["body"])) == ["dense/bias", "dense/weight"]
    assert model.dense is not None
    assert tuple(params["body"]["dense"]["weight"].shape) == (5, model.dense.channels * model.dense.space)
    x = images(4, 1, 12, 8)
    expected = contrasts(wavelets(2, 4), x).flatten(1) @ params["body"]["dense"]["weight"].T + params["body"]["dense"]["bias"]
    assert torch.allclose(model.features(params["body"], x, None), expected, atol=1e-12)
    single = model.features(tree.to(params["body"], torch.float32), x.float(), None)
    assert torch.allclose(single.double(), expected, atol=1e-5)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match=r"takes images of shape \(channels, height, width\), these have \(30,\)"):
        scattering((30,), 2)
    with pytest.raises(ModelError, match="vanish after 3 halvings"):
        scattering((1, 7, 28), 2, scales=3)
    for option, value in {"scales": 0, "angles": 1, "width": 1.5, "dropout": 1.0}.items():
        with pytest.raises(ConfigError, match=f"scattering: {option}="):
            scattering((1, 28, 28), 2, **{option: value})  # type: ignore[arg-type]
