"""Small federations whose sites hold a file each, for runs in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hospitals import HOSPITALS, MakeJob, config

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metabayfl[flower]'")

from metabayfl.flower.coordinator import Job, Options
from metabayfl.flower.network import Patience
from metabayfl.flower.plan import plan
from metabayfl.flower.site_data import Site
from tiny import patients


@pytest.fixture(scope="session")
def rows() -> pd.DataFrame:
    return patients(hospitals=len(HOSPITALS), rows=14)


@pytest.fixture
def sites(tmp_path: Path, rows: pd.DataFrame) -> list[Site]:
    """A site for every hospital, with its rows in a file without a client column."""
    found = []
    for name in HOSPITALS:
        file = tmp_path / f"{name}.csv"
        rows[rows["hospital"] == name].drop(columns="hospital").to_csv(file, index=False)
        found.append(Site(name, file, tmp_path / "kept" / name))
    return found


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """A job over the hospitals; time limits are in the still-standing time of the grid."""

    def make(out: str = "server", algorithm: str = "meta_bayfl", seed: int = 0, test_share: float = 0.0, **options: Any) -> Job:
        changes = {name: options.pop(name) for name in ("target", "extra") if name in options}
        schema = options.pop("schema", None)
        agreed = plan(config(tmp_path, algorithm=algorithm, **changes), algorithm, seed, test_share, schema)
        return Job(agreed, tmp_path / out, Options(**{"sites": len(HOSPITALS), "patience": Patience(resend=30.0), **options}))

    return make
