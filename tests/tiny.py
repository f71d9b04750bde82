"""Federations so small that a whole study takes a second: handwritten digits, and a table of patients with a number or a class to predict."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from metabayfl.cli import main

DIGITS = """
name = "tiny"
algorithms = ["fedavg", "meta_bayfl"]
seeds = [0]
[data]
source = "digits"
train_clients = 8
validation_clients = 2
heldout_clients = 4
support = 20
[model]
name = "mlp"
hidden = [16, 8]
[train]
rounds = 3
cohort = 4
validate_every = 2
checkpoint_every = 2
[algorithm.fedavg]
local_epochs = 1
batch_size = 0
[algorithm.meta_bayfl]
generator = "full"
"""

PATIENTS = """
algorithms = ["meta_bayfl"]
seeds = [0]
[data]
source = "csv"
path = "patients.csv"
client = "hospital"
target = "TARGET"
exclude = ["OTHER"]
support = 6
[model]
name = "mlp"
hidden = [8, 4]
[train]
rounds = 3
cohort = 4
[algorithm.meta_bayfl]
generator = "full"
"""
"""``TARGET`` is ``dose`` (a number) or ``outcome`` (a class), ``OTHER`` the one that is not."""


def patients(*, hospitals: int = 8, rows: int = 14, seed: int = 0) -> pd.DataFrame:
    """Age in years, sex, and per hospital its own dependence of the dose (mg) on the age."""
    rng = np.random.default_rng(seed)
    hospital = np.repeat([f"h{at}" for at in range(hospitals)], rows)
    age, sex = rng.uniform(20, 80, hospitals * rows), rng.choice(["f", "m"], hospitals * rows)
    offset = np.repeat(rng.normal(0, 10, hospitals), rows)
    dose = 100 + 2 * age + 20 * (sex == "m") + offset + rng.normal(0, 5, hospitals * rows)
    outcome = np.where(np.arange(hospitals * rows) % rows < 2, ["well", "ill"] * (hospitals * rows // 2), np.where(age > 50, "ill", "well"))
    return pd.DataFrame({"hospital": hospital, "age": age, "sex": sex, "dose": dose, "outcome": outcome})


def write_patients(folder: Path, target: str, frame: pd.DataFrame | None = None, extra: str = "") -> Path:
    """The config, with the table beside it."""
    other = "outcome" if target == "dose" else "dose"
    (patients() if frame is None else frame).to_csv(folder / "patients.csv", index=False)
    config = folder / f"{target}.toml"
    config.write_text(PATIENTS.replace("TARGET", target).replace("OTHER", other).replace("[model]", f"{extra}\n[model]"))
    return config


def write_digits(folder: Path, *changes: tuple[str, str]) -> Path:
    """The config; every change must find its text."""
    text = DIGITS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "tiny.toml").write_text(text)
    return folder / "tiny.toml"


def digits(start: int = 0, stop: int = 30) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Raw rows ``(n, 8, 8)`` with values 0..16, and class names."""
    data = load_digits()
    return data.images[start:stop], [str(value) for value in data.target[start:stop]]


@contextlib.contextmanager
def full_disk(room: int = 100) -> Iterator[None]:
    """No file of this process may grow beyond ``room`` bytes: what a full disk does, for as long as it is wanted."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(*words: object) -> int:
    """The exit code of a command in this process."""
    return main([str(word) for word in words])


def strategy(study: Path) -> Path:
    """Where a study puts the strategy that it ships."""
    return study / "strategy.safetensors"
