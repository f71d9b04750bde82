"""What the tests of the command line share: files of one client, and how a refusal looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tiny import digits, patients, run

Capture = pytest.CaptureFixture[str]
Run = Callable[..., str]


@pytest.fixture
def refused(capsys: Capture) -> Run:
    """The message of a command that fails as a user's error does."""

    def told(*words: object) -> str:
        capsys.readouterr()
        assert run(*words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err

    return told


@pytest.fixture
def own_digits(tmp_path: Path) -> Path:
    x, y = digits()
    np.savez(tmp_path / "own.npz", x=x, y=y)
    return tmp_path / "own.npz"


@pytest.fixture
def own_patients(tmp_path: Path) -> Path:
    patients(seed=1).iloc[:14].to_csv(tmp_path / "own.csv", index=False)
    return tmp_path / "own.csv"
