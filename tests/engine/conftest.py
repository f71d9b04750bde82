"""A small ragged federation of two-feature blobs, in float64 so that the three ways through the engine can be held to 1e-10."""

from __future__ import annotations

import numpy as np
import pytest

from metabayfl.data import Clients, Federation, Schema, in_memory

SIZES = (5, 9, 17, 33, 40, 6, 12, 21)


def _clients(names: str, seed: int, support: int | None) -> Clients:
    rng = np.random.default_rng(seed)
    data = []
    for size in SIZES:
        y = rng.integers(0, 3, size)
        x = rng.normal(size=(size, 4)) + np.eye(4)[y] * 3
        data.append((x, y.astype(np.int64)))
    return in_memory([f"{names}{i}" for i in range(len(SIZES))], data, [support or len(y) for _, y in data])


@pytest.fixture(scope="session")
def federation() -> Federation:
    schema = Schema("classification", (4,), "array", layout="vector", channel_mean=(0.0,) * 4, channel_scale=(1.0,) * 4, classes=("a", "b", "c"))
    return Federation("blobs", _clients("train", 1, None), _clients("val", 2, 3), _clients("held", 3, 3), schema, "0" * 64)
