"""What of a traced graph does not depend on its inputs is computed once, and what is computed twice the same way is computed once.

So a client's constants, the body grown from a seed and every draw become numbers in the file, and the conjugate algebra that several steps share
stands there once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

_CHECKS = (torch.ops.aten._linalg_check_errors.default,)
"""Steps that give nothing and may raise, which a graph cannot."""


def folded(module: GraphModule) -> GraphModule:
    """``module``, in place, with constants computed and equal steps merged."""
    for node in [node for node in module.graph.nodes if node.target in _CHECKS]:
        module.graph.erase_node(node)
    known = _constants(module)
    names: dict[Any, str] = {}
    for node, value in _frontier(known):
        name = names.setdefault(_content(value), f"constant_{len(names)}")
        module.register_buffer(name, value.detach().clone().contiguous())
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name))
    for node in reversed(known):  # by hand: steps that changed a constant in place count as having an effect
        if not node.users:
            module.graph.erase_node(node)
    _merge(module.graph)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _constants(module: GraphModule) -> dict[Node, Any]:
    """Values of the nodes that need no input."""
    known: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            known[node] = _attribute(module, node.target)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            known[node] = node.target(*map_arg(node.args, known.__getitem__), **map_arg(node.kwargs, known.__getitem__))
    return known


def _attribute(module: GraphModule, path: Any) -> Any:
    value: Any = module
    for name in str(path).split("."):
        value = getattr(value, name)
    return value


def _frontier(known: dict[Node, Any]) -> list[tuple[Node, Tensor]]:
    """Constants that something unknown, or the outside, uses."""
    used = [node for node in known if any(user not in known for user in node.users)]
    return [(node, known[node]) for node in used if isinstance(known[node], Tensor)]


def _content(value: Tensor) -> Any:
    """What two equal constants have in common, so that they are stored once."""
    return value.dtype, tuple(value.shape), value.detach().contiguous().numpy().tobytes()


def _merge(graph: Graph) -> None:
    """Nodes with the same function of the same arguments become the first of them."""
    seen: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        first = seen.setdefault(repr((node.op, str(node.target), node.args, tuple(node.kwargs.items()))), node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def unfolded(function: Callable[..., tuple[Tensor, ...]], examples: tuple[Tensor, ...]) -> GraphModule:
    """A pure function as a graph of PyTorch's basic operations, without in-place steps and without ``vmap``, for inputs of any length.

    Args:
        function: of tensors, giving a tuple of tensors; what it closes over becomes constants.
        examples: inputs to trace with, of two rows or more.
    """
    with torch.no_grad():
        graph: GraphModule = make_fx(functionalize(function), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*examples)
    return graph
