"""Per-FedAvg: local meta-steps against a loop written by hand."""

from __future__ import annotations

import pytest
import torch

from metabayfl import random, tree
from metabayfl.algorithms.inner import minibatch, step_loss
from metabayfl.algorithms.maml import maml
from metabayfl.algorithms.per_fedavg import per_fedavg
from metabayfl.errors import ConfigError
from metabayfl.types import Aggregate, Batch, Task, Tree
from quadratics import class_batch, distance, quadratic_model, quadratic_task, smooth_model, vector

P = 4
ALPHA, BETA = 0.3, 0.2
KEY = random.key(3)
FLAVOURS = ("exact", "first_order", "hessian_free")


def smooth(dropout: float = 0.0) -> tuple[object, Tree, Task]:
    model = smooth_model(dropout=dropout)
    return model, tree.to(model.init(random.key(0)), torch.float64), Task(class_batch(1, 7), class_batch(3, 8))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("nu", [0, 1, 4])
def test_one_full_batch_step_is_mamls_gradient_times_the_rate(flavour: str, nu: int) -> None:
    model, meta, task = smooth()
    options = {"inner_steps": nu, "inner_lr": ALPHA, "meta_gradient": flavour, "inner_weight_decay": 0.1}
    update = per_fedavg(model, local_meta_steps=1, meta_lr=BETA, **options).client(meta, task, KEY).update
    assert distance(update, tree.scale(maml(model, **options).client(meta, task, KEY).update, BETA)) < 1e-16


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("tau", [1, 2, 5])
def test_local_steps_have_the_closed_form(flavour: str, tau: int) -> None:
    algorithm = per_fedavg(quadratic_model(P), inner_steps=2, inner_lr=ALPHA, meta_lr=BETA, local_meta_steps=tau, meta_gradient=flavour)
    task, (A, b, Aq, bq) = quadratic_task(P, 0)
    meta = algorithm.init(random.key(1))
    contraction = torch.linalg.matrix_power(torch.eye(P, dtype=torch.float64) - ALPHA * A, 2)
    w, losses = vector(meta), []
    for _ in range(tau):
        gap = b + contraction @ (w - b) - bq
        losses.append(float(0.5 * gap @ Aq @ gap))
        w = w - BETA * (Aq @ gap if flavour == "first_order" else contraction @ Aq @ gap)
    message = algorithm.client(meta, task, KEY)
    assert torch.allclose(vector(message.update), vector(meta) - w, rtol=0, atol=1e-12)
    assert float(message.metrics["loss"]) == pytest.approx(sum(losses) / tau, rel=1e-10)
    assert [float(message.weight), float(message.metrics["examples"])] == [2.0, 1.0]


def test_minibatch_steps_equal_a_loop_by_hand() -> None:
    model, meta, task = smooth(dropout=0.3)
    algorithm = per_fedavg(model, inner_steps=2, inner_lr=ALPHA, meta_lr=BETA, local_meta_steps=3, batch_size=4)

    def after_inner(w: Tree, now: torch.Tensor, query: Batch) -> torch.Tensor:
        for step in range(2):
            drop = random.fold(now, "inner", step)
            part = minibatch(task.support, 4, random.fold(drop, "support"))
            w = tree.step(w, torch.func.grad(step_loss(model, part, drop))(w), ALPHA)
        return step_loss(model, query, random.fold(now, "dropout"))(w)

    w = meta
    for step in range(3):
        now = random.fold(KEY, "meta", step)
        query = minibatch(task.query, 4, random.fold(now, "query"))
        w = tree.step(w, torch.func.grad(lambda start, now=now, query=query: after_inner(start, now, query))(w), BETA)
    assert distance(algorithm.client(meta, task, KEY).update, tree.subtract(meta, w)) < 1e-13


def test_every_local_step_sees_other_examples() -> None:
    _, _, task = smooth()
    drawn = {tuple(sorted(minibatch(task.query, 4, random.fold(KEY, "meta", step)).x[:, 0].tolist())) for step in range(6)}
    assert len(drawn) > 3


def test_minibatch_gives_each_real_example_at_most_once_and_goes_round() -> None:
    batch = class_batch(1, 7)
    padded = Batch(torch.cat([batch.x.new_full((2, 4), 1e9), batch.x]), torch.cat([batch.y[:2], batch.y]), torch.cat([torch.zeros(2), torch.ones(7)]))
    for data in (batch, padded):
        few = [minibatch(data, 3, KEY, step) for step in range(7)]
        assert all(len(set(part.x[:, 0].tolist())) == 3 and float(part.mask.sum()) == 3 for part in few)
        seen = torch.cat([part.x[:, 0] for part in few])
        assert sorted(seen.tolist()) == sorted(batch.x[:, 0].tolist() * 3)  # 7 minibatches of 3 are three passes over 7
        many = minibatch(data, 12, KEY)
        assert sorted(many.x[many.mask > 0][:, 0].tolist()) == sorted(batch.x[:, 0].tolist())
    assert minibatch(batch, 0, KEY) is batch
    nothing = Batch(batch.x[:0], batch.y[:0], batch.mask[:0])
    assert minibatch(nothing, 3, KEY) is nothing


def test_clients_without_query_examples_send_nothing() -> None:
    model, meta, task = smooth()
    empty = task.query._replace(mask=torch.zeros(8))
    for flavour in FLAVOURS:
        algorithm = per_fedavg(model, inner_steps=1, batch_size=4, meta_gradient=flavour, inner_weight_decay=0.1)
        message = algorithm.client(meta, Task(task.support, empty), KEY)
        assert float(vector(message.update).abs().max()) == 0.0
        assert float(message.metrics["examples"]) == 0.0


def test_server_averages() -> None:
    algorithm = per_fedavg(quadratic_model(P))
    meta = algorithm.init(random.key(1))
    step = tree.map(torch.ones_like, meta)
    new = algorithm.server(algorithm.begin(meta), Aggregate(step, torch.tensor(3.0), {})).meta
    assert distance(new, tree.subtract(meta, step)) == 0.0


def test_adaptation_takes_the_whole_support_set() -> None:
    task, (A, b, _, _) = quadratic_task(P, 0)
    algorithm = per_fedavg(quadratic_model(P), inner_lr=ALPHA, batch_size=1, adapt_steps=10)
    meta = algorithm.init(random.key(1))
    contraction = torch.linalg.matrix_power(torch.eye(P, dtype=torch.float64) - ALPHA * A, 10)
    assert torch.allclose(vector(algorithm.adapt(meta, task.support, KEY)), b + contraction @ (vector(meta) - b), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_meta_steps": 0}, "local_meta_steps is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"server_lr": 0.0}, "server_lr is 0"),
        ({"meta_gradient": "hf"}, "unknown meta_gradient 'hf'"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        per_fedavg(quadratic_model(P), **options)
