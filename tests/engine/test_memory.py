"""Peak memory: in MB, rising with what is allocated, and starting anew where the system can."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest

from metabayfl.engine import memory

SIZE_MB = 64


@contextlib.contextmanager
def allocated() -> Iterator[None]:
    """Resident pages straight from the system, so that no allocator keeps them or had them already."""
    with mmap.mmap(-1, SIZE_MB * 1_000_000) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        yield


def test_the_peak_counts_what_was_allocated_and_freed() -> None:
    memory.reset_peak()
    before = memory.peak_memory_mb()
    with allocated():
        pass
    assert 0.8 * SIZE_MB < memory.peak_memory_mb() - before < 3 * SIZE_MB


def test_a_reset_forgets_an_earlier_peak() -> None:
    with allocated():
        high = memory.peak_memory_mb()
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
