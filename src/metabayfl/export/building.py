"""From a pure function to the bytes of a file that was run and agrees with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from metabayfl import storage
from metabayfl.export import compact, inputs
from metabayfl.export.assembly import assembled
from metabayfl.export.checking import Agreement, Array, agreement, require
from metabayfl.export.converting import Traced, converted, traced
from metabayfl.export.describing import described
from metabayfl.export.inputs import Input
from metabayfl.export.outputs import Output
from metabayfl.personal import PersonalStrategy

TRACED = 1009
"""Rows of the inputs that a function is traced on: a number that no other axis has, or the tracer would take the two for the same axis."""


class Plan(NamedTuple):
    """What a file is to compute, and how its user sees it."""

    source: PersonalStrategy
    kind: str
    function: Callable[..., tuple[Tensor, ...]]  # of raw inputs, categories as codes
    taken: tuple[Input, ...]
    given: tuple[Output, ...]
    more: dict[str, Any]  # that the metadata say

    @property
    def what(self) -> str:
        """For messages."""
        return f"the {self.kind} of {self.source.algorithm.name!r}"

    @property
    def about(self) -> dict[str, Any]:
        """The metadata."""
        return described(self.source, self.kind, self.taken, self.given, **self.more)


class Built(NamedTuple):
    """A file that is not written yet."""

    data: bytes
    agreement: Agreement


class Exported(NamedTuple):
    """A file that was written."""

    path: Path
    size: int  # bytes
    agreement: Agreement


def graph_of(plan: Plan) -> Traced:
    """The plan's function, traced.

    Raises:
        ModelError: if it cannot be followed.
    """
    return traced(plan.function, [inputs.blank(item, TRACED) for item in plan.taken], [item.kind != "posterior" for item in plan.taken], plan.what)


def build(plan: Plan, graph: Traced, raw: Mapping[str, Array], *, int8: bool) -> Built:
    """The file, checked on the rows ``raw``; with ``int8`` the deviation is told and not refused.

    Raises:
        ModelError: if a step has no form in ONNX, or the file deviates from torch.
    """
    classes = plan.source.schema.classes
    model = compact.repeats_once(assembled(converted(graph, plan.what), plan.taken, plan.given, plan.about, classes))
    data = (compact.int8(model) if int8 else model).SerializeToString()
    found = agreement(data, plan.function, plan.taken, plan.given, raw, classes)
    if not int8:
        require(found, plan.what)
    return Built(data, found)


def write(path: str | Path, built: Built) -> Exported:
    """Write a file, atomically.

    Raises:
        StorageError: if it could not be written whole.
    """
    storage.write_bytes(path, built.data)
    return Exported(Path(path), len(built.data), built.agreement)
