"""FedAdam, FedYogi and FedAdagrad: three rounds of Reddi et al. 2021, Algorithm 2, by hand; clients as FedAvg's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.algorithms.fed_opt import fedadagrad, fedadam, fedyogi
from metabayfl.algorithms.fedavg import fedavg
from metabayfl.errors import ConfigError
from metabayfl.types import Aggregate, Algorithm, Model, Tree
from scenarios import client, clients, double, small_model

B2, TAU, RATE = 0.9, 0.05, 0.1

SECOND: dict[Callable[..., Algorithm], Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    fedadam: lambda v, d: B2 * v + (1 - B2) * d**2,
    fedyogi: lambda v, d: v - (1 - B2) * d**2 * np.sign(v - d**2),
    fedadagrad: lambda v, d: v + d**2,
}


def built(builder: Callable[..., Algorithm], model: Model, b1: float) -> Algorithm:
    moments = {"b1": b1} if builder is fedadagrad else {"b1": b1, "b2": B2}
    return builder(model, server_lr=RATE, tau=TAU, **moments)


def mean_change(meta: Tree, step: int) -> Tree:
    """A cohort's mean update, drawn."""
    keys = {path: random.fold(random.key(7), step, path) for path in tree.paths(meta)}
    return tree.unflatten({path: 0.3 * random.normal(keys[path], tuple(leaf.shape), leaf.dtype) for path, leaf in tree.flatten(meta).items()})


@pytest.mark.parametrize("b1", [0.0, 0.8])
@pytest.mark.parametrize("builder", SECOND)
def test_three_rounds_by_hand(builder: Callable[..., Algorithm], b1: float) -> None:
    algorithm = built(builder, small_model("classification"), b1)
    state = algorithm.begin(double(algorithm.init(random.key(0))))
    weight = {path: leaf.numpy().copy() for path, leaf in tree.flatten(state.meta).items()}
    m = {path: np.zeros_like(leaf) for path, leaf in weight.items()}
    v = {path: np.full_like(leaf, TAU**2) for path, leaf in weight.items()}
    for step in range(3):
        update = mean_change(state.meta, step)
        state = algorithm.server(state, Aggregate(update, torch.tensor(1.0), {}))
        for path, leaf in tree.flatten(update).items():
            change = leaf.numpy()
            m[path] = b1 * m[path] + (1 - b1) * change
            v[path] = SECOND[builder](v[path], change)
            weight[path] = weight[path] - RATE * m[path] / (np.sqrt(v[path]) + TAU)
    for path, leaf in tree.flatten(state.meta).items():
        np.testing.assert_allclose(leaf.numpy(), weight[path], rtol=1e-12, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("builder", SECOND)
def test_clients_train_as_in_fedavg_and_keep_the_global_model(builder: Callable[..., Algorithm]) -> None:
    model, task = small_model("classification"), client(clients("classification"), 0)
    algorithm, plain = builder(model), fedavg(model, local_epochs=1)
    meta, key = double(model.init(random.key(0))), random.key(1)
    torch.testing.assert_close(algorithm.client(meta, task, key), plain.client(meta, task, key), rtol=0, atol=0)
    torch.testing.assert_close(algorithm.adapt(meta, task.support, key), meta, rtol=0, atol=0)


@pytest.mark.parametrize("arguments", [{"server_lr": 0.0}, {"b1": 1.0}, {"tau": 0.0}, {"client_lr": -1.0}])
@pytest.mark.parametrize("builder", SECOND)
def test_bad_arguments_are_refused_by_name(builder: Callable[..., Algorithm], arguments: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        builder(small_model("classification"), **arguments)


@pytest.mark.parametrize("builder", [fedadam, fedyogi])
def test_a_bad_second_moment_is_refused(builder: Callable[..., Algorithm]) -> None:
    with pytest.raises(ConfigError, match="b2 is 2"):
        builder(small_model("classification"), b2=2)
