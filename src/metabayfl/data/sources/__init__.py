"""Readers by name: files to raw rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metabayfl.data.options import DataOptions
from metabayfl.data.raw import Raw
from metabayfl.data.sources.arrays import load_npy, load_npz
from metabayfl.data.sources.digits import load_digits
from metabayfl.data.sources.huggingface import load_huggingface
from metabayfl.data.sources.sheets import load_sheets
from metabayfl.data.sources.tables import load_csv, load_parquet

SOURCES: dict[str, Callable[[DataOptions, Path], Raw]] = {
    "csv": load_csv,
    "digits": load_digits,
    "huggingface": load_huggingface,
    "images": load_sheets,
    "npy": load_npy,
    "npz": load_npz,
    "parquet": load_parquet,
}
"""What ``source`` may be."""


def load(options: DataOptions, base: Path) -> Raw:
    """The rows that the options name, as they are in the file."""
    return SOURCES[options.source](options, base)
