"""No file is left behind that was not run: its answers are held against torch's on made-up rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl.errors import ModelError
from metabayfl.export.inputs import Input
from metabayfl.export.on_device import session
from metabayfl.export.outputs import Output

Array = NDArray[Any]

TOLERANCE = 1e-5
"""Largest deviation of a file in full precision: of probabilities and nats as they are, of numbers in a target's unit relative to its scale."""


class Agreement(NamedTuple):
    """How far a file's answers are from torch's."""

    rows: int
    deviation: float  # the largest, in the outputs' units
    where: str  # the output that has it
    changed: int  # rows with another label, or another decision to refer


def codes(inputs: Sequence[Input], raw: Mapping[str, Array]) -> tuple[Tensor, ...]:
    """Raw inputs as the traced function takes them: texts as the codes of their category."""
    return tuple(torch.from_numpy(_coded(item, raw[item.name])) for item in inputs)


def _coded(item: Input, values: Array) -> Array:
    if item.kind != "category":
        return values
    position = {word: at for at, word in enumerate(item.words)}
    return np.array([position.get(word, len(position)) for word in values], dtype=np.int64)


def agreement(
    data: bytes,
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    raw: Mapping[str, Array],
    classes: Sequence[str] = (),
) -> Agreement:
    """Run the file ``data`` and ``function`` on the same rows."""
    found = [np.asarray(value) for value in session(data).run([item.name for item in outputs], dict(raw))]
    with torch.no_grad():
        expected = [value.numpy() for value in function(*codes(inputs, raw))]
    worst, where, changed, rows = 0.0, outputs[0].name, np.zeros(1, bool), 0
    for item, ours, theirs in zip(outputs, found, expected, strict=True):
        if item.kind in ("number", "posterior"):
            off = _deviation(item, ours, theirs)
            worst, where = max((worst, where), (off, item.name))
        else:
            changed, rows = changed | (ours != (np.array(classes, dtype=object)[theirs] if item.kind == "class" else theirs)), len(ours)
    return Agreement(rows, worst, where, int(changed.sum()))


def _deviation(item: Output, ours: Array, theirs: Array) -> float:
    largest = np.abs(theirs).max(initial=1.0, where=np.isfinite(theirs))
    unit = largest if item.kind == "posterior" else np.reshape(item.unit, item.shape if len(item.unit) > 1 else ())
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):  # infinity less infinity, where both say infinity
        off = np.where(same, 0.0, np.abs(ours.astype(np.float64) - theirs) / unit)
    return float(np.nan_to_num(off, nan=np.inf).max(initial=0.0))


def require(found: Agreement, what: str) -> None:
    """Refuse a file that is not what torch computes.

    Raises:
        ModelError: says by how much, and in which output.
    """
    if found.deviation > TOLERANCE or found.changed:
        raise ModelError(
            f"{what} deviates from torch by {found.deviation:.1e} in {found.where!r} and decides otherwise on {found.changed} of {found.rows} rows, "
            f"expected at most {TOLERANCE:g} and none: nothing was written; predict with Python, or use another model"
        )
