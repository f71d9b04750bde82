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
from torch.nn.modules.dropout import AlphaDropout, FeatureAlphaDropout, _DropoutNd
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
        if isinstance(layer, _DropoutNd) and not 0.0 <= layer.p < 1.0:
            raise _refusal(path, layer, f"its rate is {layer.p}", "choose one from 0 and below 1")
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
    for net, buffers in zip(trial.nets, before, strict=True):
        _require_unchanged(net, buffers)
    _require_gradient(trial, key, vectorise=vectorise)


def _require_unchanged(net: nn.Module, buffers: dict[str, Tensor]) -> None:
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
    first, second = (watched(trial.nets, lambda: trial.apply(trial.params, trial.x, key), _shape_remedy(trial)) for _ in range(2))
    if not _same(first[-1].output, second[-1].output):
        problem = "two runs on the same input differ: it draws its own random numbers or keeps a state"
        raise _first_to_differ(
            first, second, _same, problem, "use nn.Dropout, which is drawn from the run's key (attention: dropout=0), and no state"
        )


def _require_separate(trial: Trial, key: Key | None) -> None:
    """An example among others must come out as it does alone: padding and the rest of a batch are not its business."""
    many = watched(trial.nets, lambda: trial.apply(trial.params, trial.x, key), _shape_remedy(trial))
    alone = watched(trial.nets, lambda: trial.apply(trial.params, trial.x[:1], key), "make it work for a batch of one example")
    if alone[-1].output.shape != many[-1].output[:1].shape or not _agree(many[-1].output, alone[-1].output):
        problem = "an example comes out differently among others than alone, so padding would change results"
        remedy = f"keep the batch as the first axis and compute nothing across it (no squeeze() without an axis); for norms, {_NORMS}"
        raise _first_to_differ(many, alone, _agree, problem, remedy)


def _first_to_differ(a: list[Visit], b: list[Visit], same: Callable[[Any, Any], bool], problem: str, remedy: str) -> ModelError:
    """The refusal of the first layer whose inputs agree and whose outputs don't; of the whole network if there is none."""
    for one, other in zip(a, b, strict=False):
        if one.path == other.path and same(one.input, other.input) and not same(one.output, other.output):
            return _refusal(one.path, one.layer, problem, remedy)
    return _refusal("", a[-1].layer, problem, remedy)


def _same(a: Any, b: Any) -> bool:
    return not isinstance(a, Tensor) or not isinstance(b, Tensor) or torch.equal(a, b)


def _agree(many: Any, alone: Any) -> bool:
    """Whether the first row is the same; what is no batch cannot be judged, and a lost axis is no agreement."""
    if not isinstance(many, Tensor) or not isinstance(alone, Tensor):
        return True
    if many.shape[1:] != alone.shape[1:]:
        return many.ndim == alone.ndim
    return torch.allclose(many[:1], alone[:1], rtol=1e-3, atol=1e-4 * _magnitude([alone]), equal_nan=True)


def _magnitude(leaves: list[Tensor]) -> float:
    return max([float(leaf.abs().max()) for leaf in leaves if leaf.numel()], default=0.0)


def _require_gradient(trial: Trial, key: Key, *, vectorise: bool) -> None:
    """The gradient of two clients at once, with weights of their own, as after an adaptation step; and their predictions."""
    inputs = (_twice(trial.params), trial.x.reshape(2, 2, *trial.x.shape[1:]), random.keys(key, 2))

    def loss(params: Tree, x: Tensor, noise: Key | None) -> Tensor:
        return trial.apply(params, x, noise).square().mean()

    gradient = torch.func.grad(loss)
    looped = [_client(inputs, i) for i in range(2)]
    watched(
        trial.nets, lambda: gradient(*looped[0]), "make it a function of its inputs and parameters alone, which torch.func.grad can differentiate"
    )
    if vectorise:
        watched(trial.nets, lambda: torch.func.vmap(gradient)(*inputs), LOOP)
        watched(trial.nets, lambda: torch.func.vmap(lambda params, x: trial.apply(params, x, None))(*inputs[:2]), LOOP)
        _require_equal(torch.func.vmap(gradient)(*inputs), [gradient(*client) for client in looped], trial.nets[0])


def _require_equal(vectorised: Tree, looped: list[Tree], net: nn.Module) -> None:
    for i, one in enumerate(looped):
        size = _magnitude(tree.leaves(one))
        pairs = zip(tree.leaves(vectorised), tree.leaves(one), strict=True)
        if not all(torch.allclose(a[i], b, rtol=1e-2, atol=1e-3 * size, equal_nan=True) for a, b in pairs):
            raise _refusal("", net, "its gradients differ when clients are vectorised", LOOP)


def _client(inputs: tuple[Tree, Tensor, Tensor], i: int) -> tuple[Tree, Tensor, Tensor]:
    params, x, keys = inputs
    return tree.map(lambda leaf: leaf[i], params), x[i], keys[i]


def _twice(params: Tree) -> Tree:
    return tree.map(lambda leaf: torch.stack([leaf, leaf]), params)


def _shape_remedy(trial: Trial) -> str:
    return f"it must take inputs of shape (N, {', '.join(str(side) for side in trial.x.shape[1:])}); give examples with from_module(..., example=x)"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _refusal(path: str, layer: nn.Module, problem: str, remedy: str) -> ModelError:
    where = f"layer {path!r}" if path else "the network"
    return ModelError(f"{where} ({type(layer).__name__}) cannot be used: {problem}. What to do: {remedy}.")
