"""Cholesky factors, solves and log-gamma of ONNX operators, against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from metabayfl.export import on_device
from metabayfl.export.converting import converted, traced


@pytest.mark.slow
def test_factors_solves_and_log_gamma_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, right = (torch.randn(5, *shape, generator=generator, dtype=torch.float64) for shape in ((7, 4), (4, 2)))

    def function(rows: Tensor) -> tuple[Tensor, ...]:
        lower = torch.linalg.cholesky(rows.mT @ rows + torch.eye(4, dtype=torch.float64))
        solved = torch.cholesky_solve(right, lower), torch.linalg.solve_triangular(lower, right, upper=False)
        return lower, *solved, torch.lgamma(torch.exp(3.0 * rows) + 0.125)

    model = converted(traced(function, [rows], [False], "a test"), "a test")
    found = on_device.session(model.SerializeToString()).run(None, {"in_0": rows.numpy()})
    for ours, theirs in zip(found, function(rows), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-13, atol=1e-13)
