"""Files that several tests read: every one is exported once, whichever of the test processes comes first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from edge_models import CLASSES, NUMBERS, Edge, EdgePair, images, personal, table, untrained
from filelock import FileLock

from metabayfl.export.adapter import export_strategy
from metabayfl.export.adapting import Shares
from metabayfl.export.predictor import export_predictor
from metabayfl.personal import PersonalStrategy


@pytest.fixture(scope="session")
def table_edge(tmp_path_factory: pytest.TempPathFactory) -> Edge:
    """Classification of a table with categories and missing numbers."""
    model = personal(untrained(table(CLASSES), {"name": "mlp", "hidden": (6, 4)}, generator="full"))
    file = tmp_path_factory.mktemp("table") / "posterior.onnx"
    export_predictor(model, file)
    return Edge(model, file)


@pytest.fixture(scope="session")
def image_pair(together: Path) -> EdgePair:
    """Adapting in classification, on images."""
    return pair(untrained(images(CLASSES), {"name": "cnn", "channels": (3, 4), "width": 6}, generator="separable"), together / "images", Shares())


@pytest.fixture(scope="session")
def number_pair(together: Path) -> EdgePair:
    """Adapting in regression with two targets, on a table."""
    return pair(untrained(table(NUMBERS), {"name": "mlp", "hidden": (6, 4)}, generator="full"), together / "numbers", Shares(refer=0.3))


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the test processes of one run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def pair(source: PersonalStrategy, folder: Path, shares: Shares) -> EdgePair:
    """A strategy's two files; half a minute's work, so a process that comes later takes what is there."""
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            export_strategy(source, folder, shares=shares)
            (folder / "done").touch()
    return EdgePair(source, folder / "adapt.onnx", folder / "predict.onnx")
