"""FedMeta's MAML on problems with known answers."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

from metabayfl import random, tree
from metabayfl.algorithms.inner import inner_losses, step_loss
from metabayfl.algorithms.maml import maml
from metabayfl.errors import ConfigError
from metabayfl.meta_gradient import exact, sweep
from metabayfl.models import mlp
from metabayfl.types import Aggregate, Batch, Task, Tree
from quadratics import class_batch, distance, params_of, quadratic_batch, quadratic_model, quadratic_task, smooth_model, vector

P = 4
ALPHA = 0.3
KEY = random.key(3)
FLAVOURS = ("exact", "first_order", "hessian_free")


def smooth_task() -> Task:
    return Task(class_batch(1, 7), class_batch(3, 8))


def smooth_meta(dropout: float = 0.0) -> tuple[object, Tree]:
    model = smooth_model(dropout=dropout)
    return model, tree.to(model.init(random.key(0)), torch.float64)


def aggregate(update: Tree) -> Aggregate:
    return Aggregate(update, torch.tensor(1.0), {})


@pytest.mark.parametrize("nu", range(6))
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_client_has_the_closed_form(nu: int, flavour: str) -> None:
    algorithm = maml(quadratic_model(P), inner_steps=nu, inner_lr=ALPHA, meta_gradient=flavour, hessian_delta=0.1)
    task, (A, b, Aq, bq) = quadratic_task(P, 0)
    meta = algorithm.init(random.key(1))
    contraction = torch.linalg.matrix_power(torch.eye(P, dtype=torch.float64) - ALPHA * A, nu)
    end = b + contraction @ (vector(meta) - b)
    expected = Aq @ (end - bq) if flavour == "first_order" else contraction @ Aq @ (end - bq)
    message = algorithm.client(meta, task, KEY)
    assert torch.allclose(vector(message.update), expected, rtol=0, atol=1e-12)
    assert float(message.metrics["loss"]) == pytest.approx(float(0.5 * (end - bq) @ Aq @ (end - bq)), rel=1e-12)
    assert [float(message.weight), float(message.metrics["examples"])] == [2.0, 1.0]


def test_client_is_exactly_the_objectives_gradient_and_the_sweep() -> None:
    model, meta = smooth_meta(dropout=0.4)
    algorithm, task = maml(model, inner_steps=4, inner_lr=ALPHA, inner_weight_decay=0.1), smooth_task()
    message = algorithm.client(meta, task, KEY)
    update, metrics = grad(algorithm.objective, has_aux=True)(meta, task, KEY)
    assert distance(message.update, update) == 0.0
    assert float(metrics["loss"]) == float(message.metrics["loss"])
    outer = step_loss(model, task.query, random.fold(KEY, "query"))
    reference = sweep(inner_losses(model, task.support, 4, KEY, 0.1), outer, meta, ALPHA, exact)
    assert distance(message.update, reference.model) < 1e-12


def test_one_pass_over_the_cohort_is_the_weighted_mean_of_the_clients() -> None:
    model, meta = smooth_meta()
    algorithm = maml(model, inner_steps=3, inner_lr=ALPHA)
    tasks = Task(*(Batch(*(torch.stack([part, part.roll(1, 0)]) for part in half)) for half in smooth_task()))
    keys, weight = random.keys(KEY, 2), torch.tensor([0.3, 0.7], dtype=torch.float64)
    whole = grad(lambda params: torch.sum(weight * vmap(algorithm.objective, (None, 0, 0))(params, tasks, keys)[0]))(meta)
    each = vmap(algorithm.client, (None, 0, 0))(meta, tasks, keys).update
    assert distance(whole, tree.map(lambda leaf: torch.tensordot(weight, leaf, dims=1), each)) < 1e-13


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_without_inner_steps_it_is_fed_sgd_on_the_query_set(flavour: str) -> None:
    model, meta = smooth_meta()
    task = smooth_task()
    message = maml(model, inner_steps=0, meta_gradient=flavour).client(meta, task, KEY)
    assert distance(message.update, grad(step_loss(model, task.query, None))(meta)) < 1e-15


def test_hessian_free_is_nearer_to_exact_than_first_order_on_a_relu_net() -> None:
    """The cohort's mean: with a step of 1e-3 a few clients whose difference crosses a kink of the ReLU would spoil it."""
    model, meta = mlp((8,), 3, hidden=(16,)), mlp((8,), 3, hidden=(16,)).init(KEY)
    x = random.normal(KEY, (2, 50, 10, 8))
    halves = [Batch(part, (part[..., 0] > 0).long() + (part[..., 1] > 0).long(), torch.ones(50, 10)) for part in x]
    clients = [maml(model, inner_lr=0.2, meta_gradient=flavour).client for flavour in FLAVOURS]
    full, cheap, near = (
        vector(tree.map(lambda leaf: leaf.mean(0), vmap(each, (None, 0, None))(meta, Task(*halves), KEY).update)) for each in clients
    )
    assert float((near - full).norm()) < 0.5 * float((cheap - full).norm())


