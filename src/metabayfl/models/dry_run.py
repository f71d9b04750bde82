"""Trying out a user's network: can it be vectorised over clients, is every example on its own, is it a function of its arguments alone.

What fails is refused with the path and the class of the layer, found by watching which layer was entered last, or which is the first whose output
differs between two runs that should agree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import AlphaDropout, FeatureAlphaDropout
from torch.nn.modules.instancenorm import _InstanceNorm

from metabayfl import random, tree
from metabayfl.errors import ModelError
from metabayfl.types import Key, Tree

LOOP = "train one client at a time: from_module(..., vectorise=False), and vectorise = false in [train]"
_NORMS = "use nn.GroupNorm or nn.LayerNorm"


class Visit(NamedTuple):
    """A layer was called."""

    path: str
    layer: nn.Module
    input: Any
    output: Any


class Trial(NamedTuple):
    """A network as a function, to be tried out."""

    apply: Callable[[Tree, Tensor, Key | None], Tensor]
    params: Tree
    x: Tensor  # (4, ...) examples
    nets: tuple[nn.Module, ...]  # the modules that ``apply`` runs, to watch their layers


def refuse_known(net: nn.Module, *, vectorise: bool) -> None:
    """Refuse the layers of which it is known beforehand that they do not work, with the best advice.

    Raises:
        ModelError: naming the layer.
    """
    for path, layer in net.named_modules():
        if isinstance(layer, _BatchNorm) and (layer.training or not layer.track_running_stats):
            problem = "its statistics mix the examples of a batch, padding too, and keep a state"
            raise _refusal(path, layer, problem, f"{_NORMS}, or call .eval() on it to keep its running statistics fixed")
        if isinstance(layer, _InstanceNorm) and layer.training and layer.track_running_stats:
            raise _refusal(path, layer, "it keeps running statistics, a state that no client owns", f"set track_running_stats=False, or {_NORMS}")
        if isinstance(layer, (AlphaDropout, FeatureAlphaDropout)):
            raise _refusal(path, layer, "it draws from torch's global random numbers", "use nn.Dropout, which is drawn from the run's key")
        if isinstance(layer, nn.RNNBase) and vectorise:
            raise _refusal(path, layer, "torch cannot vectorise it over clients", f"use nn.Conv1d or a cell made of nn.Linear, or {LOOP}")


def try_out(trial: Trial, *, vectorise: bool) -> None:
    """Run a network as training and prediction will.

    Raises:
        ModelError: naming the layer that cannot be differentiated or vectorised, mixes examples, or has a state or randomness of its own.
    """
    key = random.key(0)
    before = [{name: value.clone() for name, value in net.named_buffers()} for net in trial.nets]
    for noise in (None, key):
        _require_function(trial, noise)
        _require_separate(trial, noise)
    _require_gradient(trial, key, vectorise=vectorise)
    for net, buffers in zip(trial.nets, before, strict=True):
        for name, value in net.named_buffers():
            if not torch.equal(value, buffers[name]):
                path = name.rpartition(".")[0]
                raise _refusal(path, net.get_submodule(path), f"it changes its buffer {name!r} in place", "make it a function of its inputs alone")


def watched(nets: tuple[nn.Module, ...], call: Callable[[], Tensor], remedy: str) -> list[Visit]:
    """Run ``call`` and list the layers in the order in which they ended; any failure becomes a refusal of the layer that it happened in."""
    entered: list[tuple[str, nn.Module]] = []
    visits: list[Visit] = []
    with _hooks(nets, entered, visits):
        try:
            call()
        except Exception as error:
            path, layer = entered[-1] if entered else ("", nets[0])
            raise _refusal(path, layer, f"it failed with {type(error).__name__}: {_first_line(error)}", remedy) from error
    return visits


@contextlib.contextmanager
def _hooks(nets: tuple[nn.Module, ...], entered: list[tuple[str, nn.Module]], visits: list[Visit]) -> Iterator[None]:
    def watch(path: str, layer: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        def before(layer: nn.Module, inputs: Any) -> None:
            entered.append((path, layer))

        def after(layer: nn.Module, inputs: Any, output: Any) -> None:
            entered.pop()
            visits.append(Visit(path, layer, inputs[0] if inputs else None, output))

        return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]

    handles = [handle for net in nets for path, layer in net.named_modules() for handle in watch(path, layer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_function(trial: Trial, key: Key | None) -> None:
    runs = [watched(trial.nets, lambda: trial.apply(trial.params, trial.x, key), _shape_remedy(trial)) for _ in range(2)]
    for first, second in zip(*runs, strict=False):
        if isinstance(first.output, Tensor) and isinstance(second.output, Tensor) and not torch.equal(first.output, second.output):
            problem = "two runs on the same input differ: it draws its own random numbers or keeps a state"
            raise _refusal(first.path, first.layer, problem, "use nn.Dropout for randomness, and no state")


def _require_separate(trial: Trial, key: Key | None) -> None:
    """An example among others must come out as it does alone: padding and the rest of a batch are not its business."""
    many = watched(trial.nets, lambda: trial.apply(trial.params, trial.x, key), _shape_remedy(trial))
    alone = watched(trial.nets, lambda: trial.apply(trial.params, trial.x[:1], key), "make it work for a batch of one example")
    if _agree(many[-1].output, alone[-1].output):
        return
    guilty = next(first for first, second in zip(many, alone, strict=False) if not _agree(first.output, second.output))
    problem = "an example comes out differently among others than alone, so padding would change results"
    raise _refusal(guilty.path, guilty.layer, problem, f"keep the batch as the first axis and compute nothing across it; for norms, {_NORMS}")


def _agree(many: Any, alone: Any) -> bool:
    if not (isinstance(many, Tensor) and isinstance(alone, Tensor)) or many.shape[1:] != alone.shape[1:] or not len(alone):
        return True
    return torch.allclose(many[:1], alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max() if alone.numel() else 0.0), equal_nan=True)


def _require_gradient(trial: Trial, key: Key, *, vectorise: bool) -> None:
    """The gradient of two clients at once, with weights of their own, as after an adaptation step; and their predictions."""
    inputs = (_twice(trial.params), trial.x[:4].unflatten(0, (2, 2)), random.keys(key, 2))

    def loss(params: Tree, x: Tensor, noise: Key | None) -> Tensor:
        return trial.apply(params, x, noise).square().mean()

    gradient = torch.func.grad(loss)
    looped = [_client(inputs, i) for i in range(2)]
    watched(trial.nets, lambda: gradient(*looped[0]), "make it differentiable by torch.func.grad")
    if vectorise:
        watched(trial.nets, lambda: torch.func.vmap(gradient)(*inputs), LOOP)
        watched(trial.nets, lambda: torch.func.vmap(lambda params, x: trial.apply(params, x, None))(*inputs[:2]), LOOP)
        expected = [gradient(*client) for client in looped]
        found = torch.func.vmap(gradient)(*inputs)
        for i, one in enumerate(expected):
            if not all(_close(a[i], b) for a, b in zip(tree.leaves(found), tree.leaves(one), strict=True)):
                raise _refusal("", trial.nets[0], "its gradients differ when clients are vectorised", LOOP)


def _client(inputs: tuple[Tree, Tensor, Tensor], i: int) -> tuple[Tree, Tensor, Tensor]:
    params, x, keys = inputs
    return tree.map(lambda leaf: leaf[i], params), x[i], keys[i]


def _twice(params: Tree) -> Tree:
    return tree.map(lambda leaf: torch.stack([leaf, leaf]), params)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-2, atol=1e-3 * float(b.abs().max()), equal_nan=True) if b.numel() else True


def _shape_remedy(trial: Trial) -> str:
    return f"it must take inputs of shape (N, {', '.join(str(side) for side in trial.x.shape[1:])}); give examples with from_module(..., example=x)"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _refusal(path: str, layer: nn.Module, problem: str, remedy: str) -> ModelError:
    where = f"layer {path!r}" if path else "the network"
    return ModelError(f"{where} ({type(layer).__name__}) cannot be used: {problem}. What to do: {remedy}.")
