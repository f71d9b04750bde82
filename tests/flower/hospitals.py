"""What the tests of federations share: hospitals with a file each, and a config over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metabayfl import config as configs
from metabayfl.flower.coordinator import Job
from tiny import PATIENTS

HOSPITALS = tuple(f"h{at}" for at in range(6))

ROLES = 'support = 6\nvalidation_ids = ["h4"]\nheldout_ids = ["h5"]'

MakeJob = Callable[..., Job]


def text(target: str = "outcome", algorithm: str = "meta_bayfl", extra: str = "") -> str:
    """A config of the hospitals: four train, one validates, one is held out."""
    found = PATIENTS.replace("TARGET", target).replace("OTHER", "dose" if target == "outcome" else "outcome").replace("support = 6", ROLES)
    found = found.replace("cohort = 4", f"cohort = 3\nvalidate_every = 2\nvectorise = false\nchunk = 1\n{extra}")
    return found if algorithm == "meta_bayfl" else found.replace('["meta_bayfl"]', f'["{algorithm}"]').split("[algorithm")[0]


def config(folder: Path, **changes: Any) -> configs.Config:
    (folder / "hospitals.toml").write_text(text(**changes))
    return configs.read(folder / "hospitals.toml")
