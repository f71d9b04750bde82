"""Gamma and Dirichlet draws against their distributions."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from metabayfl import random
from metabayfl.heads.dirichlet import log_dirichlet, log_gamma


@pytest.mark.parametrize("concentration", [0.05, 0.7, 1.0, 3.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gamma_has_its_distribution(concentration: float, dtype: torch.dtype) -> None:
    draws = log_gamma(random.key(5), torch.full((20000,), concentration, dtype=dtype))
    assert draws.dtype == dtype
    expected = stats.loggamma(concentration)
    assert stats.kstest(draws.double().numpy(), expected.cdf).pvalue > 1e-3


def test_dirichlet_has_its_mean_and_variance() -> None:
    a = torch.tensor([0.3, 1.0, 4.0]).double()
    draws = log_dirichlet(random.key(6), a.expand(40000, 3)).exp()
    mean = a / a.sum()
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=5e-3)
    torch.testing.assert_close(draws.var(0), mean * (1 - mean) / (a.sum() + 1), rtol=0.05, atol=0)


def test_mapped_keys_give_what_single_keys_give() -> None:
    keys = random.keys(random.key(7), 3)
    a = torch.tensor([0.5, 2.0]).double()
    together = torch.func.vmap(lambda key: log_dirichlet(key, a))(keys)
    torch.testing.assert_close(together, torch.stack([log_dirichlet(key, a) for key in keys]), rtol=0, atol=0)
