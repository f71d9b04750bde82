"""Peak memory of this process, per algorithm rather than since its start."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak() -> None:
    """Start a new high-water mark where the system can (Linux); elsewhere the mark stays the process's own."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_memory_mb() -> float:
    """The high-water mark in MB (10^6 bytes): resident memory, plus what CUDA allocated where it is used."""
    cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return (_resident_peak() + cuda) / 1e6


def _resident_peak() -> int:
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
