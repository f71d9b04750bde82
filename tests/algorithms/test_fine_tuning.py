"""Fine-tuning: FedAvg's training to the bit, then plain gradient descent on the support set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from metabayfl import random, tree
from metabayfl.algorithms.fedavg import fedavg
from metabayfl.algorithms.fine_tuning import CHUNK, fedavg_ft, fedavg_head_ft
from metabayfl.algorithms.local_training import model_loss, train, tuning
from metabayfl.errors import ConfigError
from metabayfl.types import Algorithm, Batch, Model, Tree
from scenarios import client, clients, double, small_model

KEY = random.key(2)
BUILDERS = [fedavg_ft, fedavg_head_ft]


def setting(kind: str, dropout: float = 0.0) -> tuple[Model, Tree, Batch]:
    model = small_model(kind, dropout)
    return model, double(model.init(random.key(0))), client(clients(kind), 1).support


def descend(model: Model, meta: Tree, part: str | None, support: Batch, steps: int) -> Tree:
    """Plain autograd on the real examples; ``part`` alone is trained, or all."""
    real = Batch(*(values[support.mask > 0] for values in support))
    leaves = {path: leaf.clone().requires_grad_(part is None or path.startswith(part)) for path, leaf in tree.flatten(meta).items()}
    optimizer = torch.optim.SGD([leaf for leaf in leaves.values() if leaf.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model.likelihood.loss(model.apply(tree.unflatten(leaves), real.x, None), real.y).mean().backward()
        optimizer.step()
    return tree.map(torch.Tensor.detach, tree.unflatten(leaves))


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("builder, part", [(fedavg_ft, None), (fedavg_head_ft, "head")])
def test_adaptation_is_gradient_descent_on_the_support(builder: Callable[..., Algorithm], part: str | None, kind: str) -> None:
    model, meta, support = setting(kind)
    found = builder(model, adapt_steps=4, adapt_lr=0.1).adapt(meta, support, KEY)
    torch.testing.assert_close(found, descend(model, meta, part, support, 4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, CHUNK + 2])
def test_features_that_are_computed_once_are_those_of_every_step_with_its_dropout(steps: int) -> None:
    model, meta, support = setting("classification", dropout=0.5)
    loss = model_loss(model)
    head, _ = train(lambda head, batch, noise: loss({**meta, "head": head}, batch, noise), meta["head"], support, KEY, tuning(steps, 0.1))
    found = fedavg_head_ft(model, adapt_steps=steps, adapt_lr=0.1).adapt(meta, support, KEY)
    torch.testing.assert_close(found["head"], head, rtol=1e-12, atol=1e-12)


def test_the_head_alone_is_adapted() -> None:
    model, meta, support = setting("classification")
    found = fedavg_head_ft(model).adapt(meta, support, KEY)
    torch.testing.assert_close(found["body"], meta["body"], rtol=0, atol=0)
    assert tree.norm(tree.subtract(found["head"], meta["head"])) > 0.01


@pytest.mark.parametrize("builder", BUILDERS)
def test_training_is_fedavgs(builder: Callable[..., Algorithm]) -> None:
    model, meta, _ = setting("classification")
    task = client(clients("classification"), 0)
    torch.testing.assert_close(builder(model).client(meta, task, KEY), fedavg(model).client(meta, task, KEY), rtol=0, atol=0)


@pytest.mark.parametrize("builder", BUILDERS)
def test_no_steps_keep_the_global_model(builder: Callable[..., Algorithm]) -> None:
    model, meta, support = setting("classification")
    torch.testing.assert_close(builder(model, adapt_steps=0).adapt(meta, support, KEY), meta, rtol=0, atol=0)


@pytest.mark.parametrize("builder", BUILDERS)
def test_dropout_is_on_while_adapting_and_decided_by_the_key(builder: Callable[..., Algorithm]) -> None:
    model, meta, support = setting("classification", dropout=0.5)
    first, again, other = (builder(model).adapt(meta, support, random.key(seed)) for seed in (2, 2, 3))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert tree.norm(tree.subtract(first, other)) > 1e-3


@pytest.mark.parametrize("arguments", [{"adapt_steps": -1}, {"adapt_lr": 0.0}, {"server_lr": -1.0}, {"server_momentum": 1.0}])
@pytest.mark.parametrize("builder", BUILDERS)
def test_bad_arguments_are_refused_by_name(builder: Callable[..., Algorithm], arguments: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        builder(small_model("classification"), **arguments)
