"""Tables: csv, parquet and data frames, with the roles of their columns."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from metabayfl.data import DataOptions, build_federation, from_frame
from metabayfl.data.sources import load
from metabayfl.errors import ConfigError, DataError

FRAME = pd.DataFrame(
    {
        "who": ["a", "a", "b", "b", "c", "c"],
        "age": [40.0, np.nan, 60.0, 70.0, 50.0, 30.0],
        "sex": ["f", "m", "m", None, "f", "x"],
        "stage": [1, 2, 2, 1, 1, 2],
        "ill": ["no", "yes", "no", "yes", "no", "yes"],
    }
)
ROLES = DataOptions(client="who", target="ill", categorical=("stage",))


def test_columns_are_numeric_or_categorical() -> None:
    raw = from_frame(FRAME, ROLES, "t")
    assert [(info.name, info.kind) for info in raw.features] == [("age", "numeric"), ("sex", "categorical"), ("stage", "categorical")]
    assert raw.columns["stage"].tolist() == ["1", "2", "2", "1", "1", "2"]
    assert raw.columns["sex"].tolist() == ["f", "m", "m", None, "f", "x"]
    assert raw.y.labels == ("no", "yes")
    assert raw.client.names == ("a", "b", "c")


@pytest.mark.parametrize("form", ["csv", "parquet", "mapping"])
def test_every_form_of_a_table_gives_the_same_rows(form: str, tmp_path: Path) -> None:
    data = None
    if form == "csv":
        FRAME.to_csv(tmp_path / "t.csv", index=False)
    elif form == "parquet":
        FRAME.to_parquet(tmp_path / "t.parquet")
    else:
        data = FRAME.to_dict("list")
    options = DataOptions(
        source=form if data is None else "csv", path=f"t.{form}", client="who", target="ill", heldout_ids=("c",), validation_ids=("b",), support=1
    )
    federation = build_federation(options, data=data, base=tmp_path)
    same = build_federation(options, data=FRAME)
    assert federation.schema == same.schema
    assert federation.fingerprint == same.fingerprint
    assert np.array_equal(federation.heldout.read(0)[0], same.heldout.read(0)[0])


def test_parquet_reads_the_columns_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FRAME.to_parquet(tmp_path / "t.parquet")
    asked = []
    read = pd.read_parquet
    monkeypatch.setattr(pd, "read_parquet", lambda file, columns: asked.append(columns) or read(file, columns=columns))
    raw = load(DataOptions(source="parquet", path="t.parquet", client="who", target="ill", features=("age",)), tmp_path)
    assert asked == [["who", "age", "ill"]]
    assert list(raw.columns) == ["age"]


def test_missing_values_and_new_categories_are_encoded_from_training_alone() -> None:
    options = DataOptions(client="who", target="ill", train_clients=1, validation_ids=("b",), heldout_ids=("c",), support=1, support_order="first")
    federation = build_federation(options, data=FRAME)
    age, sex, stage = federation.schema.features
    assert (age.mean, age.scale, age.fill, age.indicator) == (40.0, 0.0, 40.0, True)
    assert (sex.categories, sex.unseen) == (("f", "m"), True)
    assert (stage.kind, stage.mean, stage.scale) == ("numeric", 1.5, 0.5)
    assert federation.train.read(0)[0].tolist() == [[0, 0, 1, 0, 0, -1], [0, 1, 0, 1, 0, 1]]
    assert federation.validation.read(0)[0][1].tolist() == [0, 0, 0, 0, 1, -1]
    assert federation.heldout.read(0)[0][1].tolist() == [0, 0, 0, 0, 1, 1]


def test_a_new_category_can_be_an_error() -> None:
    options = DataOptions(client="who", target="ill", exclude=("age",), unseen="error", heldout_ids=("c",), validation_clients=0, support=1)
    with pytest.raises(DataError, match=r"feature 'sex' is missing in 1 training rows"):
        build_federation(options, data=FRAME)
    with pytest.raises(DataError, match=r"client 'c': feature 'sex': given the unknown category 'x' in row 1, expected one of 'f', 'm'"):
        build_federation(options, data=FRAME.fillna({"sex": "m"}))
    whole = build_federation(options, data=FRAME.fillna({"sex": "m"}).replace({"sex": {"x": "f"}}))
    assert whole.schema.columns == ("sex = f", "sex = m", "stage")


def test_rows_with_a_missing_value_can_be_left_out() -> None:
    raw = from_frame(FRAME, DataOptions(client="who", target="ill", drop_missing=True), "t")
    assert raw.columns["age"].tolist() == [40.0, 60.0, 50.0, 30.0]
    assert raw.notes == ("dropped 2 of 6 rows with a missing value",)


def test_a_file_per_client_without_a_header(tmp_path: Path) -> None:
    for name, rows in (("north", "1 ? 0\n2 5 3\n"), ("south", "3 4 1\n4 9 0\n")):
        (tmp_path / f"{name}.data").write_text(rows)
    options = DataOptions(
        path=("north.data", "south.data"),
        separator="whitespace",
        names=("a", "b", "num"),
        na_values=("?",),
        client_per_file=True,
        target="num",
        positive_above=0,
    )
    raw = load(options, tmp_path)
    assert raw.client.names == ("north", "south")
    assert raw.client.codes.tolist() == [0, 0, 1, 1]
    assert raw.y.values.tolist() == [0, 1, 1, 0]
    assert np.isnan(raw.columns["b"][0])
    named = load(DataOptions(**{**vars(options), "client_names": ("N", "S")}), tmp_path)
    assert named.client.names == ("N", "S")
    with pytest.raises(DataError, match=r"2 files with a client each need 2 different client_names"):
        load(DataOptions(**{**vars(options), "client_names": ("N",)}), tmp_path)
    with pytest.raises(DataError, match=r"north.data has 3 columns, but names lists 2"):
        load(DataOptions(**{**vars(options), "names": ("a", "b")}), tmp_path)


def test_a_countdown_is_what_is_left_and_can_be_capped() -> None:
    frame = pd.DataFrame({"engine": [1, 2, 1, 1, 2], "cycle": [3, 1, 1, 2, 2], "s": [0.3, 0.1, 0.2, 0.4, 0.5]})
    raw = from_frame(frame, DataOptions(client="engine", target_countdown="cycle", features=("s",), sort_by="cycle"), "t")
    assert raw.columns["s"].tolist() == [0.1, 0.2, 0.4, 0.5, 0.3]
    assert raw.y.values[:, 0].tolist() == [1, 2, 1, 0, 0]
    assert raw.y.names == ("cycle remaining",)
    capped = from_frame(frame, DataOptions(client="engine", target_countdown="cycle", target_cap=1.0), "t")
    assert capped.y.values.max() == 1.0
    with pytest.raises(DataError, match=r"needs the client of every row"):
        from_frame(frame, DataOptions(target_countdown="cycle"), "t")


def test_several_regression_targets() -> None:
    options = DataOptions(client="who", target=("age", "stage"), features=("sex",), heldout_ids=("c",), validation_clients=0, support=1)
    federation = build_federation(options, data=FRAME.fillna({"age": 50.0}))
    assert federation.schema.targets == ("age", "stage")
    assert federation.train.read(0)[1].shape == (2, 2)
    with pytest.raises(DataError, match=r"target with NaN or infinite values \(column: rows\) age: 1, of 6 rows"):
        build_federation(options, data=FRAME)


def test_nullable_and_boolean_columns_are_numbers() -> None:
    frame = FRAME.assign(n=pd.array([1, None, 3, 4, 5, 6], dtype="Int64"), b=[True, False, True, True, False, True], o=[True, None] * 3)
    raw = from_frame(frame, ROLES, "t")
    assert {info.name for info in raw.features if info.kind == "numeric"} == {"age", "n", "b", "o"}
    assert np.isnan(raw.columns["n"][1])
    assert raw.columns["b"].tolist() == [1, 0, 1, 1, 0, 1]
    assert np.isnan(raw.columns["o"][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DataOptions(client="whom", target="ill"), r"t has no client column 'whom'. Did you mean 'who'\? It has: who, age, sex, stage, ill"),
        (DataOptions(client="who"), "no target given. Set target to one of its columns: who, age, sex, stage, ill"),
        (DataOptions(client="who", target="sick"), "t has no target column 'sick'"),
        (DataOptions(client="who", target="ill", features=("height",)), "t has no column 'height'"),
        (DataOptions(client="who", target="ill", features=("ill",)), "column 'ill' is the target and cannot be a feature"),
        (DataOptions(client="who", target="ill", features=("who",)), "column 'who' is the client and cannot be a feature"),
        (DataOptions(client="who", target="ill", exclude=("age", "sex", "stage")), "no feature is left"),
        (DataOptions(client="who", target="ill", sort_by="age"), "sort_by column 'age' is missing in 1 of 6 rows"),
        (DataOptions(client="who", target="ill", sort_by="sex"), "column 'sex' holds .* values, such as 'f'; expected numbers"),
        (
            DataOptions(client="who", target="ill", max_categories=2),
            "column 'sex' holds 3 different texts, such as 'f', more than max_categories = 2",
        ),
        (DataOptions(client="who", target="sex"), "target sex: 1 of 6 rows have no class"),
        (DataOptions(client="who", target="ill", kind="regression"), "target ill: a regression target must be numbers"),
        (DataOptions(client="who", target="ill", flag="official"), "t has no flag column 'official'"),
    ],
)
def test_columns_that_are_not_there_or_do_not_fit(options: DataOptions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_frame(FRAME, options, "t")


def test_columns_that_are_neither_numbers_nor_categories() -> None:
    with pytest.raises(DataError, match=r"column 'day' holds dates or times"):
        from_frame(FRAME.assign(day=pd.to_datetime(["2020-01-01"] * 6)), ROLES, "t")
    with pytest.raises(DataError, match=r"column 'mix' holds 5 numbers with text between them, such as '\?'"):
        from_frame(FRAME.assign(mix=["1", "2", "?", "4", "5", "6"]), ROLES, "t")
    with pytest.raises(DataError, match=r"column 'mix' holds 6 numbers with all of them written as text"):
        from_frame(FRAME.assign(mix=list("123456")), ROLES, "t")
    with pytest.raises(DataError, match=r"column 'list' holds values of type list"):
        from_frame(FRAME.assign(list=[[1]] * 6), ROLES, "t")
    with pytest.raises(DataError, match=r"given a ndarray, expected a pandas data frame"):
        from_frame(np.zeros((2, 2)), ROLES, "t")


def test_duplicate_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("who,a,a,y\n1,2,3,4\n")
    with pytest.raises(DataError, match=r"t.csv has several columns of one name: a"):
        load(DataOptions(path="t.csv", client="who", target="y"), tmp_path)
    with pytest.raises(DataError, match=r"t has several columns of one name: age"):
        from_frame(FRAME[["who", "age", "age", "ill"]], ROLES, "t")
    schema = pa.schema([("who", pa.int64()), ("a", pa.int64()), ("a", pa.int64())])
    parquet.write_table(pa.Table.from_arrays([pa.array([1])] * 3, schema=schema), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t.parquet has several columns of one name: a"):
        load(DataOptions(source="parquet", path="t.parquet", client="who", target="a"), tmp_path)


def test_files_that_are_no_tables_or_differ(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    (tmp_path / "a.csv").write_text("who,y\n1,2\n")
    (tmp_path / "b.csv").write_text("who,z\n1,2\n")
    for name, message in (("empty.csv", "empty.csv is not a table of text"), ("bad.parquet", "bad.parquet is not a parquet file")):
        with pytest.raises(DataError, match=message):
            load(DataOptions(source=name.partition(".")[2], path=name, target="y"), tmp_path)
    with pytest.raises(DataError, match=r"b.csv has the columns who, z, a.csv has who, y"):
        load(DataOptions(path=("a.csv", "b.csv"), target="y"), tmp_path)


def test_without_pandas_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("who,y\n1,2\n")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DataError, match=r"source 'csv' needs pandas: install it with  pip install 'metabayfl\[tables\]'"):
        load(DataOptions(path="t.csv", target="y"), tmp_path)


def test_a_cap_without_a_countdown_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"target_cap caps a countdown"):
        DataOptions(target_cap=3.0)
