"""A user's own ``torch.nn.Module`` as a :class:`~metabayfl.types.Model`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from metabayfl import random, tree
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models.body import Body, body_of
from metabayfl.models.dry_run import Trial, Visit, refuse_known, try_out, watched
from metabayfl.models.model import assemble, uniform_weight
from metabayfl.types import DenseLayer, Key, Kind, Model, Tree

_EXAMPLES = 4  # two clients of two


def from_module(
    module: nn.Module,
    shape: tuple[int, ...],
    outputs: int,
    kind: Kind = "classification",
    *,
    head: str | None = "auto",
    initial: Literal["module", "seeded"] = "module",
    vectorise: bool = True,
    example: Tensor | None = None,
) -> Model:
    """Any network whose forward takes a batch ``(N, ...)`` and treats every example on its own.

    The module is copied and never changed. Parameters with ``requires_grad=False`` and buffers stay as they are and never travel. ``nn.Dropout`` is
    drawn from the run's key; without one it is off and the network in evaluation mode. A ReLU directly before the head of an ``nn.Sequential``
    goes to the head's side, so that the features have none; closed-form heads work best on such features, so end other bodies with a linear layer.

    Args:
        module: the network.
        shape: shape of one input.
        outputs: ``K`` classes or ``R`` targets.
        kind: which likelihood stands on top.
        head: path of the ``nn.Linear`` that is the head; ``auto`` takes the last one with ``outputs`` outputs, and where there is none the
            module yields features ``(N, M)`` and gets a linear head; None says that it yields features.
        initial: ``module`` starts from the module's own values, so that a client needs them too; ``seeded`` draws matrices, kernels and their
            biases anew from the key at PyTorch's default, so that the code and a seed are enough, and keeps all else.
        vectorise: False also admits what ``torch.func.vmap`` cannot do, such as ``nn.GRU``; train with ``vectorise = false`` then.
        example: a few inputs ``(N, ...)`` for the trial run; standard normal numbers if None.

    Raises:
        ModelError: if the network cannot be used; the message names the layer, the reason and what to do.
        ConfigError: if ``head`` or ``initial`` is no known path or word.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> model = from_module(net, (4,), 3)
        >>> model.width, model.dense
        (8, DenseLayer(name='0', channels=4, space=1))
    """
    if initial not in ("module", "seeded"):
        raise ConfigError(f"initial={initial!r}, expected 'module' (its own values) or 'seeded' (drawn from the key)")
    net, x = _copied(module), _examples(module, shape, example)
    refuse_known(net, vectorise=vectorise)
    body = body_of(net, outputs, head)
    remedy = "make it take such inputs, give others with example=x, or name the head with head='path' if the wrong layer was taken for it"
    visits = watched((body.evaluation,), lambda: body.features(body.start, x, None), remedy)
    model = assemble(
        f"module:{type(module).__name__}",
        kind,
        outputs,
        _width(visits[-1].output, body.head),
        lambda key: _drawn(body.start, key) if initial == "seeded" else tree.map(torch.clone, body.start),
        body.features,
        _dense(visits, body),
        body.activation,
    )
    if body.head is not None and initial == "module":
        model = model._replace(init=_with_head(model.init, body.head))
    try_out(Trial(model.apply, model.init(random.key(0)), x, (body.training, body.evaluation)), vectorise=vectorise)
    if body.head is not None:
        _check_head(module, model, body, body.head, x)
    return model


def _copied(module: nn.Module) -> nn.Module:
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise ModelError("the network has lazy layers that do not know their shapes yet: call it once on a batch first")
    if any(tree.SEPARATOR in name for name, _ in module.named_parameters()):
        raise ModelError(f"a layer's name has {tree.SEPARATOR!r} in it, which separates the paths of parameters: rename it")
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        raise ModelError(f"the network cannot be copied: {error}; build it anew and keep no computed tensors in it") from error


def _examples(module: nn.Module, shape: tuple[int, ...], example: Tensor | None) -> Tensor:
    """Four inputs in the type and on the device of the module's parameters."""
    like = next((parameter for parameter in module.parameters()), torch.zeros(()))
    if example is None:
        return random.normal(random.key(0), (_EXAMPLES, *shape)).to(like)
    if tuple(example.shape[1:]) != tuple(shape) or len(example) < 2:
        raise ModelError(f"example has shape {tuple(example.shape)}, expected two or more inputs of shape {tuple(shape)}")
    return example[torch.arange(_EXAMPLES) % len(example)].to(like.device)


