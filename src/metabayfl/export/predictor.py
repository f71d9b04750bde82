"""One client's personal model as one file: raw features in, probabilities or means, uncertainty and the decision out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from metabayfl.calibration import set_limits
from metabayfl.data.schema import Schema
from metabayfl.export import inputs, on_device, outputs
from metabayfl.export.building import Exported, Plan, build, graph_of, write
from metabayfl.export.describing import number
from metabayfl.export.outputs import Limits
from metabayfl.personal import PersonalModel
from metabayfl.types import Prepared

CHECKED = 64
"""Made-up rows that a file is run on before it is written."""


def export_predictor(model: PersonalModel, path: str | Path, *, int8: bool = False) -> Exported:
    """Write one client's model as ONNX, atomically, once it was run and found to agree with torch.

    Args:
        model: of any algorithm.
        path: the file.
        int8: large weights as int8 with a scale for each channel; then the deviation is told instead of refused.

    Returns:
        the file's size, and how far its answers are from torch's.

    Raises:
        ModelError: if the algorithm or the network has no form in ONNX, or the file deviates from torch.
        StorageError: if the file could not be written whole.
    """
    schema, prepared = model.schema, model.prepared

    limits, sets = _limits(model)

    def function(*raw: Tensor) -> tuple[Tensor, ...]:
        return answered(schema, prepared, raw, limits)

    more = {"threshold": number(model.limits[0]), "novelty": number(model.limits[1]), "sets": [number(limit) for limit in sets], "int8": int8}
    plan = Plan(model.source, "predictor", function, inputs.features(schema), outputs.outputs(schema), more)
    raw = on_device.examples(plan.about["inputs"], CHECKED)
    return write(path, build(plan, graph_of(plan), raw, int8=int8))


def _limits(model: PersonalModel) -> tuple[Limits, list[float]]:
    """The client's limits as :meth:`~metabayfl.personal.PersonalModel.predict` has them, and the least conformity of its sets or intervals."""
    sets = [float(limit) for limit in set_limits(model.known, outputs.COVERAGE)]
    mass = tuple(1.0 - limit if math.isfinite(limit) else outputs.COVERAGE for limit in sets)
    return Limits(*model.limits, () if model.schema.kind == "classification" else mass), sets


def answered(schema: Schema, prepared: Prepared, raw: Sequence[Tensor], limits: Limits) -> tuple[Tensor, ...]:
    """From raw inputs to the outputs of :func:`metabayfl.export.outputs.answers`."""
    x, valid = inputs.encode(schema, tuple(raw))
    return outputs.answers(schema, prepared.answer(prepared.constants, x), limits, valid)
