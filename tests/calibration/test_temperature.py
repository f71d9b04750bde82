"""Temperature scaling against scipy's minimum and what adds up."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from metabayfl import random
from metabayfl.calibration.temperature import GRID, fit, scaled, sums
from metabayfl.errors import DataError


def overconfident(sharpness: float, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Predictions whose logits are ``sharpness`` times those that the labels were drawn from."""
    logits = 1.5 * random.normal(random.key(2), (count, 4), torch.float64)
    share = torch.cumsum(torch.softmax(logits, -1), -1)
    y = (random.uniform(random.key(3), (count, 1), torch.float64) > share).sum(-1)
    return torch.softmax(sharpness * logits, -1), y


def nll(probs: Tensor, y: Tensor) -> float:
    return float(-torch.log(torch.gather(probs, -1, y.unsqueeze(-1))).mean())


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_fit_is_the_minimum_of_the_pooled_nll(sharpness: float) -> None:
    probs, y = overconfident(sharpness)
    found = fit(sums(probs, y))
    best = minimize_scalar(lambda log_t: nll(scaled(probs, float(2.0**log_t)), y), bounds=(-3, 3), method="bounded").x
    assert found == pytest.approx(2.0**best, rel=5e-3)
    assert found == pytest.approx(sharpness, rel=0.07)


def test_clients_sums_add_up() -> None:
    probs, y = overconfident(2.0, 60)
    torch.testing.assert_close(sums(probs[:20], y[:20]) + sums(probs[20:], y[20:]), sums(probs, y))
    assert float(sums(probs, y)[GRID.index(1.0)]) == pytest.approx(60 * nll(probs, y))


def test_a_minimum_beyond_the_grid_is_its_edge() -> None:
    assert fit(torch.arange(len(GRID)).double()) <= GRID[1]
    assert fit(-torch.arange(len(GRID)).double()) >= GRID[-2]


def test_no_number_for_a_temperature_is_refused() -> None:
    with pytest.raises(DataError, match="a finite number for each"):
        fit(torch.full((len(GRID),), torch.nan))
