"""FedAvg against a plain numpy loop, FedSGD and the fixed point that quadratics give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.aggregators import weighted_mean
from metabayfl.algorithms.fedavg import fedavg
from metabayfl.batches import everything
from metabayfl.errors import ConfigError
from metabayfl.losses import masked_mean
from metabayfl.types import Algorithm, Batch, ServerState, Task, Tree
from scenarios import batch, client_keys, clients, double, small_model, squared_error_model, stack

SIZES = ((3, 2), (1, 3), (4, 4))
MEAN = weighted_mean()


def quadratic_clients(seed: int = 0) -> tuple[Task, list[tuple[np.ndarray, np.ndarray]]]:
    """Linear regressions in two inputs, as padded tasks and as plain arrays."""
    generator = np.random.default_rng(seed)
    data = [(generator.standard_normal((s + q, 2)), generator.standard_normal((s + q, 1))) for s, q in SIZES]
    tasks = [Task(batch(x[:s], y[:s], 4, 1e6), batch(x[s:], y[s:], 4, 1e6)) for (x, y), (s, _) in zip(data, SIZES, strict=True)]
    return stack(tasks), data


def run(algorithm: Algorithm, meta: Tree, tasks: Task, rounds: int) -> ServerState:
    state, keys = algorithm.begin(meta), client_keys(len(tasks.support.mask))
    for _ in range(rounds):
        messages = torch.func.vmap(algorithm.client, in_dims=(None, 0, 0))(state.meta, tasks, keys)
        state = algorithm.server(state, MEAN.finish(MEAN.partial(messages)))
    return state


def start() -> Tree:
    return {"body": {}, "head": {"weight": torch.tensor([[0.5, -1.0]]).double()}}


def orders(key: torch.Tensor, count: int, epochs: int) -> list[np.ndarray]:
    return [random.permutation(random.fold(key, "epoch", epoch), torch.ones(count)).numpy() for epoch in range(epochs)]


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_three_rounds_equal_a_plain_loop(batch_size: int) -> None:
    tasks, data = quadratic_clients()
    algorithm = fedavg(squared_error_model(2), local_epochs=2, batch_size=batch_size, client_lr=0.1)
    server = start()["head"]["weight"].numpy().T.copy()
    for _ in range(3):
        total = np.zeros_like(server)
        for (x, y), key in zip(data, client_keys(3), strict=True):
            weight = server.copy()
            for order in orders(key, len(x), 2):
                for rows in (order[i : i + batch_size] for i in range(0, len(x), batch_size)):
                    weight -= 0.1 * x[rows].T @ (x[rows] @ weight - y[rows]) / len(rows)
            total += len(x) * weight
        server = total / sum(len(x) for x, _ in data)
    found = run(algorithm, start(), tasks, 3).meta["head"]["weight"].mT
    torch.testing.assert_close(found, torch.from_numpy(server), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_one_full_batch_epoch_is_a_step_down_the_cohorts_mean_loss(kind: str) -> None:
    model, tasks = small_model(kind), clients(kind)
    meta = double(model.init(random.key(0)))

    def cohort_loss(params: Tree) -> torch.Tensor:
        pooled = everything(Task(*(Batch(*(leaf.flatten(0, 1) for leaf in part)) for part in tasks)))
        return masked_mean(model.likelihood.loss(model.apply(params, pooled.x, None), pooled.y), pooled.mask)

    expected = tree.step(meta, torch.func.grad(cohort_loss)(meta), 0.05)
    found = run(fedavg(model, local_epochs=1, batch_size=0), meta, tasks, 1).meta
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_fixed_point_on_quadratics() -> None:
    """``E`` full-batch steps map ``w`` to ``w_k + A_k^E (w - w_k)`` with ``A_k = I - lr H_k``; the mean of these maps has one fixed point."""
    tasks, data = quadratic_clients()
    left, right = np.zeros((2, 2)), np.zeros((2, 1))
    for x, y in data:
        contraction = np.eye(2) - np.linalg.matrix_power(np.eye(2) - 0.2 * x.T @ x / len(x), 4)
        left += len(x) * contraction
        right += len(x) * contraction @ np.linalg.lstsq(x, y, rcond=None)[0]
    found = run(fedavg(squared_error_model(2), local_epochs=4, batch_size=0, client_lr=0.2), start(), tasks, 60).meta["head"]["weight"].mT
    torch.testing.assert_close(found, torch.from_numpy(np.linalg.solve(left, right)), rtol=1e-10, atol=1e-10)


def test_server_momentum_and_rate_by_hand() -> None:
    tasks, _ = quadratic_clients()
    plain = fedavg(squared_error_model(2), local_epochs=1)
    algorithm = fedavg(squared_error_model(2), local_epochs=1, server_lr=0.5, server_momentum=0.9)
    weight, velocity = start(), tree.zeros_like(start())
    for _ in range(3):
        change = tree.subtract(weight, run(plain, weight, tasks, 1).meta)
        velocity = tree.add(tree.scale(velocity, 0.9), change)
        weight = tree.step(weight, velocity, 0.5)
    torch.testing.assert_close(run(algorithm, start(), tasks, 3).meta, weight, rtol=1e-12, atol=1e-12)


def test_every_client_gets_the_global_model() -> None:
    algorithm, support = fedavg(small_model("classification")), clients("classification").support
    meta = algorithm.init(random.key(0))
    torch.testing.assert_close(algorithm.adapt(meta, support, random.key(1)), meta, rtol=0, atol=0)
    personal = torch.func.vmap(algorithm.adapt, in_dims=(None, 0, 0))(meta, support, client_keys(4))
    torch.testing.assert_close(tree.map(lambda leaf: leaf[2], personal), meta, rtol=0, atol=0)


@pytest.mark.parametrize("arguments", [{"server_lr": 0.0}, {"server_momentum": 1.0}, {"server_momentum": -0.1}, {"local_epochs": 0}])
def test_bad_arguments_are_refused_by_name(arguments: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        fedavg(small_model("classification"), **arguments)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_side_by_side_is_vmap_of_a_client(kind: str) -> None:
    algorithm = fedavg(small_model(kind, dropout=0.3), local_epochs=2, batch_size=3, client_lr=0.2, weight_decay=0.1)
    meta, (tasks, keys) = double(algorithm.init(random.key(3))), (clients(kind), client_keys(4))
    assert algorithm.clients is not None
    one, other = algorithm.clients(meta, tasks, keys), torch.func.vmap(algorithm.client, in_dims=(None, 0, 0))(meta, tasks, keys)
    torch.testing.assert_close(tree.leaves(one.update), tree.leaves(other.update), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((one.weight, one.metrics), (other.weight, other.metrics), rtol=1e-12, atol=1e-12)


def test_side_by_side_of_clients_without_examples_is_no_change() -> None:
    algorithm = fedavg(small_model("classification"), local_epochs=1, batch_size=3)
    meta, tasks = double(algorithm.init(random.key(3))), clients("classification")
    empty = Task(*(part._replace(mask=torch.zeros_like(part.mask)) for part in tasks))
    assert algorithm.clients is not None
    message = algorithm.clients(meta, empty, client_keys(4))
    assert all(torch.count_nonzero(leaf) == 0 for leaf in tree.leaves(message.update))
    assert message.weight.tolist() == [0.0] * 4
