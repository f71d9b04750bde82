"""Peak memory: in MB, rising with what is allocated, and starting anew where the system can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metabayfl.engine import memory

SIZE_MB = 64


def test_the_peak_counts_what_was_allocated_and_freed() -> None:
    memory.reset_peak()
    before = memory.peak_memory_mb()
    block = np.ones(SIZE_MB * 1_000_000, np.uint8)
    assert block.sum() == len(block)
    del block
    assert 0.8 * SIZE_MB < memory.peak_memory_mb() - before < 3 * SIZE_MB


def test_a_reset_forgets_an_earlier_peak() -> None:
    block = np.ones(SIZE_MB * 1_000_000, np.uint8)
    high = memory.peak_memory_mb()
    assert block[-1] == 1
    del block
    memory.reset_peak()
    can = memory._CLEAR.exists()
    assert memory.peak_memory_mb() < high or not can


def test_other_systems_give_the_processs_own_peak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = memory.peak_memory_mb()
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none")
    memory.reset_peak()
    assert memory.peak_memory_mb() > 0.3 * own
    assert not (tmp_path / "none").exists()
