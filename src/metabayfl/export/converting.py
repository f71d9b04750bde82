"""A pure function of tensors as an ONNX graph, without what the converter notes about itself."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabayfl.errors import ModelError
from metabayfl.export.folding import folded, unfolded

OPSET = 18
"""Version of ONNX's operators: understood by every onnxruntime since 1.14."""


class Traced(NamedTuple):
    """A function as a graph."""

    module: torch.fx.GraphModule
    examples: tuple[Tensor, ...]
    dynamic: tuple[dict[int, Any], ...]

    @property
    def outputs(self) -> list[torch.fx.Node]:
        """The nodes that it returns; a constant's ``op`` is ``get_attr``."""
        (out,) = (node for node in self.module.graph.nodes if node.op == "output")
        return list(out.args[0])


def traced(function: Callable[..., tuple[Tensor, ...]], examples: Sequence[Tensor], batched: Sequence[bool], what: str) -> Traced:
    """``function`` as a graph in which whatever does not depend on its inputs is a constant.

    Args:
        function: of tensors, giving a tuple of tensors.
        examples: inputs to trace with, of two rows or more.
        batched: for each input, whether its first axis is one of any number of rows, the same for all.
        what: is exported, for the message.

    Raises:
        ModelError: if the function cannot be followed.
    """
    rows = torch.export.Dim("rows", min=1)
    dynamic = tuple({0: rows} if any_number else {} for any_number in batched)
    with _named(what):
        return Traced(folded(unfolded(function, tuple(examples))), tuple(examples), dynamic)


def keeping(graph: Traced, places: Sequence[int]) -> Traced:
    """``graph``, in place, with the outputs at these places alone."""
    (out,) = (node for node in graph.module.graph.nodes if node.op == "output")
    out.args = (tuple(graph.outputs[at] for at in places),)
    graph.module.graph.set_codegen(torch.fx.graph.CodeGen())
    graph.module.graph.eliminate_dead_code()
    graph.module.recompile()
    return graph


def converted(graph: Traced, what: str) -> Any:
    """The ``onnx.ModelProto``: inputs ``in_0``, ``in_1``, ... and outputs ``out_0``, ...

    Raises:
        ModelError: if a step has no form in ONNX.
    """
    from metabayfl.export.linear_algebra import TRANSLATIONS

    with _named(what):
        program = torch.onnx.export(
            graph.module,
            graph.examples,
            dynamo=True,
            dynamic_shapes=graph.dynamic,
            input_names=[f"in_{at}" for at in range(len(graph.examples))],
            output_names=[f"out_{at}" for at in range(len(graph.outputs))],
            opset_version=OPSET,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
        assert program is not None
        return program.model_proto


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Any of the many ways in which tracing and translating fail becomes one error that says of what."""
    try:
        with _quiet():
            yield
    except Exception as error:
        cause = _first(error)
        reason = " ".join(str(cause).split())[:300]
        raise ModelError(f"{what} cannot be written as ONNX ({type(cause).__name__}: {reason}): predict with Python, or use another model") from error


def _first(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _first(error.__cause__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter's warnings are about its own parts; whether the file is right is checked by running it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
