"""Local training: ridge regression where the answer is known, and nothing on the wire."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metabayfl import random, tree
from metabayfl.aggregators import weighted_mean
from metabayfl.algorithms.fine_tuning import fedavg_ft
from metabayfl.algorithms.local import local
from metabayfl.errors import ConfigError
from scenarios import batch, client, clients, double, small_model, squared_error_model

KEY = random.key(2)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_many_steps_solve_ridge_regression(weight_decay: float) -> None:
    generator = np.random.default_rng(4)
    x, y = generator.standard_normal((8, 2)), generator.standard_normal((8, 1))
    algorithm = local(squared_error_model(2), adapt_steps=200, adapt_lr=0.3, weight_decay=weight_decay)
    found = algorithm.adapt(algorithm.init(random.key(0)), batch(x, y, 12, 1e6), KEY)["head"]["weight"].mT
    expected = np.linalg.solve(x.T @ x / 8 + weight_decay * np.eye(2), x.T @ y / 8)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_it_is_fine_tuning_from_the_start(kind: str) -> None:
    model, support = small_model(kind), client(clients(kind), 0).support
    meta = double(model.init(random.key(0)))
    found, expected = (builder(model, adapt_steps=7).adapt(meta, support, KEY) for builder in (local, fedavg_ft))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_nothing_is_communicated_and_the_start_stays() -> None:
    model, task = small_model("classification"), client(clients("classification"), 0)
    algorithm, combine = local(model), weighted_mean()
    assert not algorithm.federated
    meta = double(algorithm.init(random.key(0)))
    message = algorithm.client(meta, task, KEY)
    assert all(torch.count_nonzero(leaf) == 0 for leaf in tree.leaves(message.update))
    stacked = torch.func.vmap(algorithm.client, in_dims=(None, 0, 0))(meta, clients("classification"), random.keys(KEY, 4))
    after = algorithm.server(algorithm.begin(meta), combine.finish(combine.partial(stacked)))
    torch.testing.assert_close(after.meta, meta, rtol=0, atol=0)


def test_the_reported_loss_falls_with_more_steps() -> None:
    task = client(clients("classification"), 0)
    losses = []
    for steps in (1, 100):
        algorithm = local(small_model("classification"), adapt_steps=steps)
        metrics = algorithm.client(double(algorithm.init(random.key(0))), task, KEY).metrics
        assert metrics["examples"] == 8
        losses.append(float(metrics["loss"]))
    assert losses[1] < 0.7 * losses[0]


@pytest.mark.parametrize("arguments", [{"adapt_steps": -1}, {"adapt_lr": 0.0}, {"weight_decay": -1.0}])
def test_bad_arguments_are_refused_by_name(arguments: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        local(small_model("classification"), **arguments)
