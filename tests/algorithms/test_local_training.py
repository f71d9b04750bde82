"""Local SGD against torch.optim, and what padding, dropout and the noise scale must not do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.algorithms.local_training import LOG_SCALE_RANGE, Sgd, bounded, model_loss, point_predict, require, sgd, train, tuning
from metabayfl.batches import minibatches
from metabayfl.errors import ConfigError
from metabayfl.types import Batch, Tree
from scenarios import batch, clients, double, linear, padded, separable, small_model, squared_error_model

KEY = random.key(3)


def examples(kind: str, count: int = 7) -> Batch:
    return batch(*(separable if kind == "classification" else linear)(np.random.default_rng(0), count))


def start(kind: str, dropout: float = 0.0) -> Tree:
    return double(small_model(kind, dropout).init(random.key(1)))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_training_is_torch_sgd_with_weight_decay(kind: str) -> None:
    model, data, how = small_model(kind), examples(kind), Sgd(2, 3, 0.1, 0.01)
    trained, metrics = train(model_loss(model), start(kind), data, KEY, how)
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(start(kind))]
    optimizer, total = torch.optim.SGD(leaves, lr=0.1, weight_decay=0.01), 0.0
    for part in minibatches(data, 3, 2, KEY):
        optimizer.zero_grad()
        losses = model.likelihood.loss(model.apply(tree.like(start(kind), leaves), part.x, None), part.y)
        losses.mean().backward()
        optimizer.step()
        total += float(losses.detach().sum())
    torch.testing.assert_close(tree.leaves(trained), [leaf.detach() for leaf in leaves], rtol=1e-12, atol=1e-12)
    assert float(metrics["loss"]) == pytest.approx(total / 2, rel=1e-12)
    assert metrics["examples"] == 7


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("size", [0, 2, 7, 50])
def test_padding_changes_neither_order_nor_dropout(size: int, dropout: float) -> None:
    loss, data = model_loss(small_model("classification", dropout)), examples("classification")
    plain, plain_metrics = train(loss, start("classification"), data, KEY, Sgd(3, size, 0.1, 0.01))
    wide, wide_metrics = train(loss, start("classification"), padded(data, 9), KEY, Sgd(3, size, 0.1, 0.01))
    torch.testing.assert_close((wide, wide_metrics), (plain, plain_metrics), rtol=1e-12, atol=1e-12)


def test_dropout_draws_anew_in_every_step_and_epoch() -> None:
    seen: list[int] = []

    def loss(params: Tree, part: Batch, key: torch.Tensor) -> torch.Tensor:
        seen.append(int(key))
        return (params["w"] ** 2).sum()

    train(loss, {"w": torch.ones(2)}, examples("classification", 6), KEY, Sgd(3, 2, 0.1))
    assert len(set(seen)) == len(seen) == 9


def test_a_correction_sees_gradient_and_current_parameters_and_rests_on_empty_minibatches() -> None:
    model = squared_error_model(2)
    data = batch(np.eye(2), np.array([[1.0], [3.0]]), length=8, fill=1e6)
    params = {"body": {}, "head": {"weight": torch.zeros(1, 2).double()}}

    def pull(gradient: Tree, now: Tree) -> Tree:
        return tree.map(lambda slope, leaf: 2 * slope + leaf + 1, gradient, now)

    trained, _ = train(model_loss(model), params, data, KEY, Sgd(2, 2, 0.1), pull)
    weight = np.zeros(2)
    for _ in range(2):  # 2 epochs of 4 minibatches, one of them with real examples; H = I/2
        weight = weight - 0.1 * (2 * (weight - [1.0, 3.0]) / 2 + weight + 1)
    torch.testing.assert_close(trained["head"]["weight"][0], torch.from_numpy(weight), rtol=1e-12, atol=1e-12)


def test_no_steps_and_no_examples_leave_everything() -> None:
    loss, params, data = model_loss(small_model("classification")), start("classification"), examples("classification")
    same, metrics = train(loss, params, data, KEY, tuning(0, 0.1))
    torch.testing.assert_close(same, params, rtol=0, atol=0)
    assert metrics["loss"] == 0
    nothing = data._replace(mask=torch.zeros_like(data.mask))
    same, metrics = train(loss, params, nothing, KEY, Sgd(2, 3, 0.1, 0.5))
    torch.testing.assert_close(same, params, rtol=0, atol=0)
    assert (metrics["loss"], metrics["examples"]) == (0, 0)


def test_the_noise_scale_survives_a_surprise_after_a_close_fit() -> None:
    model, data = small_model("regression"), clients("regression")
    support = Batch(*(part[0] for part in data.support))
    shocked = support._replace(y=support.y.index_fill(0, torch.tensor([0]), 300.0))
    trained, metrics = train(model_loss(model), start("regression"), shocked, KEY, Sgd(30, 0, 0.2))
    low, high = LOG_SCALE_RANGE
    assert all(torch.isfinite(leaf).all() for leaf in tree.leaves(trained))
    assert ((trained["head"]["log_scale"] >= low) & (trained["head"]["log_scale"] <= high)).all()
    assert torch.isfinite(metrics["loss"])


def test_only_leaves_named_log_scale_are_bounded() -> None:
    wide = torch.tensor([-9.0, 0.5, 9.0])
    out = bounded({"body": {"weight": wide}, "head": {"log_scale": wide}})
    assert out["body"]["weight"].tolist() == [-9.0, 0.5, 9.0]
    assert out["head"]["log_scale"].tolist() == [LOG_SCALE_RANGE[0], 0.5, LOG_SCALE_RANGE[1]]


def test_point_prediction_is_the_model_without_dropout() -> None:
    model, params, x = small_model("classification", dropout=0.5), start("classification"), examples("classification").x
    out = point_predict(model)(params, x, KEY)
    torch.testing.assert_close(out.probs, torch.softmax(model.apply(params, x, None), -1))
    assert torch.count_nonzero(out.epistemic) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 10, 0.1), "local_epochs is 0, expected at least 1"),
        ((1, -1, 0.1), "batch_size is -1"),
        ((1, 10, 0.0), "client_lr is 0.0, expected above 0"),
        ((1, 10, math.nan), "client_lr is nan"),
        ((1, 10, 0.1, -0.1), "weight_decay is -0.1"),
    ],
)
def test_a_bad_descent_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sgd(*arguments)


@pytest.mark.parametrize("arguments, message", [((-1, 0.1), "adapt_steps is -1"), ((1, -0.1), "adapt_lr is -0.1"), ((1, 0.1, -1.0), "weight_decay")])
def test_a_bad_personalisation_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tuning(*arguments)


def test_limits_of_a_range_are_named() -> None:
    require("momentum", 0.0, least=0, below=1)
    with pytest.raises(ConfigError, match="momentum is 1, expected at least 0 and below 1"):
        require("momentum", 1, least=0, below=1)
