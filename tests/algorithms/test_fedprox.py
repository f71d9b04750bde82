"""FedProx: its proximal step by hand, its fixed point, and FedAvg where the pull is 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.algorithms.fedavg import fedavg
from metabayfl.algorithms.fedprox import fedprox
from metabayfl.errors import ConfigError
from metabayfl.types import Algorithm, Task, Tree
from scenarios import batch, client, client_keys, clients, double, small_model, squared_error_model

KEY = random.key(2)
SERVER = np.array([[0.5], [-1.0]])


def problem(length: int | None = None) -> tuple[Task, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    x, y = generator.standard_normal((6, 2)), generator.standard_normal((6, 1))
    return Task(batch(x[:4], y[:4], length, 1e6), batch(x[4:], y[4:], length, 1e6)), x, y


def trained(algorithm: Algorithm, task: Task) -> np.ndarray:
    meta: Tree = {"body": {}, "head": {"weight": torch.from_numpy(SERVER.T.copy())}}
    return tree.subtract(meta, algorithm.client(meta, task, KEY).update)["head"]["weight"].numpy().T


@pytest.mark.parametrize("length", [None, 9])
def test_steps_by_hand_with_weight_decay(length: int | None) -> None:
    task, x, y = problem(length)
    algorithm = fedprox(squared_error_model(2), mu=0.7, local_epochs=3, batch_size=6, client_lr=0.1, weight_decay=0.02)
    weight = SERVER
    for _ in range(3):
        weight = weight - 0.1 * (x.T @ (x @ weight - y) / 6 + 0.02 * weight + 0.7 * (weight - SERVER))
    np.testing.assert_allclose(trained(algorithm, task), weight, rtol=1e-12)


@pytest.mark.parametrize("mu", [0.1, 3.0])
def test_many_steps_end_at_the_proximal_point(mu: float) -> None:
    """The minimum of ``f + mu/2 |w - w_server|^2`` is ``(H + mu I)^-1 (H w_k + mu w_server)``."""
    task, x, y = problem()
    hessian = x.T @ x / 6
    expected = np.linalg.solve(hessian + mu * np.eye(2), x.T @ y / 6 + mu * SERVER)
    algorithm = fedprox(squared_error_model(2), mu=mu, local_epochs=300, batch_size=0, client_lr=0.25)
    np.testing.assert_allclose(trained(algorithm, task), expected, rtol=1e-10)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_without_pull_it_is_fedavg_to_the_bit(kind: str) -> None:
    model, tasks, keys = small_model(kind), clients(kind), client_keys(4)
    meta = double(model.init(random.key(0)))
    left, right = fedprox(model, mu=0.0, batch_size=3), fedavg(model, batch_size=3)
    for row in range(4):
        pair = [algorithm.client(meta, client(tasks, row), keys[row]) for algorithm in (left, right)]
        torch.testing.assert_close(*pair, rtol=0, atol=0)


def test_a_stronger_pull_keeps_clients_closer() -> None:
    task, _, _ = problem()
    drifts = [np.linalg.norm(trained(fedprox(squared_error_model(2), mu=mu), task) - SERVER) for mu in (0.0, 0.5, 5.0)]
    assert drifts[0] > drifts[1] > drifts[2]


@pytest.mark.parametrize(
    "arguments, name", [({"mu": -1.0}, "mu"), ({"mu": 40.0}, "mu"), ({"server_lr": 0.0}, "server_lr"), ({"client_lr": 0}, "client_lr")]
)
def test_bad_arguments_are_refused_by_name(arguments: dict, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        fedprox(small_model("classification"), **arguments)
