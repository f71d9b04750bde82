"""One client's model as a file: the same answers as the library, for every head, generator and kind of input, and in the promised bytes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from edge_models import CLASSES, NUMBERS, Edge, images, personal, raw_rows, signals, split, table, untrained
from torch import nn

from metabayfl import config as configs
from metabayfl.data.schema import Schema
from metabayfl.errors import ModelError, StorageError
from metabayfl.export import building, checking, on_device
from metabayfl.export.predictor import export_predictor
from metabayfl.models import from_module
from metabayfl.personal import PersonalModel, PersonalStrategy, rebuild
from tiny import full_disk

ROWS = 1000
MLP = {"name": "mlp", "hidden": (6, 4)}
DEEP = {"name": "mlp", "hidden": (12, 10), "skip": True, "clip": 3.0}
CNN = {"name": "cnn", "channels": (3, 4), "width": 6}
CNN1D = {"name": "cnn1d", "channels": (3, 4), "width": 6}
SCATTERING = {"name": "scattering", "angles": 3, "width": 6}

CASES: dict[str, tuple[Schema, dict[str, Any], str, dict[str, Any]]] = {
    "hashed, signals, classes": (signals(CLASSES), CNN1D, "meta_bayfl", {"generator": "hashed", "hash_size": 50}),
    "separable, images, classes": (images(CLASSES), CNN, "meta_bayfl", {"generator": "separable"}),
    "mixed, wavelets, classes": (images(CLASSES), SCATTERING, "meta_bayfl", {"generator": "mixed", "hash_size": 20}),
    "full, table, numbers": (table(NUMBERS), DEEP, "meta_bayfl", {"generator": "full"}),
    "hashed, table, numbers": (table(NUMBERS), MLP, "meta_bayfl", {"generator": "hashed", "hash_size": 20, "tails": False}),
    "separable, colours, numbers": (images(NUMBERS, 3), CNN, "meta_bayfl", {"generator": "separable"}),
    "mixed, signals, numbers": (signals(NUMBERS), CNN1D, "meta_bayfl", {"generator": "mixed", "hash_size": 20}),
    "a point, signals, numbers": (signals(NUMBERS), CNN1D, "fedavg_ft", {"adapt_steps": 2}),
    "sampled weights, table, classes": (table(CLASSES), MLP, "mean_field", {"inner_steps": 1, "samples": 4}),
}


def answers(file: Path, raw: dict[str, Any]) -> dict[str, Any]:
    opened = on_device.session(str(file))
    names = [item.name for item in opened.get_outputs()]
    return dict(zip(names, opened.run(names, {item.name: raw[item.name] for item in opened.get_inputs()}), strict=True))


def agrees(model: PersonalModel, found: dict[str, Any], raw: dict[str, Any]) -> None:
    """Held against what the library says of the rows that it takes."""
    schema = model.schema
    takes = found["valid"]
    assert 0.9 * len(takes) < takes.sum()
    x, _ = split(model.source, {name: values[takes] for name, values in raw.items()})
    expected = model.predict(x)
    assert found["refer"][~takes].all()
    assert (found["refer"][takes] == expected.refer).all()
    assert (found["novel"][takes] == expected.novel).all()
    if schema.kind == "classification":
        assert (found["label_" if "label_" in found else "label"][takes] == expected.label).all()
        np.testing.assert_allclose(found["probabilities"][takes], expected.probabilities, atol=1e-5, rtol=0)
    else:
        unit = np.asarray(schema.target_scale)
        np.testing.assert_allclose(found["mean"][takes] / unit, expected.label / unit, atol=1e-5, rtol=1e-6)
        np.testing.assert_allclose(found["interval"][takes] / unit[:, None], expected.interval / unit[:, None], atol=1e-5, rtol=1e-6)
    square = np.asarray(schema.target_scale) ** 2 if schema.kind == "regression" else 1.0
    for part in ("total", "aleatoric", "epistemic"):
        np.testing.assert_allclose(found[part][takes] / square, getattr(expected, part) / square, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_file_says_what_the_library_says(case: str, tmp_path: Path) -> None:
    schema, network, algorithm, arguments = CASES[case]
    model = personal(untrained(schema, network, algorithm, **arguments))
    written = export_predictor(model, tmp_path / "posterior.onnx")
    assert written.size == written.path.stat().st_size
    assert written.agreement.deviation <= 1e-5
    raw = raw_rows(model.source, ROWS, seed=3)
    found = answers(written.path, raw)
    agrees(model, found, raw)


def test_a_table_with_categories_and_missing_numbers(table_edge: Edge) -> None:
    raw = raw_rows(table_edge.model.source, ROWS, seed=3)
    raw["view"][:10] = ""
    raw["view"][10:20] = "from above"
    agrees(table_edge.model, answers(table_edge.file, raw), raw)


def test_what_the_schema_refuses_is_not_valid_and_referred(table_edge: Edge) -> None:
    raw = raw_rows(table_edge.model.source, 6)
    raw["label"][0], raw["age"][1], raw["dose mg/l"][2] = "unheard of", 4e6, np.inf
    found = answers(table_edge.file, raw)
    assert found["valid"].tolist() == [False, False, False, True, True, True]
    assert found["refer"][:3].all()


def test_one_row_and_many_give_the_same(table_edge: Edge) -> None:
    raw = raw_rows(table_edge.model.source, 5)
    together = answers(table_edge.file, raw)
    alone = [answers(table_edge.file, {name: values[at : at + 1] for name, values in raw.items()}) for at in range(5)]
    for name, values in together.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, np.concatenate([one[name] for one in alone]), atol=1e-6)
        else:
            assert values.tolist() == np.concatenate([one[name] for one in alone]).tolist()


def test_the_metadata_say_all_that_a_device_needs(table_edge: Edge) -> None:
    model = table_edge.model
    about = on_device.about(on_device.session(str(table_edge.file)))
    assert about["kind"] == "predictor"
    assert about["classes"] == ["ill", "unsure", "well"]
    assert about["strategy"] == model.source.strategy.digest()
    assert about["threshold"] == pytest.approx(model.threshold)
    assert Schema.from_json(about["schema"]) == model.schema
    assert [item["name"] for item in about["inputs"]] == ["age", "view", "constant", "label", "dose mg/l"]
    assert [item["name"] for item in about["outputs"]] == [item.name for item in on_device.session(str(table_edge.file)).get_outputs()]
    graph = onnx.load(table_edge.file).graph
    assert not any(node.doc_string or node.metadata_props for node in graph.node)


@pytest.mark.slow
def test_the_fashion_mnist_predictor_fits_in_300_kilobytes_and_in_80_as_int8(tmp_path: Path) -> None:
    config = configs.read("fashion_mnist_dirichlet")
    ten: dict[str, Any] = {"kind": "classification", "classes": tuple("0123456789"), "targets": ("article",)}
    schema = dataclasses.replace(images(ten), input_shape=(1, 28, 28))
    arguments = {name: value for name, value in config.algorithm["meta_bayfl"].items() if name != "train"}
    model = personal(untrained(schema, dict(config.model), **arguments), samples=20)
    whole, small = (export_predictor(model, tmp_path / f"{int8}.onnx", int8=int8) for int8 in (False, True))
    assert (tmp_path / "False.onnx").stat().st_size == whole.size <= 300_000
    assert (tmp_path / "True.onnx").stat().st_size == small.size <= 80_000


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3))
    network = from_module(net, (10,), 3)
    source = untrained(table(CLASSES), MLP, "fedavg")
    meta = {"body": network.init(torch.tensor(0))["body"], "head": network.init(torch.tensor(0))["head"]}
    own: PersonalStrategy = rebuild(source.strategy.__class__(source.strategy.spec, meta, source.strategy.schema), network)
    model = personal(own)
    export_predictor(model, tmp_path / "own.onnx")
    raw = raw_rows(own, 100)
    agrees(model, answers(tmp_path / "own.onnx", raw), raw)


@pytest.mark.slow
def test_a_network_that_cannot_be_followed_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(10, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.special.i1(x))

    network = from_module(Odd(), (10,), 3, head=None, vectorise=False)
    source = untrained(table(CLASSES), MLP, "fedavg")
    own = rebuild(source.strategy.__class__(source.strategy.spec, network.init(torch.tensor(0)), source.strategy.schema), network)
    with pytest.raises(ModelError, match=r"predictor of 'fedavg' cannot be written as ONNX .* predict with Python"):
        export_predictor(personal(own), tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()


def _written(model: PersonalModel, built: building.Built, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metabayfl.export.predictor.graph_of", lambda plan: None)
    monkeypatch.setattr("metabayfl.export.predictor.build", lambda *arguments, **options: built)
    export_predictor(model, path)


def test_a_full_disk_leaves_no_half_file(table_edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = building.Built(table_edge.file.read_bytes(), checking.Agreement(1, 0.0, "total", 0))
    with full_disk(), pytest.raises(StorageError):
        _written(table_edge.model, built, tmp_path / "posterior.onnx", monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_deviates_is_refused() -> None:
    for found in (checking.Agreement(64, 2e-5, "total", 0), checking.Agreement(64, 0.0, "total", 1), checking.Agreement(64, np.inf, "total", 0)):
        with pytest.raises(ModelError, match=re.escape("nothing was written")):
            checking.require(found, "the predictor of 'x'")
    checking.require(checking.Agreement(64, 9e-6, "total", 0), "the predictor of 'x'")