def test_only_exact_gradients_have_an_objective() -> None:
    model, _ = smooth_meta()
    assert [maml(model, meta_gradient=flavour).objective is not None for flavour in FLAVOURS] == [True, False, False]


@pytest.mark.parametrize(
    ("options", "steps", "rate"),
    [({}, 2, ALPHA), ({"adapt_steps": 20}, 20, ALPHA), ({"adapt_steps": 3, "adapt_lr": 0.1}, 3, 0.1), ({"adapt_steps": 0}, 0, ALPHA)],
)
def test_adaptation_descends_on_the_support_set(options: dict[str, float], steps: int, rate: float) -> None:
    task, (A, b, _, _) = quadratic_task(P, 0)
    meta = params_of(torch.linspace(-1, 1, P, dtype=torch.float64))
    posterior = maml(quadratic_model(P), inner_steps=2, inner_lr=ALPHA, **options).adapt(meta, task.support, KEY)
    contraction = torch.linalg.matrix_power(torch.eye(P, dtype=torch.float64) - rate * A, steps)
    assert torch.allclose(vector(posterior), b + contraction @ (vector(meta) - b), rtol=0, atol=1e-12)


def test_adaptation_takes_the_same_steps_as_training() -> None:
    model, meta = smooth_meta(dropout=0.4)
    algorithm, task = maml(model, inner_steps=3, inner_lr=ALPHA, inner_weight_decay=0.1), smooth_task()
    posterior = algorithm.adapt(meta, task.support, KEY)
    loss, _ = algorithm.objective(meta, task, KEY)
    assert float(step_loss(model, task.query, random.fold(KEY, "query"))(posterior)) == pytest.approx(float(loss), rel=1e-14)


def test_server_is_adam_or_plain_descent() -> None:
    model = quadratic_model(P)
    update = params_of(torch.tensor([1.0, -2.0, 3.0, -4.0], dtype=torch.float64))
    state = maml(model, meta_lr=0.1).begin(tree.zeros_like(update))
    adam = maml(model, meta_lr=0.1).server(state, aggregate(update)).meta
    assert torch.allclose(vector(adam), -0.1 * torch.sign(vector(update)), atol=1e-8)
    plain = maml(model, meta_lr=0.1, server_optimizer="sgd")
    assert distance(plain.server(plain.begin(tree.zeros_like(update)), aggregate(update)).meta, tree.scale(update, -0.1)) < 1e-15


def test_padding_changes_nothing() -> None:
    model, meta = smooth_meta(dropout=0.4)
    algorithm, task = maml(model, inner_steps=3, inner_lr=ALPHA, inner_weight_decay=0.1), smooth_task()

    def pad(batch: Batch) -> Batch:
        return Batch(torch.cat([batch.x, batch.x.new_full((3, 4), 1e9)]), torch.cat([batch.y, batch.y[:3]]), torch.cat([batch.mask, torch.zeros(3)]))

    plain, padded = (algorithm.client(meta, each, KEY) for each in (task, Task(pad(task.support), pad(task.query))))
    assert distance(plain.update, padded.update) < 1e-14
    assert float(plain.weight) == float(padded.weight)


def test_regression_models_adapt_too() -> None:
    model = mlp((4,), 2, "regression", hidden=(8,))
    x = random.normal(random.key(1), (10, 4))
    data = Batch(x, torch.stack([x.sum(1), x[:, 0]], 1), torch.ones(10))
    algorithm = maml(model, inner_steps=5, inner_lr=0.05)
    meta = algorithm.init(random.key(2))
    posterior = algorithm.adapt(meta, data, KEY)
    assert float(step_loss(model, data, None)(posterior)) < float(step_loss(model, data, None)(meta))
    assert algorithm.predict(posterior, x, KEY).mean.shape == (10, 2)
    assert bool(torch.isfinite(vector(algorithm.client(meta, Task(data, data), KEY).update)).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": -1}, "inner_steps is -1"),
        ({"inner_lr": 0.0}, "inner_lr is 0"),
        ({"meta_lr": -1.0}, "meta_lr is -1"),
        ({"adapt_steps": -2}, "adapt_steps is -2"),
        ({"inner_weight_decay": -0.1}, "inner_weight_decay is -0.1"),
        ({"meta_gradient": "second_order"}, "unknown meta_gradient 'second_order'"),
        ({"server_optimizer": "adamm"}, "did you mean 'adam'"),
        ({"hessian_delta": 0.0}, "hessian_delta = 0"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        maml(quadratic_model(P), **options)


def test_quadratic_batches_average() -> None:
    _, (A, b, Aq, bq) = quadratic_task(P, 0)
    meta = params_of(torch.ones(P, dtype=torch.float64))
    both = quadratic_batch([A, Aq], [b, bq])
    expected = 0.5 * (A @ (1.0 - b) + Aq @ (1.0 - bq))
    assert torch.allclose(vector(grad(step_loss(quadratic_model(P), both, None))(meta)), expected, atol=1e-14)
