"""The adapter to flwr-datasets, on objects with the interface of its data sets and partitioners."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabayfl.data import DataOptions, build_federation, from_huggingface
from metabayfl.data.sources import load
from metabayfl.errors import DataError


class FakeDataset:
    """What the adapter uses of ``datasets.Dataset``: length, column names, columns."""

    def __init__(self, columns: dict[str, Sequence[Any]]) -> None:
        self.columns = columns
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(self.columns[self.column_names[0]])

    def __getitem__(self, name: str) -> Sequence[Any]:
        return self.columns[name]

    def select(self, rows: Sequence[int]) -> FakeDataset:
        return FakeDataset({name: [values[i] for i in rows] for name, values in self.columns.items()})


class FakePartitioner:
    """The interface of ``flwr_datasets.partitioner.Partitioner``; row i goes to client i modulo ``num_partitions``."""

    def __init__(self, num_partitions: int = 3, names: dict[int, str] | None = None) -> None:
        self.num_partitions = num_partitions
        self.partition_id_to_natural_id = names or {}
        self.dataset: FakeDataset | None = None

    def is_dataset_assigned(self) -> bool:
        return self.dataset is not None

    def load_partition(self, partition_id: int) -> FakeDataset:
        assert self.dataset is not None
        return self.dataset.select(range(partition_id, len(self.dataset), self.num_partitions))


PIXELS = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3)).astype(np.uint8)
IMAGES = FakeDataset({"image": [Image.fromarray(pixels) for pixels in PIXELS], "label": [i // 3 % 2 for i in range(30)]})
TABLE = FakeDataset(
    {"age": [float(i) for i in range(30)], "sex": ["f", "m"] * 15, "label": [i // 3 % 2 for i in range(30)], "site": ["s", "t", "u"] * 10}
)
OPTIONS = DataOptions(source="huggingface", x="image", target="label", validation_clients=1, heldout_clients=1, support=4)


def test_images_by_a_partitioner_object() -> None:
    raw = from_huggingface(IMAGES, OPTIONS, FakePartitioner(names={0: "x", 1: "y", 2: "z"}))
    assert raw.client.names == ("x", "y", "z")
    assert np.array_equal(raw.x[:10], PIXELS[::3])
    federation = build_federation(OPTIONS, data=raw)
    assert federation.schema.input_shape == (3, 4, 4)
    assert federation.train.read(0)[0].shape == (10, 3, 4, 4)


def test_a_partitioner_that_has_its_data_keeps_it() -> None:
    partitioner = FakePartitioner()
    partitioner.dataset = IMAGES.select(range(12))
    assert len(from_huggingface(IMAGES, OPTIONS, partitioner).x) == 12


def test_a_table_by_a_partitioner_or_by_a_column() -> None:
    options = DataOptions(target="label", client="site", validation_clients=1, heldout_clients=1, support=4)
    by_column = from_huggingface(TABLE, options)
    assert [info.name for info in by_column.features] == ["age", "sex"]
    assert by_column.client.names == ("s", "t", "u")
    by_object = from_huggingface(TABLE, DataOptions(target="label", exclude=("site",)), FakePartitioner())
    assert by_object.client.names == ("0", "1", "2")
    assert len(build_federation(options, data=by_column).heldout.ids) == 1


def test_a_partitioner_and_a_data_set_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    partitioners = ModuleType("flwr_datasets.partitioner")
    partitioners.IidPartitioner = FakePartitioner
    asked = []
    fake = SimpleNamespace(load_dataset=lambda path, split: asked.append((path, split)) or IMAGES, load_from_disk=lambda path: {"train": IMAGES})
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setitem(sys.modules, "flwr_datasets", ModuleType("flwr_datasets"))
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", partitioners)
    options = DataOptions(source="huggingface", path="who/images", x="image", partitioner="IidPartitioner", partitioner_args={"num_partitions": 5})
    raw = load(options, tmp_path)
    assert asked == [("who/images", "train")]
    assert raw.client.names == ("0", "1", "2", "3", "4")
    (tmp_path / "saved").mkdir()
    assert len(load(DataOptions(source="huggingface", path="saved", x="image"), tmp_path).x) == 30
    with pytest.raises(DataError, match=r"saved has no split 'test'"):
        load(DataOptions(source="huggingface", path="saved", x="image", hf_split="test"), tmp_path)
    with pytest.raises(DataError, match=r"flwr_datasets has no partitioner 'IdPartitioner'. Did you mean 'IidPartitioner'"):
        from_huggingface(IMAGES, options, "IdPartitioner")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    with pytest.raises(DataError, match=r"partitioner 'IidPartitioner' needs flwr_datasets: install it with  pip install 'metabayfl\[huggingface\]'"):
        from_huggingface(IMAGES, OPTIONS, "IidPartitioner")
    with pytest.raises(DataError, match=r"needs path: one name on the Hub"):
        load(DataOptions(source="huggingface"), tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"source 'huggingface' needs datasets: install it with  pip install 'metabayfl\[huggingface\]'"):
        load(DataOptions(source="huggingface", path="who/images"), tmp_path)

    def absent(path: str, split: str) -> None:
        raise FileNotFoundError(f"{path} is not on the Hub")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=absent))
    with pytest.raises(DataError, match=r"'who/images' could not be loaded: who/images is not on the Hub. Get it from hf.co"):
        load(DataOptions(source="huggingface", path="who/images", where="hf.co"), tmp_path)


def test_columns_and_shapes_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"has no target column 'digit'"):
        from_huggingface(IMAGES, DataOptions(x="image", target="digit"))
    ragged = FakeDataset({"image": [np.zeros((2, 2)), np.zeros((3, 2))], "label": [0, 1]})
    with pytest.raises(DataError, match=r"column 'image' has inputs of the shapes \(2, 2\), \(3, 2\)"):
        from_huggingface(ragged, DataOptions(x="image", target="label"))


def test_client_and_flag_columns_of_images() -> None:
    dataset = FakeDataset({**IMAGES.columns, "writer": [i // 10 for i in range(30)], "test": [i >= 20 for i in range(30)]})
    raw = from_huggingface(dataset, DataOptions(x="image", client="writer", flag="test"))
    assert raw.client.names == ("0", "1", "2")
    federation = build_federation(DataOptions(flag="test", validation_clients=1, support=4), data=raw)
    assert federation.heldout.ids == ("2",)
