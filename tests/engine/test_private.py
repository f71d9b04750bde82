"""Private runs on disk: they end where the budget does, pay once for what they repeat, and do not go on without their ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metabayfl import storage, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Federation
from metabayfl.engine import job
from metabayfl.engine.options import TrainOptions
from metabayfl.errors import ArtifactError
from metabayfl.models import mlp
from metabayfl.privacy.ledger import LEDGER
from metabayfl.privacy.ledger import read as ledger
from metabayfl.privacy.options import PrivacyOptions
from metabayfl.types import Algorithm

pytest.importorskip("dp_accounting")

OPTIONS = TrainOptions(rounds=6, cohort=3, validate_every=0, privacy=PrivacyOptions(epsilon=2.0, noise_multiplier=2.0, clip=0.5))


def algorithm() -> Algorithm:
    network = mlp((4,), 3, hidden=(4,))
    return ALGORITHMS["fedavg"](network)._replace(init=lambda key: tree.to(network.init(key), torch.float64))


def trained(folder: Path, federation: Federation, stop: int = 0) -> list[int]:
    """The numbers of the rounds that ran; with ``stop`` it is left after that one."""
    done: list[int] = []
    run = job.run(folder, algorithm(), federation, OPTIONS, 0, "a")
    for _, info in run:
        done.append(info.round)
        if info.round == stop:
            break
    return done


def test_a_run_ends_before_the_round_that_the_budget_does_not_bear(federation: Federation, tmp_path: Path) -> None:
    rounds = trained(tmp_path, federation)
    book = ledger(tmp_path / LEDGER)
    assert len(rounds) == book.releases == book.affordable < OPTIONS.rounds
    assert 0.0 < book.spent <= 2.0


def test_a_run_that_goes_on_pays_once_for_each_round(federation: Federation, tmp_path: Path) -> None:
    first = trained(tmp_path / "stopped", federation, stop=1)
    assert first + trained(tmp_path / "stopped", federation) == trained(tmp_path / "whole", federation)
    files = [tmp_path / name / job.CHECKPOINT for name in ("stopped", "whole")]
    assert storage.read_bytes(files[0]) == storage.read_bytes(files[1])


def test_a_run_does_not_go_on_without_its_ledger(federation: Federation, tmp_path: Path) -> None:
    trained(tmp_path, federation, stop=1)
    (tmp_path / LEDGER).unlink()
    with pytest.raises(ArtifactError, match="1 rounds were done, and there is no"):
        trained(tmp_path, federation)
