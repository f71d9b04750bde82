"""Fewer bytes for the same numbers, and, if asked for, for nearly the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]

_MANY = 2048
"""Constants of fewer numbers than this stay as they are under int8: what they would save is less than what they would cost in precision."""

_REPEATED = 256
_LEVELS = 127


class _Stored(NamedTuple):
    """A constant as its parts, and the node that puts them together again."""

    parts: dict[str, Array]
    operator: str
    inputs: list[str]
    attributes: dict[str, Any]


def repeats_once(model: Any) -> Any:
    """``model`` with the rows of a constant that occur several times stored once: most grid points share their precisions."""
    return _restored(model, _unique)


def int8(model: Any) -> Any:
    """``model`` with large float32 constants as int8 codes and a scale for each output channel; computation stays in float32."""
    columns = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    return _restored(model, lambda name, values: _codes(name, values, values.ndim - 1 if name in columns and values.ndim == 2 else 0))


def _restored(model: Any, store: Callable[[str, Array], _Stored | None]) -> Any:
    graph, nodes = model.graph, []
    for tensor in list(graph.initializer):
        stored = store(tensor.name, numpy_helper.to_array(tensor))
        if stored is None:
            continue
        graph.initializer.remove(tensor)
        graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(part), name) for name, part in stored.parts.items())
        nodes.append(helper.make_node(stored.operator, stored.inputs, [tensor.name], **stored.attributes))
    body = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(body)
    return model


def _unique(name: str, values: Array) -> _Stored | None:
    if values.size < _REPEATED:
        return None
    for axis in range(values.ndim - 1):
        moved = np.moveaxis(values, axis, 0)
        rows, place = np.unique(moved.reshape(len(moved), -1), axis=0, return_inverse=True)
        if 2 * len(rows) <= len(moved):
            kept = np.moveaxis(rows.reshape(-1, *moved.shape[1:]), 0, axis)
            parts = {f"{name} rows": kept, f"{name} places": place.reshape(-1).astype(np.int64)}
            return _Stored(parts, "Gather", list(parts), {"axis": axis})
    return None


def _codes(name: str, values: Array, axis: int) -> _Stored | None:
    if values.dtype != np.float32 or values.ndim < 2 or values.size < _MANY:
        return None
    others = tuple(at for at in range(values.ndim) if at != axis)
    largest = np.abs(values).max(others)
    scale = np.where(largest > 0, largest, np.float32(1.0)) / np.float32(_LEVELS)
    codes = np.round(values / np.expand_dims(scale, others)).clip(-_LEVELS, _LEVELS).astype(np.int8)
    parts: dict[str, Array] = {f"{name} codes": codes, f"{name} scale": scale.astype(np.float32)}
    return _Stored(parts, "DequantizeLinear", list(parts), {"axis": axis})
