"""What the tests of federations share: hospitals with a file each, and a config over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from metabayfl import config as configs
from metabayfl.flower.coordinator import Job, Options
from metabayfl.flower.network import Patience
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import plan
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


def write_sites(folder: Path, rows: pd.DataFrame) -> list[Site]:
    """A site for every hospital, with its rows in a file without a client column."""
    found = []
    for name in HOSPITALS:
        file = folder / f"{name}.csv"
        rows[rows["hospital"] == name].drop(columns="hospital").to_csv(file, index=False)
        found.append(Site(name, file, folder / "kept" / name))
    return found


def job_in(folder: Path, out: str = "server", algorithm: str = "fedavg", seed: int = 0, test_share: float = 0.0, **options: Any) -> Job:
    """A job over the hospitals in a folder, with a new object for every option that is given."""
    changes = {name: options.pop(name) for name in ("target", "extra") if name in options}
    agreed = plan(config(folder, algorithm=algorithm, **changes), algorithm, seed, test_share, options.pop("schema", None))
    return Job(agreed, folder / out, Options(**{"sites": len(HOSPITALS), "patience": Patience(resend=30.0), **options}))
