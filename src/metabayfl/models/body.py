"""A ``torch.nn.Module`` without its head, as a pure function of its trainable parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from metabayfl import random, tree
from metabayfl.errors import ConfigError
from metabayfl.types import Key, Tree

_NOISE = "metabayfl_key"  # the buffer of a dropout layer through which its key comes in; empty means off


class Body(NamedTuple):
    """The two modes of a module that is never changed, and what is needed to call it."""

    training: nn.Module
    evaluation: nn.Module
    places: dict[str, list[str]]  # path in the body tree -> every name that the parameter has in the module
    start: Tree  # the module's own values
    fixed: dict[str, Tensor]  # buffers and frozen parameters
    noise: list[str]  # names of the buffers that take keys
    head: nn.Linear | None
    activation: Callable[[Tensor], Tensor]  # between the features and the head

    def features(self, body: Tree, x: Tensor, key: Key | None) -> Tensor:
        """What the module yields: in training mode with a key, in evaluation mode without."""
        net = self.evaluation if key is None else self.training
        values = {name: value.to(x.device, x.dtype if value.is_floating_point() else value.dtype) for name, value in self.fixed.items()}
        for path, leaf in tree.flatten(body).items():
            values.update(dict.fromkeys(self.places[path], leaf))
        if key is not None:
            values.update({name: random.fold(key, name) for name in self.noise})
        # each name once: with its own tie_weights, torch 2.13 leaves these values behind in a layer that stands in two places
        out: Tensor = torch.func.functional_call(net, values, (x,), tie_weights=False)
        return out


def body_of(net: nn.Module, outputs: int, head: str | None) -> Body:
    """Take the head off ``net``, which belongs to the caller no more, and let its dropout draw from keys."""
    path = _head_path(net, outputs, head)
    layer = None if path is None else net.get_submodule(path)
    activation = torch.relu if path is not None and _take_relu(net, path) else _identity
    if path is not None:
        net = _without(net, path)
    for drop in [part for part in net.modules() if isinstance(part, _DropoutNd)]:
        drop.eval().register_buffer(_NOISE, torch.zeros(0, dtype=torch.int64))
        drop.register_forward_hook(_drop)
    places = _places(net)
    start = tree.unflatten({path: net.get_parameter(names[0]).detach().clone() for path, names in places.items()})
    frozen = {name: value.detach() for name, value in net.named_parameters() if not value.requires_grad}
    noise = [name for name, _ in net.named_buffers() if name.endswith(_NOISE)]
    return Body(
        training=net,
        evaluation=copy.deepcopy(net).eval(),
        places=places,
        start=start,
        fixed={**frozen, **{name: value for name, value in net.named_buffers() if name not in noise}},
        noise=noise,
        head=layer if isinstance(layer, nn.Linear) else None,
        activation=activation,
    )


def _identity(x: Tensor) -> Tensor:
    return x


def _head_path(net: nn.Module, outputs: int, head: str | None) -> str | None:
    linears = {path: layer for path, layer in net.named_modules() if isinstance(layer, nn.Linear)}
    fitting = [path for path, layer in linears.items() if layer.out_features == outputs]
    if head is None or (head == "auto" and "auto" not in linears):
        return fitting[-1] if fitting and head == "auto" else None
    if head not in fitting:
        given = f"has {linears[head].out_features} outputs" if head in linears else "is no nn.Linear of the network"
        raise ConfigError(f"head={head!r} {given}, expected one with {outputs}; linear layers are {sorted(linears) or 'none'}; head=None adds one")
    return head


def _take_relu(net: nn.Module, path: str) -> bool:
    """Whether a ReLU, dropout aside, stood right before the head in a plain ``nn.Sequential``; it is taken out: dropout and ReLU commute."""
    container, _, name = path.rpartition(".")
    parent = net.get_submodule(container)
    if type(parent) is not nn.Sequential:
        return False
    names = list(parent._modules)  # named_children() leaves out a layer's second place
    before = names[: names.index(name)] if name in names else []
    while before and isinstance(parent.get_submodule(before[-1]), nn.Dropout):
        before.pop()
    if not before or not isinstance(parent.get_submodule(before[-1]), nn.ReLU):
        return False
    setattr(parent, before[-1], nn.Identity())
    return True


def _without(net: nn.Module, path: str) -> nn.Module:
    container, _, name = path.rpartition(".")
    if not name:
        return nn.Identity()
    setattr(net.get_submodule(container), name, nn.Identity())
    return net


def _places(net: nn.Module) -> dict[str, list[str]]:
    """Trainable parameters under the first of their names, with all names: tied parameters stand in several layers."""
    names: dict[int, list[str]] = {}
    for prefix, layer in net.named_modules():
        for name, parameter in layer.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.requires_grad:
                names.setdefault(id(parameter), []).append(f"{prefix}.{name}".lstrip("."))
    return {places[0].replace(".", tree.SEPARATOR): places for places in names.values()}


def _drop(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """The forward hook of a dropout layer: whole channels at once in its 1d, 2d and 3d forms."""
    key, rate = layer.get_buffer(_NOISE), float(str(layer.p))
    if not key.numel():
        return output
    setattr(layer, _NOISE, random.fold(key, 1))  # the layer's next use in this call draws anew; functional_call puts the old value back
    if isinstance(layer, nn.Dropout):
        return random.dropout(output, key, rate)
    return output * random.dropout(output.new_ones(output.shape[:2]), key, rate).reshape(*output.shape[:2], *[1] * (output.ndim - 2))
