"""The personalising itself as a file: a support set in, a posterior out, and a predictor that takes it in.

A device that has onnxruntime alone adapts with ``adapt.onnx`` and predicts with ``predict.onnx``. What passes between them is the part of
:class:`~metabayfl.types.Prepared`'s constants that depends on the client, found by tracing and not by name, and the threshold of referral, which is
cross-fitted on the support inside the first graph, as :meth:`~metabayfl.personal.PersonalStrategy.personalize` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.errors import ModelError
from metabayfl.export import inputs, on_device, outputs
from metabayfl.export.adapting import Adapted, Shares, adapt
from metabayfl.export.building import Built, Exported, Plan, build, graph_of, write
from metabayfl.export.checking import Array, codes
from metabayfl.export.converting import keeping
from metabayfl.export.inputs import Input
from metabayfl.export.outputs import Limits, Output
from metabayfl.export.predictor import CHECKED, answered
from metabayfl.personal import PersonalStrategy
from metabayfl.types import Batch, Prepared

LIMITS = ("threshold", "novelty")
"""What the first graph gives beside the posterior's parts: the total uncertainty above which a case is referred, the epistemic one for novelty."""


DEFAULT = Shares()


class Pair(NamedTuple):
    """Both files of a strategy."""

    adapt: Exported
    predict: Exported


class _Adapter(NamedTuple):
    """The first file, and what the second needs to know of it."""

    built: Built
    example: Prepared  # of made-up samples; right in what does not depend on the client
    parts: Mapping[str, Array]  # that do, of the same samples, as the file gave them


def export_strategy(source: PersonalStrategy, folder: str | Path, *, shares: Shares = DEFAULT, seed: int = 0, int8: bool = False) -> Pair:
    """Write ``adapt.onnx`` and ``predict.onnx``, once both were run and found to agree with torch.

    Args:
        source: of an algorithm whose posterior is in closed form.
        folder: where to.
        shares: which cases a device is to refer.
        seed: of the draws, as in ``personalize``.
        int8: large weights as int8 with a scale for each channel; then the deviation is told instead of refused.

    Raises:
        ModelError: if the algorithm adapts by training or not at all, a part has no form in ONNX, or a file deviates from torch.
        StorageError: if a file could not be written whole.
    """
    if source.algorithm.subset is None:
        name = source.algorithm.name
        raise ModelError(f"{name!r} has no posterior in closed form, so that no graph can adapt: personalise in Python and export the posterior")
    adapter = _adapter(source, shares, seed, int8)
    predictor = _predictor(source, adapter, int8)
    return Pair(write(Path(folder) / "adapt.onnx", adapter.built), write(Path(folder) / "predict.onnx", predictor))


def _adapter(source: PersonalStrategy, shares: Shares, seed: int, int8: bool) -> _Adapter:
    schema = source.schema
    features, labels = inputs.features(schema), inputs.targets(schema)

    def adapted(*raw: Tensor) -> tuple[Adapted, Tensor]:
        (x, fits), (y, known) = inputs.encode(schema, raw[: len(features)]), inputs.encode_targets(schema, raw[len(features) :])
        valid = fits & known
        return adapt(source, Batch(x, y, valid.float()), shares, seed), valid

    def function(*raw: Tensor) -> tuple[Tensor, ...]:
        found, valid = adapted(*raw)
        return (*tree.leaves(found.ready.constants), found.threshold, found.novelty, valid)

    plan = Plan(source, "adapter", function, (*features, *labels), (), {"refer_share": shares.refer, "novelty_rate": shares.novel, "int8": int8})
    raw = on_device.examples(plan.about["inputs"], on_device.SUPPORT)
    with torch.no_grad():
        example, _ = adapted(*codes(plan.taken, raw))
    graph = graph_of(plan)
    changing = [at for at, node in enumerate(graph.outputs) if node.op != "get_attr"]
    names = [*tree.paths(example.ready.constants), *LIMITS, "valid"]
    values = [*tree.leaves(example.ready.constants), example.threshold, example.novelty]
    given = tuple(_part(names[at], values[at]) if at < len(values) else Output("valid", "flag") for at in changing)
    plan = plan._replace(given=given, function=lambda *raw: tuple(function(*raw)[at] for at in changing))
    built = build(plan, keeping(graph, changing), raw, int8=int8)
    found = on_device.session(built.data).run(None, dict(raw))
    return _Adapter(built, example.ready, {item.name: value for item, value in zip(given[:-1], found, strict=False)})


def _part(name: str, value: Tensor) -> Output:
    return Output(name, "posterior", tuple(value.shape))


def _predictor(source: PersonalStrategy, adapter: _Adapter, int8: bool) -> Built:
    schema, example, names = source.schema, adapter.example, list(adapter.parts)
    mass = (outputs.COVERAGE,) * (schema.outputs if schema.kind == "regression" else 0)
    parts = tuple(Input(name, "posterior", value.shape, type=str(value.dtype)) for name, value in adapter.parts.items())

    def function(*raw: Tensor) -> tuple[Tensor, ...]:
        own = dict(zip(names, raw, strict=False))
        threshold, novelty = (own.pop(name) for name in LIMITS)
        constants = tree.unflatten({**tree.flatten(example.constants), **own})
        return answered(schema, example._replace(constants=constants), raw[len(names) :], Limits(threshold, novelty, mass))

    plan = Plan(source, "predictor of a posterior", function, (*parts, *inputs.features(schema)), outputs.outputs(schema), {"int8": int8})
    raw = {**adapter.parts, **on_device.examples(plan.about["inputs"][len(parts) :], CHECKED)}
    return build(plan, graph_of(plan), raw, int8=int8)
