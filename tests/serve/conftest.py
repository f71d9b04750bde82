"""Fixtures of the tests of serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra is not installed: pip install 'metabayfl[serve]'")

from served import Served, serve

from metabayfl import config, study
from metabayfl.personal import PersonalStrategy, load
from tiny import write_patients


@pytest.fixture(scope="session")
def outcome_strategy(tmp_path_factory: pytest.TempPathFactory) -> PersonalStrategy:
    """Classes on a table: age and sex of patients, by hospital."""
    folder = tmp_path_factory.mktemp("outcome")
    read = config.read(write_patients(folder, "outcome"))
    for _ in study.compare(read, read.algorithms, read.seeds, folder / "out"):
        pass
    return load(folder / "out" / "strategy.safetensors")


@pytest.fixture
def served(outcome_strategy: PersonalStrategy, tmp_path: Path) -> Iterator[Served]:
    with serve(outcome_strategy, tmp_path / "store") as found:
        yield found
