"""Membership inference: the curve and its error, and attacks whose strength is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_clients import algorithm, class_clients

from metabayfl import random
from metabayfl.data import in_memory
from metabayfl.errors import DataError
from metabayfl.evaluation.membership import Attack, attack, client_losses, likelihood_ratio
from metabayfl.models import mlp
from metabayfl.types import Batch, ClassPrediction, Key, Tree


def test_the_area_is_the_share_of_pairs_that_are_in_order() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 6, 30) + 1.0, rng.integers(0, 6, 20) + 0.0
    pairs = [(1.0 if one > other else 0.5 if one == other else 0.0) for one in high for other in low]
    assert attack(high, low).auc == pytest.approx(np.mean(pairs))
    assert attack(low, high).auc == pytest.approx(1 - attack(high, low).auc)


def test_the_standard_error_is_what_repeated_attacks_scatter_by() -> None:
    rng = np.random.default_rng(1)
    runs = [attack(rng.normal(0.5, 1, 60), rng.normal(0, 1, 40)) for _ in range(600)]
    assert np.mean([run.error for run in runs]) == pytest.approx(np.std([run.auc for run in runs]), rel=0.08)
    expected = 0.5 * (1 + math.erf(0.5 / 2))  # Phi(0.5 / sqrt(2))
    assert np.mean([run.auc for run in runs]) == pytest.approx(expected, abs=0.01)


def test_perfect_and_useless_scores() -> None:
    assert attack([2.0, 3.0], [0.0, 1.0]) == Attack(1.0, 0.0)
    assert attack([1.0, 1.0], [1.0, 1.0]) == Attack(0.5, 0.0)
    with pytest.raises(DataError, match="at least two of each"):
        attack([1.0], [1.0, 2.0])


def shares(meta: Tree, support: Batch, key: Key) -> Tree:
    """A model that believes the class shares of its support, and equal ones without any."""
    return {"count": torch.stack([((support.y == at) * support.mask).sum() for at in range(4)])}


def believe(posterior: Tree, x: torch.Tensor, key: Key) -> ClassPrediction:
    probs = ((posterior["count"] + 1.0) / (posterior["count"] + 1.0).sum()).expand(len(x), -1)
    return ClassPrediction(probs, *[torch.zeros(len(x))] * 3)


def test_losses_are_of_the_strategy_itself_or_after_half_of_the_samples() -> None:
    toy = algorithm(mlp((1,), 4), "shares", {}, shares, believe)
    clients = class_clients(np.random.default_rng(0), [[0], [1, 2]], support=10, test=10)
    zero_shot = client_losses(toy, {}, clients, random.key(0))
    assert zero_shot.tolist() == pytest.approx([math.log(4)] * 2)
    adapted = client_losses(toy, {}, clients, random.key(0), view="adapted")
    assert adapted.tolist() == pytest.approx([math.log(14 / 11), math.log(14 / 6)])


@pytest.mark.parametrize(("rows", "view"), [(0, "zero_shot"), (1, "adapted")])
def test_a_client_with_too_few_samples_is_named(rows: int, view: str) -> None:
    toy = algorithm(mlp((1,), 4), "shares", {}, shares, believe)
    clients = in_memory(["small"], [(np.zeros((rows, 1), np.float32), np.zeros(rows, np.int64))], [rows])
    with pytest.raises(DataError, match="'small' has"):
        client_losses(toy, {}, clients, random.key(0), view=view)  # type: ignore[arg-type]


def test_the_likelihood_ratio_beats_the_loss_where_clients_differ_in_difficulty() -> None:
    """Losses are a client's own difficulty, plus noise, less a little for members: nothing shows until the difficulty is taken away."""
    rng = np.random.default_rng(2)
    clients, models = 300, 12
    hard = rng.normal(0, 5, clients)
    trained = np.stack([rng.permutation(clients) < clients // 2 for _ in range(models + 1)])
    losses = hard - 0.5 * trained + rng.normal(0, 0.3, (models + 1, clients))
    member = trained[0]
    plain = attack(-losses[0][member], -losses[0][~member])
    ratio = likelihood_ratio(losses[0], losses[1:], trained[1:])
    assert plain.auc < 0.6
    assert attack(ratio[member], ratio[~member]).auc > 0.8


def test_the_likelihood_ratio_is_that_of_two_normals_of_one_variance() -> None:
    shadows = np.array([[1.0, 4.0], [1.2, 4.4], [2.0, 6.0], [2.4, 6.4]])
    trained = np.array([[True, True], [True, True], [False, False], [False, False]])
    variance = np.mean([0.01, 0.01, 0.04, 0.04, 0.04, 0.04, 0.04, 0.04])
    with_it, without = np.array([1.1, 4.2]), np.array([2.2, 6.2])
    losses = np.array([1.0, 6.0])
    expected = ((losses - without) ** 2 - (losses - with_it) ** 2) / (2 * variance)
    assert likelihood_ratio(losses, shadows, trained) == pytest.approx(expected)
    with pytest.raises(DataError, match="2 clients are in all shadows or in none"):
        likelihood_ratio(losses, shadows[:2], trained[:2])
