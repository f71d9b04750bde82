"""Encoding: what fits comes out standardised, and what does not fit is refused by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from metabayfl.data import Feature, Schema
from metabayfl.errors import SchemaError

AGE = Feature("age", "numeric", mean=50.0, scale=10.0, fill=50.0, indicator=True)
SEX = Feature("sex", "categorical", ("f", "m"), unseen=True)
CODE = Feature("code", "categorical", ("1", "2"))
FIXED = Feature("fixed", "numeric", mean=3.0, scale=0.0, fill=3.0)
TABLE = Schema("classification", (8,), "table", (AGE, SEX, CODE, FIXED), classes=("no", "yes"), targets=("ill",))
IMAGE = Schema(
    "classification",
    (1, 2, 2),
    "array",
    layout="image",
    channel_mean=(100.0,),
    channel_scale=(50.0,),
    pixel_range=(0.0, 255.0),
    classes=("0", "1"),
    targets=("y",),
)
VECTOR = Schema(
    "regression",
    (2,),
    "array",
    layout="vector",
    channel_mean=(1.0, 5.0),
    channel_scale=(2.0, 0.0),
    targets=("a", "b"),
    target_mean=(1.0, 0.0),
    target_scale=(2.0, 4.0),
)


def rows(**changes: object) -> dict[str, object]:
    return {"age": [40.0, 70.0], "sex": ["f", "m"], "code": [1, 2.0], "fixed": [3, 9], **changes}


def test_encodes_every_kind_of_column() -> None:
    out = TABLE.encode(rows())
    assert out.dtype == np.float32
    assert TABLE.columns == ("age", "age missing", "sex = f", "sex = m", "sex unseen", "code = 1", "code = 2", "fixed")
    assert out.tolist() == [[-1, 0, 1, 0, 0, 1, 0, 0], [2, 0, 0, 1, 0, 0, 1, 0]]


def test_a_data_frame_is_the_same_as_a_mapping_and_may_have_more_columns() -> None:
    frame = pd.DataFrame({**rows(), "other": ["x", "y"]})[["other", "fixed", "code", "sex", "age"]]
    assert np.array_equal(TABLE.encode(frame), TABLE.encode(rows()))


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_missing_values_are_filled_and_marked(missing: object) -> None:
    out = TABLE.encode(rows(age=np.array([missing, 70.0], dtype=object), sex=np.array([missing, "m"], dtype=object)))
    assert out[0].tolist() == [0, 1, 0, 0, 1, 1, 0, 0]
    assert out[1].tolist() == TABLE.encode(rows())[1].tolist()


def test_an_unseen_category_has_its_column_or_is_an_error() -> None:
    assert TABLE.encode(rows(sex=["x", "m"]))[0].tolist()[2:5] == [0, 0, 1]
    with pytest.raises(SchemaError, match="feature 'code': given the unknown category '3' in row 1, expected one of '1', '2'"):
        TABLE.encode(rows(code=[1, 3]))
    with pytest.raises(SchemaError, match="feature 'code': given a missing value in row 0"):
        TABLE.encode(rows(code=[None, 1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": ["forty", 70]}, "feature 'age': given text 'forty' in row 0, expected a number"),
        ({"age": ["40", "70"]}, "feature 'age': given text '40'"),
        ({"age": np.array([(1, 2), None], dtype=object)}, "feature 'age': given a tuple"),
        ({"age": [math.inf, 2]}, "feature 'age': 1 infinite values given"),
        ({"age": [40.0, 40000.0]}, "feature 'age': given 40000 in row 1, 3995 training standard deviations"),
        ({"age": [40.0]}, "has 2 rows, 'age' has 1"),
        ({"age": [[1.0, 2.0], [1.0, 2.0]]}, "feature 'age': given values of shape"),
        ({"sex": [1, 2]}, "feature 'sex': given the number 1 in row 0, expected one of the texts 'f', 'm'"),
    ],
)
def test_another_type_or_scale_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        TABLE.encode(rows(**changes))


def test_the_limit_of_the_scale_can_be_lifted() -> None:
    assert TABLE.encode(rows(age=[40.0, 40000.0]), scale_limit=math.inf)[1, 0] == pytest.approx(3995.0)


def test_a_missing_column_is_named_with_a_near_one() -> None:
    given = rows()
    given["Age"] = given.pop("age")
    with pytest.raises(
        SchemaError, match=r"feature 'age' is missing: given sex, code, fixed, Age; expected age, sex, code, fixed\. Did you mean 'Age'\?"
    ):
        TABLE.encode(given)
    with pytest.raises(SchemaError, match="2 columns of that name"):
        TABLE.encode(pd.DataFrame([[1, 2]], columns=["age", "age"]))
    with pytest.raises(SchemaError, match=r"given an array of shape \(2, 8\), expected a table"):
        TABLE.encode(np.zeros((2, 8)))


def test_images_get_a_channel_axis_and_are_standardised() -> None:
    x = np.array([[[0, 100], [200, 255]]], np.uint8)
    out = IMAGE.encode(x)
    assert out.shape == (1, 1, 2, 2)
    assert out.dtype == np.float32
    assert np.allclose(out.ravel(), [-2, 0, 2, 3.1])
    assert np.array_equal(IMAGE.encode(x[:, None]), out)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((1, 2, 2), 0.5), r"given pixel values 0.5..0.5, expected the training range 0..255"),
        (np.ones((1, 2, 2), np.int64), "given pixel values 1..1"),
        (np.array([[[-1.2, 2.0], [0.3, 1.1]]]), "given pixel values -1.2..2"),
        (np.full((1, 2, 2), 65535), "given pixel values 65535"),
        (np.zeros((1, 3, 2)), r"given shape \(1, 3, 2\), expected"),
        (np.zeros((2, 2)), "leading axis"),
        (np.array([["a", "b"]]), "given values of type"),
        (np.full((1, 2, 2), np.nan), "4 values are NaN or infinite"),
    ],
)
def test_images_of_another_range_shape_or_type_are_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        IMAGE.encode(x)


def test_a_dark_image_is_no_error_and_unit_images_refuse_bytes() -> None:
    dark = np.zeros((1, 2, 2), np.uint8)
    assert np.allclose(IMAGE.encode(dark), -2)
    assert IMAGE.encode(dark[:0]).shape == (0, 1, 2, 2)
    unit = Schema(**{**vars(IMAGE), "channel_mean": (0.4,), "channel_scale": (0.2,), "pixel_range": (0.0, 1.0)})
    assert np.allclose(unit.encode(dark), -2)
    with pytest.raises(SchemaError, match=r"expected the training range 0..1"):
        unit.encode(np.full((1, 2, 2), 255, np.uint8))


def test_vectors_keep_constant_columns_at_zero_and_refuse_another_unit() -> None:
    assert VECTOR.encode([[3.0, 5.0], [1.0, 77.0]]).tolist() == [[1, 0], [0, 0]]
    with pytest.raises(SchemaError, match="channel 0 of row 1 is 500 training standard deviations"):
        VECTOR.encode([[3.0, 5.0], [1001.0, 77.0]])


def test_targets_there_and_back() -> None:
    assert TABLE.encode_targets(["yes", "no", "yes"]).tolist() == [1, 0, 1]
    assert TABLE.decode_targets([1, 0]).tolist() == ["yes", "no"]
    assert IMAGE.encode_targets(np.array([1.0, 0.0])).tolist() == [1, 0]
    encoded = VECTOR.encode_targets([[3.0, 4.0]])
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[1.0, 1.0]]
    assert VECTOR.decode_targets(encoded).tolist() == [[3.0, 4.0]]
    with pytest.raises(SchemaError, match="target ill: given class 'perhaps' in row 1, expected one of no, yes"):
        TABLE.encode_targets(["yes", "perhaps"])
    with pytest.raises(SchemaError, match="expected 2 finite numbers a row: a, b"):
        VECTOR.encode_targets([1.0, 2.0])
    with pytest.raises(SchemaError, match="expected numbers"):
        VECTOR.encode_targets([["a", "b"]])


@pytest.mark.parametrize("schema", [TABLE, IMAGE, VECTOR], ids=["table", "image", "vector"])
def test_json_round_trip(schema: Schema) -> None:
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_json(json.dumps(schema.to_json(), allow_nan=False)) == schema
    assert hash(Schema.from_json(schema.to_json())) == hash(schema)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"strange": 1},
        {"input_shape": [3]},
        {"kind": "ranking"},
        {"classes": ["one"]},
        {"features": [{"name": "a", "kynd": 1}]},
        {"form": "?"},
    ],
    ids=str,
)
def test_an_edited_schema_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SchemaError, match="not a schema of version 1"):
        Schema.from_json({**TABLE.to_json(), **changes})
    with pytest.raises(SchemaError, match="not a schema"):
        Schema.from_json("[1, 2")
    with pytest.raises(SchemaError, match="means and"):
        Schema.from_json({**VECTOR.to_json(), "target_mean": []})
