"""Files that several tests read: every one is exported once."""

from __future__ import annotations

import pytest
from edge_models import CLASSES, NUMBERS, Edge, EdgePair, images, personal, table, untrained

from metabayfl.export.adapter import export_strategy
from metabayfl.export.adapting import Shares
from metabayfl.export.predictor import export_predictor


@pytest.fixture(scope="session")
def table_edge(tmp_path_factory: pytest.TempPathFactory) -> Edge:
    """Classification of a table with categories and missing numbers."""
    model = personal(untrained(table(CLASSES), {"name": "mlp", "hidden": (6, 4)}, generator="full"))
    file = tmp_path_factory.mktemp("table") / "posterior.onnx"
    export_predictor(model, file)
    return Edge(model, file)


@pytest.fixture(scope="session")
def image_pair(tmp_path_factory: pytest.TempPathFactory) -> EdgePair:
    """Adapting in classification, on images."""
    source = untrained(images(CLASSES), {"name": "cnn", "channels": (3, 4), "width": 6}, generator="separable")
    folder = tmp_path_factory.mktemp("images")
    export_strategy(source, folder)
    return EdgePair(source, folder / "adapt.onnx", folder / "predict.onnx")


@pytest.fixture(scope="session")
def number_pair(tmp_path_factory: pytest.TempPathFactory) -> EdgePair:
    """Adapting in regression with two targets, on a table."""
    source = untrained(table(NUMBERS), {"name": "mlp", "hidden": (6, 4)}, generator="full")
    folder = tmp_path_factory.mktemp("numbers")
    export_strategy(source, folder, shares=Shares(refer=0.3))
    return EdgePair(source, folder / "adapt.onnx", folder / "predict.onnx")
