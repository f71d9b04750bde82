"""Clients side by side send what each of them would send alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metabayfl import tree
from metabayfl.algorithms import ALGORITHMS, side_by_side
from metabayfl.models import cnn, mlp
from metabayfl.types import Algorithm, Batch, Model, Task
from scenarios import client_keys, clients, double, small_model

VARIATIONAL = {"inner_lr": 0.3, "prior_sd": 0.4, "kl_weight": 0.5}
TOGETHER = sorted(name for name in ALGORITHMS if ALGORITHMS[name](small_model("classification")).clients is not None)


def some(count: int, kind: str) -> tuple[Task, Tensor]:
    tasks, keys = clients(kind), client_keys(4)
    return Task(*(Batch(*(leaf[:count] for leaf in part)) for part in tasks)), keys[:count]


def assert_the_same(algorithm: Algorithm, tasks: Task, keys: Tensor) -> None:
    meta = double(algorithm.init(client_keys(1)[0]))
    assert algorithm.clients is not None
    with torch.no_grad():
        one = algorithm.clients(meta, tasks, keys)
    other = torch.func.vmap(algorithm.client, in_dims=(None, 0, 0))(meta, tasks, keys)
    torch.testing.assert_close(tree.flatten(one.update), tree.flatten(other.update), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close((one.weight, one.metrics), (other.weight, other.metrics), rtol=1e-11, atol=1e-11)


def test_these_bring_a_function_for_the_whole_chunk() -> None:
    assert {"fedavg", "fedprox", "maml", "mean_field", "meta_sgd"} <= set(TOGETHER)


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("count", [1, 4])
def test_together_as_alone(name: str, kind: str, count: int) -> None:
    assert_the_same(ALGORITHMS[name](small_model(kind, dropout=0.3)), *some(count, kind))


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("count", [1, 3])
def test_weights_beyond_the_cache_are_taken_one_client_at_a_time(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "WIDE", 1)
    assert_the_same(ALGORITHMS[name](small_model("regression", dropout=0.3)), *some(count, "regression"))


@pytest.mark.parametrize("name", ["maml", "meta_sgd"])
@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_inner_loops_together_as_alone(name: str, steps: int, decay: float) -> None:
    algorithm = ALGORITHMS[name](small_model("classification", dropout=0.3), inner_steps=steps, inner_lr=0.2, inner_weight_decay=decay)
    assert_the_same(algorithm, *some(4, "classification"))


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("draws", [(1, 2), (2, 1), (3, 5), (4, 4)])
@pytest.mark.parametrize("flavour", ["exact", "first_order"])
@pytest.mark.parametrize("meta_kl", [0.0, 0.7])
@pytest.mark.parametrize("steps", [0, 3])
def test_variational_steps_together_as_alone(kind: str, draws: tuple[int, int], flavour: str, meta_kl: float, steps: int) -> None:
    """The sweep written out by hand against automatic differentiation through the steps."""
    algorithm = ALGORITHMS["mean_field"](
        small_model(kind, dropout=0.3),
        inner_steps=steps,
        inner_samples=draws[0],
        query_samples=draws[1],
        meta_gradient=flavour,
        meta_kl=meta_kl,
        **VARIATIONAL,
    )
    assert_the_same(algorithm, *some(4, kind))


@pytest.mark.parametrize("name", TOGETHER)
def test_convolutions_together_as_alone(name: str) -> None:
    model: Model = cnn((1, 4, 4), 3, channels=(2, 3), width=5, dropout=0.3)
    tasks, keys = some(3, "classification")
    images = Task(*(part._replace(x=part.x.unsqueeze(2).unsqueeze(2).expand(-1, -1, 1, 4, 4).contiguous()) for part in tasks))
    assert_the_same(ALGORITHMS[name](model), images, keys)


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("options", [{}, {"dropout": 0.4}, {"skip": True}, {"clip": 0.5}, {"hidden": (5, 3), "dropout": 0.4}])
def test_perceptrons_take_stacked_clients(kind: str, options: dict[str, object]) -> None:
    model = mlp((4,), 2, kind, **{"hidden": (6,), **options})
    keys = client_keys(3)
    params = torch.func.vmap(model.init)(keys)
    x = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    assert model.stacks
    torch.testing.assert_close(model.apply(params, x, keys), torch.func.vmap(model.apply)(params, x, keys))
    torch.testing.assert_close(model.apply(params, x, None), torch.func.vmap(model.apply, in_dims=(0, 0, None))(params, x, None))
