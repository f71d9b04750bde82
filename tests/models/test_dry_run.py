"""Blaming the right layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metabayfl import random
from metabayfl.errors import ModelError
from metabayfl.models.dry_run import Trial, _require_equal, try_out, watched


class Function(nn.Module):
    """A layer made of a function of the input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def trial(*layers: nn.Module) -> Trial:
    net = nn.Sequential(nn.Linear(3, 5), *layers)
    params = {name.replace(".", "_"): value.detach() for name, value in net.named_parameters()}
    names = {name.replace(".", "_"): name for name, _ in net.named_parameters()}

    def apply(params: dict[str, Tensor], x: Tensor, key: Tensor | None) -> Tensor:
        out: Tensor = torch.func.functional_call(net, {names[name]: leaf for name, leaf in params.items()}, (x,))
        return out

    return Trial(apply, params, random.normal(random.key(0), (4, 3)), (net,))


def test_what_works_passes() -> None:
    good = trial(nn.ReLU(), nn.Linear(5, 2))
    try_out(good, vectorise=True)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in good.nets[0].modules())  # the watchers are gone


def test_features_that_are_as_many_as_examples_are_refused() -> None:
    with pytest.raises(ModelError, match=r"the network \(Sequential\) cannot be used: an example comes out differently"):
        try_out(trial(Function(lambda x: x @ x.T)), vectorise=True)


def test_layers_that_hand_on_tuples_are_passed_over() -> None:
    with pytest.raises(ModelError, match=r"layer '2' \(Function\).*alone"):
        try_out(trial(Function(lambda x: (x, x)), Function(lambda pair: pair[0] - pair[1].mean(0))), vectorise=True)


def test_visits_are_in_the_order_in_which_layers_end() -> None:
    made = trial(nn.Sequential(nn.ReLU()))
    visits = watched(made.nets, lambda: made.apply(made.params, made.x, None), "")
    assert [visit.path for visit in visits] == ["0", "1.0", "1", ""]
    assert torch.equal(visits[1].input, visits[0].output)


def test_gradients_that_differ_are_refused() -> None:
    looped = [{"w": torch.tensor([1.0, 1e-9])}, {"w": torch.tensor([2.0, 0.0])}]
    _require_equal({"w": torch.tensor([[1.0, 0.0], [2.0, 1e-9]])}, looped, nn.Identity())  # noise beside a gradient of size 1 is no difference
    with pytest.raises(ModelError, match="gradients differ when clients are vectorised"):
        _require_equal({"w": torch.tensor([[1.0, 0.0], [2.1, 0.0]])}, looped, nn.Identity())
