"""From a converted graph to the file that a device reads: its user's names for inputs and outputs, texts for categories, nothing more than needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from metabayfl.errors import ModelError
from metabayfl.export.inputs import Input
from metabayfl.export.outputs import Output

KEY = "metabayfl"
"""Under this key a file's ``metadata_props`` say in JSON what it is."""

_TEXTS = "ai.onnx.ml"


def assembled(model: Any, inputs: Sequence[Input], outputs: Sequence[Output], about: dict[str, Any], classes: Sequence[str]) -> Any:
    """``model`` with everything renamed, text inputs and outputs in place of codes, and ``about`` in its metadata.

    Raises:
        ModelError: if two inputs or outputs have one name.
    """
    names = [*(item.name for item in inputs), *(item.name for item in outputs)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(f"several inputs or outputs would be called {', '.join(twice)}: rename these columns in the data and train again")
    graph = model.graph
    reading = [_reading(value, item.words) for value, item in zip(graph.input, inputs, strict=True) if item.kind == "category"]
    codes = {node.input[0]: node.output[0] for node in reading}
    _rename(graph.node, lambda name: codes.get(name, name))
    saying = [_saying(value, classes) for value, item in zip(graph.output, outputs, strict=True) if item.kind == "class"]
    nodes = [*reading, *graph.node, *saying]
    del graph.node[:]
    graph.node.extend(nodes)
    if reading or saying:
        model.opset_import.append(helper.make_opsetid(_TEXTS, 3))
    _bare(model)
    values = [value.name for value in (*graph.input, *graph.output)]
    _shorten(graph, dict(zip(values, names, strict=True)))
    helper.set_model_props(model, {KEY: json.dumps(about, sort_keys=True, allow_nan=False, ensure_ascii=False)})
    onnx.checker.check_model(model)
    return model


def _reading(value: Any, words: Sequence[str]) -> Any:
    """From text to its code; any other text has the code after the last."""
    value.type.tensor_type.elem_type = TensorProto.STRING
    codes = {"keys_strings": list(words), "values_int64s": list(range(len(words))), "default_int64": len(words)}
    return helper.make_node("LabelEncoder", [value.name], [f"code of {value.name}"], domain=_TEXTS, **codes)


def _saying(value: Any, classes: Sequence[str]) -> Any:
    """From a class's position to its name."""
    code, value.name = value.name, f"name of {value.name}"
    value.type.tensor_type.elem_type = TensorProto.STRING
    names = {"keys_int64s": list(range(len(classes))), "values_strings": list(classes)}
    return helper.make_node("LabelEncoder", [code], [value.name], domain=_TEXTS, **names)


def _bare(model: Any) -> None:
    """Leave out where in the Python code each step came from."""
    model.producer_name, model.doc_string = KEY, ""
    del model.metadata_props[:]
    for graph in (model.graph, *model.functions):
        del graph.value_info[:], graph.metadata_props[:]
        for part in (
            *graph.node,
            *getattr(graph, "initializer", ()),
            *(value for value in (*graph.input, *graph.output) if not isinstance(value, str)),
        ):
            del part.metadata_props[:]
            part.doc_string = ""


def _shorten(graph: Any, known: dict[str, str]) -> None:
    """Names as in ``known``, and the shortest that are free for all other values."""
    taken, number = set(known.values()), iter(range(2**31))

    def new(name: str) -> str:
        if name and name not in known:
            known[name] = next(short for at in number if (short := f"{at:x}") not in taken)
        return known.get(name, name)

    _rename(graph.node, new)
    for part in (*graph.initializer, *graph.input, *graph.output):
        part.name = new(part.name)


def _rename(nodes: Any, new: Callable[[str], str]) -> None:
    for node in nodes:
        node.name = ""
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = new(name)
        for body in (attribute.g for attribute in node.attribute if attribute.HasField("g")):
            _rename(body.node, new)
            for part in (*body.initializer, *body.input, *body.output):
                part.name = new(part.name)
