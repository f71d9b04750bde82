"""Fewer bytes: rows stored once are exact, int8 is as near as its scale says."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from metabayfl.export import compact, on_device


def model(weight: np.ndarray[Any, Any]) -> Any:
    """``x @ weight`` over the last two axes."""
    inner = weight.shape[-2]
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inner])
    given = helper.make_tensor_value_info(
        "y", TensorProto.FLOAT, ["rows", weight.shape[-1]] if weight.ndim == 2 else [len(weight), "rows", weight.shape[-1]]
    )
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    graph = helper.make_graph([node], "product", [taken], [given], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answer(built: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    checker.check_model(built)
    out: np.ndarray[Any, Any] = on_device.session(built.SerializeToString()).run(None, {"x": x})[0]
    return out


def test_rows_that_repeat_are_stored_once_and_stay_exact() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 8, 10)).astype(np.float32)[[0, 1, 2, 3, 4] * 5]
    x = rng.normal(size=(3, 8)).astype(np.float32)
    whole, small = model(weight), compact.repeats_once(model(weight))
    assert len(small.SerializeToString()) < 0.3 * len(whole.SerializeToString())
    np.testing.assert_array_equal(answer(whole, x), answer(small, x))


def test_different_rows_and_small_constants_stay_as_they_are() -> None:
    weight = np.random.default_rng(0).normal(size=(25, 8, 10)).astype(np.float32)
    assert compact.repeats_once(model(weight)) == model(weight)
    assert compact.int8(model(weight[0])) == model(weight[0])


def test_int8_keeps_every_output_channel_within_half_a_step() -> None:
    rng = np.random.default_rng(1)
    weight = (rng.normal(size=(64, 50)) * np.logspace(-3, 3, 50)).astype(np.float32)
    weight[:, 7] = 0.0
    small = compact.int8(model(weight))
    assert len(small.SerializeToString()) < 0.35 * len(model(weight).SerializeToString())
    found = answer(small, np.eye(64, dtype=np.float32))
    assert (found[:, 7] == 0).all()
    assert (np.abs(found - weight) <= np.abs(weight).max(0) / 127 * 0.5001).all()
