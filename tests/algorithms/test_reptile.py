"""Reptile's closed form, and its expansion that makes it meta-learning."""

from __future__ import annotations

import pytest
import torch

from metabayfl import random, tree
from metabayfl.algorithms.inner import minibatch, step_loss
from metabayfl.algorithms.reptile import reptile
from metabayfl.batches import everything
from metabayfl.errors import ConfigError
from metabayfl.types import Aggregate, Batch, Task
from quadratics import class_batch, distance, quadratic_batch, quadratic_model, quadratic_task, smooth_model, vector

P = 4
ALPHA = 0.3
KEY = random.key(3)
EYE = torch.eye(P, dtype=torch.float64)


@pytest.mark.parametrize("nu", range(1, 6))
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_full_batch_update_has_the_closed_form(nu: int, decay: float) -> None:
    algorithm = reptile(quadratic_model(P), inner_steps=nu, inner_lr=ALPHA, batch_size=0, inner_weight_decay=decay)
    task, (A, b, Aq, bq) = quadratic_task(P, 0)
    meta = algorithm.init(random.key(1))
    mean, pull = 0.5 * (A + Aq) + decay * EYE, 0.5 * (A @ b + Aq @ bq)
    optimum = torch.linalg.solve(mean, pull)
    end = optimum + torch.linalg.matrix_power(EYE - ALPHA * mean, nu) @ (vector(meta) - optimum)
    message = algorithm.client(meta, task, KEY)
    assert torch.allclose(vector(message.update), vector(meta) - end, rtol=0, atol=1e-12)
    assert float(message.weight) == 2.0


def test_one_step_is_fed_sgd_times_the_rate() -> None:
    model, task = smooth_model(), Task(class_batch(1, 7), class_batch(3, 8))
    meta = tree.to(model.init(random.key(0)), torch.float64)
    loss = step_loss(model, everything(task), None)
    message = reptile(model, inner_steps=1, inner_lr=ALPHA, batch_size=0).client(meta, task, KEY)
    assert distance(message.update, tree.scale(torch.func.grad(loss)(meta), ALPHA)) < 1e-15
    assert float(message.metrics["loss"]) == pytest.approx(15 * float(loss(meta)), rel=1e-14)
    assert float(message.metrics["examples"]) == 15.0


def test_minibatch_steps_equal_a_loop_by_hand() -> None:
    model, task = smooth_model(dropout=0.3), Task(class_batch(1, 7), class_batch(3, 8))
    meta = tree.to(model.init(random.key(0)), torch.float64)
    w = meta
    for step in range(5):
        part = minibatch(everything(task), 4, random.fold(KEY, "order"), step)
        w = tree.step(w, torch.func.grad(step_loss(model, part, random.fold(KEY, "inner", step)))(w), ALPHA)
    update = reptile(model, inner_steps=5, inner_lr=ALPHA, batch_size=4).client(meta, task, KEY).update
    assert distance(update, tree.subtract(meta, w)) < 1e-14


def test_two_minibatches_expand_to_the_gradients_inner_product() -> None:
    """``update = alpha (g1 + g2) - alpha^2 H2 g1``: exact on quadratics, section 5 of the paper."""
    algorithm = reptile(quadratic_model(P), inner_steps=2, inner_lr=ALPHA, batch_size=1)
    task, (A, b, Aq, bq) = quadratic_task(P, 0)
    meta = algorithm.init(random.key(1))
    first = minibatch(everything(task), 1, random.fold(KEY, "order"), 0)
    (A1, b1), (A2, b2) = ((A, b), (Aq, bq)) if torch.equal(first.x, quadratic_batch([A], [b]).x) else ((Aq, bq), (A, b))
    g1, g2 = A1 @ (vector(meta) - b1), A2 @ (vector(meta) - b2)
    assert torch.allclose(vector(algorithm.client(meta, task, KEY).update), ALPHA * (g1 + g2) - ALPHA**2 * A2 @ g1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_size", [0, 4, 40])
def test_padding_in_either_half_changes_nothing(batch_size: int) -> None:
    model, task = smooth_model(dropout=0.4), Task(class_batch(1, 7), class_batch(3, 8))
    meta = tree.to(model.init(random.key(0)), torch.float64)
    algorithm = reptile(model, inner_steps=4, inner_lr=ALPHA, batch_size=batch_size, inner_weight_decay=0.1)

    def pad(batch: Batch, rows: int) -> Batch:
        far = batch.x.new_full((rows, 4), 1e9)
        return Batch(torch.cat([batch.x, far]), torch.cat([batch.y, batch.y[:rows]]), torch.cat([batch.mask, torch.zeros(rows)]))

    padded = Task(pad(task.support, 5), pad(task.query, 2))
    assert distance(algorithm.client(meta, task, KEY).update, algorithm.client(meta, padded, KEY).update) < 1e-14


def test_server_moves_the_start_by_its_rate() -> None:
    algorithm = reptile(quadratic_model(P), meta_lr=0.5)
    meta = algorithm.init(random.key(1))
    step = tree.map(torch.ones_like, meta)
    new = algorithm.server(algorithm.begin(meta), Aggregate(step, torch.tensor(3.0), {})).meta
    assert distance(new, tree.step(meta, step, 0.5)) < 1e-15


def test_adaptation_descends_on_the_support_set() -> None:
    task, (A, b, _, _) = quadratic_task(P, 0)
    algorithm = reptile(quadratic_model(P), inner_lr=ALPHA, batch_size=1, adapt_steps=6)
    meta = algorithm.init(random.key(1))
    expected = b + torch.linalg.matrix_power(EYE - ALPHA * A, 6) @ (vector(meta) - b)
    assert torch.allclose(vector(algorithm.adapt(meta, task.support, KEY)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("options", "message"), [({"inner_steps": 0}, "inner_steps is 0"), ({"batch_size": -1}, "batch_size is -1")])
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reptile(quadratic_model(P), **options)
