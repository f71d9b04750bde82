"""Meta-SGD: the learned rates have a gradient of their own."""

from __future__ import annotations

import pytest
import torch

from metabayfl import random, tree
from metabayfl.algorithms.inner import inner_losses, step_loss
from metabayfl.algorithms.maml import maml
from metabayfl.algorithms.meta_sgd import meta_sgd
from metabayfl.errors import ConfigError
from metabayfl.meta_gradient import exact, sweep
from metabayfl.types import Aggregate, Task, Tree
from quadratics import class_batch, distance, params_of, quadratic_model, quadratic_task, smooth_model, vector

P = 4
KEY = random.key(3)


def smooth(nu: int = 3, **options: object) -> tuple[object, Tree, Task]:
    algorithm = meta_sgd(smooth_model(dropout=0.3), inner_steps=nu, inner_lr=0.2, **options)
    meta = tree.to(algorithm.init(random.key(0)), torch.float64)
    rates = tree.map(lambda leaf: leaf + 0.2 * random.uniform(KEY, tuple(leaf.shape), torch.float64), meta["rates"])
    return algorithm, {**meta, "rates": rates}, Task(class_batch(1, 7), class_batch(3, 8))


def test_one_step_has_the_closed_form() -> None:
    algorithm = meta_sgd(quadratic_model(P), inner_steps=1, inner_lr=0.3)
    task, (A, b, Aq, bq) = quadratic_task(P, 0)
    meta = algorithm.init(random.key(1))
    w, rates = vector(meta["model"]), torch.linspace(0.1, 0.4, P, dtype=torch.float64)
    slope = A @ (w - b)
    last = Aq @ (w - rates * slope - bq)
    update = algorithm.client({**meta, "rates": params_of(rates)}, task, KEY).update
    assert torch.allclose(vector(update["model"]), last - A @ (rates * last), rtol=0, atol=1e-12)
    assert torch.allclose(vector(update["rates"]), -last * slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("nu", [1, 3, 5])
def test_rate_update_equals_finite_differences_of_the_objective(nu: int) -> None:
    algorithm, meta, task = smooth(nu)
    update = algorithm.client(meta, task, KEY).update["rates"]
    way = tree.map(lambda leaf: random.normal(random.key(8), tuple(leaf.shape), torch.float64), meta["rates"])
    moved = [{**meta, "rates": tree.step(meta["rates"], way, sign * 1e-4)} for sign in (-1.0, 1.0)]
    ahead, behind = (algorithm.objective(each, task, KEY)[0] for each in moved)
    assert float(tree.dot(update, way)) == pytest.approx(float(ahead - behind) / 2e-4, rel=1e-6)


def test_client_is_the_objectives_gradient_and_the_sweep() -> None:
    algorithm, meta, task = smooth(inner_weight_decay=0.1)
    update = algorithm.client(meta, task, KEY).update
    assert distance(update, torch.func.grad(algorithm.objective, has_aux=True)(meta, task, KEY)[0]) == 0.0
    outer = step_loss(algorithm.model, task.query, random.fold(KEY, "query"))
    reference = sweep(inner_losses(algorithm.model, task.support, 3, KEY, 0.1), outer, meta["model"], meta["rates"], exact)
    assert distance(update, {"model": reference.model, "rates": reference.rates}) < 1e-12


def test_hessian_free_is_near_exact_and_first_order_is_not() -> None:
    full, near, cheap = (smooth(meta_gradient=flavour, hessian_delta=1e-3) for flavour in ("exact", "hessian_free", "first_order"))
    updates = [algorithm.client(meta, task, KEY).update for algorithm, meta, task in (full, near, cheap)]
    assert distance(updates[0], updates[1]) < 1e-7
    assert distance(updates[0], updates[2]) > 1e-3


def test_equal_rates_are_maml() -> None:
    algorithm, meta, task = smooth()
    meta = {**meta, "rates": tree.map(lambda leaf: torch.full_like(leaf, 0.2), meta["rates"])}
    other = maml(algorithm.model, inner_steps=3, inner_lr=0.2)
    assert distance(algorithm.client(meta, task, KEY).update["model"], other.client(meta["model"], task, KEY).update) < 1e-15
    assert distance(algorithm.adapt(meta, task.support, KEY), other.adapt(meta["model"], task.support, KEY)) < 1e-15


def test_without_inner_steps_the_rates_do_not_move() -> None:
    algorithm, meta, task = smooth(0)
    update = algorithm.client(meta, task, KEY).update
    assert float(vector(update["rates"]).abs().max()) == 0.0
    reference = torch.func.grad(step_loss(algorithm.model, task.query, random.fold(KEY, "query")))(meta["model"])
    assert distance(update["model"], reference) == 0.0


def test_descending_along_the_rates_gradient_lowers_the_loss() -> None:
    algorithm, meta, task = smooth()
    before, _ = algorithm.objective(meta, task, KEY)
    moved = {**meta, "rates": tree.step(meta["rates"], algorithm.client(meta, task, KEY).update["rates"], 0.05)}
    assert float(algorithm.objective(moved, task, KEY)[0]) < float(before)


def test_server_gives_the_rates_a_rate_of_their_own() -> None:
    algorithm = meta_sgd(quadratic_model(P), meta_lr=0.1, rates_lr=0.02, server_optimizer="sgd", inner_lr=0.3)
    meta = algorithm.init(random.key(1))
    ones = tree.map(torch.ones_like, meta)
    new = algorithm.server(algorithm.begin(meta), Aggregate(ones, torch.tensor(1.0), {})).meta
    assert torch.allclose(vector(meta["model"]) - vector(new["model"]), torch.tensor(0.1, dtype=torch.float64))
    assert torch.allclose(vector(new["rates"]), torch.tensor(0.28, dtype=torch.float64))


def test_adaptation_uses_the_learned_rates_for_as_many_steps_as_wanted() -> None:
    algorithm = meta_sgd(quadratic_model(P), inner_steps=1, adapt_steps=7)
    task, (A, b, _, _) = quadratic_task(P, 0)
    meta, rates = algorithm.init(random.key(1)), torch.linspace(0.1, 0.4, P, dtype=torch.float64)
    contraction = torch.linalg.matrix_power(torch.eye(P, dtype=torch.float64) - torch.diag(rates) @ A, 7)
    posterior = algorithm.adapt({**meta, "rates": params_of(rates)}, task.support, KEY)
    assert torch.allclose(vector(posterior), b + contraction @ (vector(meta["model"]) - b), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("options", "message"), [({"rates_lr": 0.0}, "rates_lr is 0"), ({"inner_steps": -1}, "inner_steps is -1")])
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        meta_sgd(quadratic_model(P), **options)
