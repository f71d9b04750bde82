"""Cholesky factors, triangular solves and log-gamma, for which ONNX has no operator; factors and solves take one loop over the rows.

Written in onnxscript, whose ``for`` becomes an ONNX ``Loop`` with a body of a few operators, whatever the size of the matrices. The functions are
read from their source and never run as Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import DOUBLE, script
from onnxscript import opset18 as op


@script()  # type: ignore[untyped-decorator]
def _cholesky(matrix: DOUBLE[...]) -> DOUBLE[...]:
    size = op.Shape(matrix, start=-1)
    identity = op.CastLike(op.EyeLike(op.ConstantOfShape(op.Concat(size, size, axis=0))), matrix)
    left = op.Identity(matrix)
    factor = op.Sub(matrix, matrix)
    for at in range(op.Squeeze(size)):
        column = op.Gather(left, at, axis=-1)
        scaled = op.Div(column, op.Sqrt(op.Unsqueeze(op.Gather(column, at, axis=-1), [-1])))
        standing = op.Unsqueeze(scaled, [-1])
        left = op.Sub(left, op.Mul(standing, op.Unsqueeze(scaled, [-2])))
        factor = op.Add(factor, op.Mul(standing, op.Gather(identity, at, axis=0)))
    return factor


@script()  # type: ignore[untyped-decorator]
def _forward(lower: DOUBLE[...], right: DOUBLE[...]) -> DOUBLE[...]:
    size = op.Shape(lower, start=-1)
    identity = op.CastLike(op.EyeLike(op.ConstantOfShape(op.Concat(size, size, axis=0))), lower)
    solved = op.MatMul(op.Sub(lower, lower), right)
    for at in range(op.Squeeze(size)):
        row = op.Gather(lower, at, axis=-2)
        missing = op.Sub(op.Gather(right, at, axis=-2), op.Squeeze(op.MatMul(op.Unsqueeze(row, [-2]), solved), [-2]))
        value = op.Div(missing, op.Unsqueeze(op.Gather(row, at, axis=-1), [-1]))
        unit = op.Unsqueeze(op.Gather(identity, at, axis=0), [-1])
        solved = op.Add(solved, op.Mul(unit, op.Unsqueeze(value, [-2])))
    return solved


@script()  # type: ignore[untyped-decorator]
def _backward(lower: DOUBLE[...], right: DOUBLE[...]) -> DOUBLE[...]:
    size = op.Shape(lower, start=-1)
    identity = op.CastLike(op.EyeLike(op.ConstantOfShape(op.Concat(size, size, axis=0))), lower)
    solved = op.MatMul(op.Sub(lower, lower), right)
    for step in range(op.Squeeze(size)):
        at = op.Squeeze(size) - 1 - step
        row = op.Gather(lower, at, axis=-1)  # a column of the lower factor is a row of its transpose
        missing = op.Sub(op.Gather(right, at, axis=-2), op.Squeeze(op.MatMul(op.Unsqueeze(row, [-2]), solved), [-2]))
        value = op.Div(missing, op.Unsqueeze(op.Gather(row, at, axis=-1), [-1]))
        unit = op.Unsqueeze(op.Gather(identity, at, axis=0), [-1])
        solved = op.Add(solved, op.Mul(unit, op.Unsqueeze(value, [-2])))
    return solved


@script()  # type: ignore[untyped-decorator]
def _lgamma(x: DOUBLE[...]) -> DOUBLE[...]:
    one = op.CastLike(1.0, x)
    product, z = x, x + one
    for _ in range(7):
        product = product * z
        z = z + one
    inverse = one / z
    square = inverse * inverse
    series = op.CastLike(1.0, x) / op.CastLike(1188.0, x)  # constants are float32: whole numbers and halves are exact in it
    series = one / op.CastLike(1680.0, x) - square * series
    series = one / op.CastLike(1260.0, x) - square * series
    series = one / op.CastLike(360.0, x) - square * series
    series = inverse * (one / op.CastLike(12.0, x) - square * series)
    shift = op.CastLike(0.9189385175704956, x) + op.CastLike(1.563417661998301e-08, x)  # log(2 pi) / 2 in two parts
    return (z - op.CastLike(0.5, x)) * op.Log(z) - z + shift + series - op.Log(product)  # Stirling's series at x + 8, for positive x


def _cholesky_ex(matrix: Any, upper: bool = False, check_errors: bool = False) -> Any:
    return _cholesky(matrix), op.Constant(value_int=0)


def _cholesky_solve(right: Any, lower: Any, upper: bool = False) -> Any:
    return _backward(lower, _forward(lower, right))


def _solve_triangular(lower: Any, right: Any, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    return _forward(lower, right)


def _sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    return op.TopK(values, op.Shape(values, start=-1), axis=-1, largest=int(descending))  # of equal values the one of lower index comes first


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.linalg_cholesky_ex.default: _cholesky_ex,
    torch.ops.aten.cholesky_solve.default: _cholesky_solve,
    torch.ops.aten.linalg_solve_triangular.default: _solve_triangular,
    torch.ops.aten.lgamma.default: _lgamma,
    torch.ops.prims.lgamma.default: _lgamma,
    torch.ops.aten.sort.stable: _sort,
}
"""For ``torch.onnx.export``; lower factors from the left, the last axis and positive numbers alone, which is all that is used."""