def _width(out: object, head: nn.Linear | None) -> int:
    if not isinstance(out, Tensor) or out.shape[:1] != (_EXAMPLES,) or out.ndim != 2:
        given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        advice = "name the head with head='path', or " if head is not None else ""
        raise ModelError(
            f"the network yields {given} for {_EXAMPLES} inputs, expected features ({_EXAMPLES}, M): {advice}flatten or pick in its forward"
        )
    if head is not None and out.shape[1] != head.in_features:
        raise ModelError(f"without its head the network yields {out.shape[1]} features, the head takes {head.in_features}: name it with head='path'")
    return int(out.shape[1])


def _with_head(init: Callable[[Key], Tree], head: nn.Linear) -> Callable[[Key], Tree]:
    """The module's own head in place of a drawn one."""
    bias = torch.zeros_like(head.weight[:, 0]) if head.bias is None else head.bias

    def start(key: Key) -> Tree:
        params = init(key)
        own = {"weight": head.weight.detach().clone(), "bias": bias.detach().clone()}
        return {**params, "head": {**params["head"], **own}}

    return start


def _check_head(module: nn.Module, model: Model, body: Body, head: nn.Linear, x: Tensor) -> None:
    """The body and the head must make up the module: nothing may come after the head, and no weight be shared with it."""
    if any(own is other for own in head.parameters() for other in body.training.parameters()):
        raise ModelError("the head shares a weight with another layer, but personal heads need their own: untie them")
    params = {"body": body.start, "head": _with_head(model.init, head)(random.key(0))["head"]}
    with torch.no_grad():
        own = copy.deepcopy(module).eval()(x)
        ours = model.apply(params, x, None)[:, : head.out_features]
    if not isinstance(own, Tensor) or own.shape != ours.shape or not torch.allclose(own, ours, rtol=1e-3, atol=1e-4 * float(ours.abs().max())):
        raise ModelError(
            f"the network is not its body followed by the linear layer with {head.out_features} outputs: something comes after it, or it is no head. "
            "Leave a softmax out, name the head with head='path', or say head=None if the network yields features"
        )


def _drawn(start: Tree, key: Key) -> Tree:
    """PyTorch's default start for all that has a fan-in; norms and other vectors keep their values."""
    leaves = tree.flatten(start)

    def drawn(path: str, leaf: Tensor) -> Tensor:
        parent, _, name = path.rpartition(tree.SEPARATOR)
        weight = leaves.get(f"{parent}{tree.SEPARATOR}".lstrip(tree.SEPARATOR) + name.replace("bias", "weight"), leaf)
        if weight.ndim < 2:
            return leaf.clone()
        return uniform_weight(random.fold(key, path), tuple(leaf.shape), math.prod(weight.shape[1:])).to(leaf)

    return tree.unflatten({path: drawn(path, leaf) for path, leaf in leaves.items()})


def _dense(visits: list[Visit], body: Body) -> DenseLayer | None:
    """The body's largest trainable linear layer, and how its input was flattened, if it was."""
    leaves = tree.flatten(body.start)
    paths = {visit.path: visit.path.replace(".", tree.SEPARATOR) for visit in visits if isinstance(visit.layer, nn.Linear)}
    sizes = {path: leaves[f"{name}/weight"].numel() for path, name in paths.items() if f"{name}/weight" in leaves}
    if not sizes:
        return None
    largest = max(sizes, key=lambda path: sizes[path])
    at = next(i for i, visit in enumerate(visits) if visit.path == largest)
    flat = visits[at].input
    for visit in reversed(visits[:at]):
        if isinstance(visit.output, Tensor) and visit.output.ndim > 2 and torch.equal(visit.output.flatten(1), flat):
            return DenseLayer(paths[largest], visit.output.shape[1], math.prod(visit.output.shape[2:]))
    return DenseLayer(paths[largest], flat.shape[-1], 1)
