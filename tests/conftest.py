"""Shared by all tests. This file also puts ``tests/`` on the path, so that every test module can import :mod:`scenarios` and :mod:`tiny`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metabayfl import config, study
from metabayfl.personal import PersonalStrategy, load
from tiny import write_digits, write_patients

torch.set_num_threads(1)  # the problems are tiny: more threads only wait for each other


def _studied(path: Path, out: Path) -> Path:
    read = config.read(path)
    for _ in study.compare(read, read.algorithms, read.seeds, out):
        pass
    return out


@pytest.fixture(scope="session")
def digits_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two algorithms; tests read it and never write to it."""
    folder = tmp_path_factory.mktemp("digits")
    return _studied(write_digits(folder), folder / "out")


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> PersonalStrategy:
    """A strategy whose predictions are worth something, in a few seconds."""
    faster = ('generator = "full"', 'generator = "full"\nbody_lr = 0.005')
    changes = [('"fedavg", ', ""), ("rounds = 3", "rounds = 60"), ("validate_every = 2", "validate_every = 20"), ("[16, 8]", "[32, 16]"), faster]
    folder = tmp_path_factory.mktemp("trained")
    return load(_studied(write_digits(folder, *changes), folder / "out") / "strategy.safetensors")


@pytest.fixture(scope="session")
def dose_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of a regression on a table."""
    folder = tmp_path_factory.mktemp("dose")
    return _studied(write_patients(folder, "dose"), folder / "out")


@pytest.fixture(scope="session")
def digits_strategy(digits_study: Path) -> PersonalStrategy:
    return load(digits_study / "strategy.safetensors")


@pytest.fixture(scope="session")
def dose_strategy(dose_study: Path) -> PersonalStrategy:
    return load(dose_study / "strategy.safetensors")
