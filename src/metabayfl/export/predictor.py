"""One client's personal model as one file: raw features in, probabilities or means, uncertainty and the decision out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from torch import Tensor

from metabayfl import storage
from metabayfl.data.schema import Schema
from metabayfl.errors import ModelError
from metabayfl.export import compact, inputs, on_device, outputs
from metabayfl.export.assembly import assembled
from metabayfl.export.checking import Agreement, agreement, require
from metabayfl.export.converting import converted, traced
from metabayfl.export.describing import described, number
from metabayfl.export.inputs import Input
from metabayfl.export.outputs import Output
from metabayfl.personal import PersonalModel
from metabayfl.types import Prediction, Prepared

CHECKED = 64
"""Made-up rows that a file is run on before it is written."""


class Exported(NamedTuple):
    """A file that was written."""

    path: Path
    size: int  # bytes
    agreement: Agreement


def export_predictor(model: PersonalModel, path: str | Path, *, int8: bool = False) -> Exported:
    """Write one client's model as ONNX, atomically, once it was run and found to agree with torch.

    Args:
        model: of any algorithm.
        path: the file.
        int8: large weights as int8 with a scale for each channel; then the deviation is reported instead of refused.

    Returns:
        the file's size, and how far its answers are from torch's.

    Raises:
        ModelError: if the algorithm or the network has no form in ONNX, or the file deviates from torch.
        StorageError: if the file could not be written whole.
    """
    schema, prepared = model.schema, model.prepared
    taken, given = inputs.features(schema), outputs.outputs(schema)

    def function(*raw: Tensor) -> tuple[Tensor, ...]:
        return answered(schema, prepared, raw, model.threshold)

    what = f"the personal model of {model.source.algorithm.name!r}"
    graph = traced(function, [inputs.blank(item, 3) for item in taken], [True] * len(taken), what)
    about = described(model.source, "predictor", taken, given, threshold=number(model.threshold), refer_share=model.refer_share, int8=int8)
    built = finished(assembled(converted(graph, what), taken, given, about, schema.classes), int8=int8)
    raw = on_device.examples(about["inputs"], CHECKED)
    found = agreement(built, function, taken, given, raw, schema.classes)
    if not int8:
        require(found, what)
    storage.write_bytes(path, built)
    return Exported(Path(path), len(built), found)


def answered(schema: Schema, prepared: Prepared, raw: Sequence[Tensor], threshold: Tensor | float) -> tuple[Tensor, ...]:
    """From raw inputs to the outputs of :func:`metabayfl.export.outputs.answers`."""
    x, valid = inputs.encode(schema, tuple(raw))
    prediction: Prediction = prepared.answer(prepared.constants, x)
    return outputs.answers(schema, prediction, threshold, valid)


def finished(model: Any, *, int8: bool) -> bytes:
    """The bytes of a file."""
    small = compact.repeats_once(model)
    data: bytes = (compact.int8(small) if int8 else small).SerializeToString()
    return data
