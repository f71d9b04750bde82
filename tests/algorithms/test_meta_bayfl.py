"""Meta-BayFL with a compact strategy: exact leave-one-out objective, exact updates, limits and learning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.algorithms.meta_bayfl import meta_bayfl
from metabayfl.batches import everything
from metabayfl.errors import ConfigError
from metabayfl.heads.conjugate_classification import log_probs, posterior, statistics, zero_shot
from metabayfl.losses import prediction_nll
from metabayfl.models.cnn import cnn
from metabayfl.models.mlp import mlp
from metabayfl.optimizers import adam
from metabayfl.types import Aggregate, Algorithm, Batch, Model, Task, Tree
from scenarios import CLASSES, FEATURES, TARGETS, client, client_keys, clients, double, padded_task

KINDS = ("classification", "regression")
KEY = random.key(4)


def model(kind: str, dropout: float = 0.0) -> Model:
    return mlp((FEATURES,), CLASSES if kind == "classification" else TARGETS, kind, hidden=(6, 5), dropout=dropout)


def strategy(algorithm: Algorithm, spread: float = 0.3) -> Tree:
    """A strategy in the middle of training: every number of its own, float64."""
    start = double(algorithm.init(random.key(0)))
    return tree.unflatten(
        {path: leaf + spread * random.normal(random.fold(KEY, path), tuple(leaf.shape), torch.float64) for path, leaf in tree.flatten(start).items()}
    )


def rows(batch: Batch, *index: int) -> Batch:
    return Batch(*(part[list(index)] for part in batch))


def predictions(algorithm: Algorithm, support: Batch, x: Tensor, meta: Tree) -> tuple[Tensor, ...]:
    return algorithm.predict(algorithm.adapt(meta, support, KEY), x, KEY)


@pytest.mark.parametrize("kind", KINDS)
def test_objective_is_the_loss_of_adapting_to_all_others(kind: str) -> None:
    """Leave-one-out by ``adapt`` without the sample and ``predict`` at it, one sample at a time: the objective without its zero-shot term."""
    algorithm = meta_bayfl(model(kind), zero_shot_weight=0.0, grid_u=(1.0,), grid_v=(1.0,), tails=False)
    meta, task = strategy(algorithm), client(clients(kind), 2)
    loss, metrics = algorithm.objective(meta, task, KEY)
    whole, count = everything(task), 12
    expected = 0.0
    for row in range(count):
        others = rows(whole, *(i for i in range(count) if i != row))
        one = rows(whole, row)
        expected += float(prediction_nll(predictions_of(algorithm, meta, others, one.x), one.y))
    assert abs(float(loss) - expected / count) < 1e-10
    assert abs(float(metrics["loss"]) - expected) < 1e-9
    assert float(metrics["examples"]) == count


def predictions_of(algorithm: Algorithm, meta: Tree, support: Batch, x: Tensor) -> tuple[Tensor, ...]:
    return algorithm.predict(algorithm.adapt(meta, support, KEY), x, KEY)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_shot_term_is_the_loss_of_adapting_to_nothing(kind: str) -> None:
    algorithm, without = (meta_bayfl(model(kind), zero_shot_weight=weight) for weight in (3.0, 0.0))
    meta, task = strategy(algorithm), client(clients(kind), 2)
    meta["head"] = {**meta["head"], **({"log_a": torch.zeros(CLASSES).double()} if kind == "classification" else {})}
    whole = everything(task)
    nothing = whole._replace(mask=torch.zeros_like(whole.mask))
    prior = algorithm.predict(algorithm.adapt(meta, nothing, KEY), whole.x, KEY)
    difference = algorithm.objective(meta, task, KEY)[0] - without.objective(meta, task, KEY)[0]
    torch.testing.assert_close(difference, 3 * prediction_nll(prior, whole.y).mean(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_update_equals_fitting_all_at_once(kind: str) -> None:
    algorithm = meta_bayfl(model(kind))
    meta, whole = strategy(algorithm), everything(client(clients(kind), 2))
    parts = rows(whole, 0, 1, 2, 3), rows(whole, *range(4, 12))
    step_by_step = algorithm.update(algorithm.adapt(meta, parts[0], KEY), parts[1])
    at_once = algorithm.adapt(meta, whole, KEY)
    torch.testing.assert_close(step_by_step, at_once, rtol=1e-12, atol=1e-12)
    new = client(clients(kind, seed=1), 2).query.x
    torch.testing.assert_close(tuple(algorithm.predict(step_by_step, new, KEY)), tuple(algorithm.predict(at_once, new, KEY)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_update_from_nothing_and_with_padding(kind: str) -> None:
    algorithm = meta_bayfl(model(kind))
    meta, task = strategy(algorithm), client(clients(kind), 1)
    nothing = task.support._replace(mask=torch.zeros_like(task.support.mask))
    assert algorithm.update is not None
    grown = algorithm.update(algorithm.adapt(meta, nothing, KEY), padded_task(task, 2).support)
    expected = predictions(algorithm, task.support, task.query.x, meta)
    torch.testing.assert_close(tuple(algorithm.predict(grown, task.query.x, KEY)), tuple(expected), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_against_finite_differences(kind: str) -> None:
    algorithm = meta_bayfl(model(kind))
    meta, task = strategy(algorithm), client(clients(kind), 0)
    gradient = algorithm.client(meta, task, KEY).update
    for path, slope in tree.flatten(gradient).items():
        direction = random.normal(random.fold(KEY, path, "direction"), tuple(slope.shape), torch.float64)
        values = []
        for step in (1e-6, -1e-6):
            leaves = {**tree.flatten(meta), path: tree.flatten(meta)[path] + step * direction}
            values.append(algorithm.objective(tree.unflatten(leaves), task, KEY)[0])
        torch.testing.assert_close((slope * direction).sum(), (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-7)


def test_predictions_are_the_head_s_on_the_generated_features() -> None:
    algorithm = meta_bayfl(model("classification"), grid_u=(1.0,), grid_v=(1.0,), generator="full", seed=8)
    meta, task = strategy(algorithm), client(clients("classification"), 2)
    body = tree.map(lambda start, z: start.double() + z, algorithm.model.init(random.key(8))["body"], meta["z"]["full"])
    features = algorithm.model.features(body, task.support.x, None)
    sums = statistics({"features": features, "y": task.support.y, "mask": task.support.mask}, CLASSES)
    expected = log_probs(posterior(meta["head"], sums), algorithm.model.features(body, task.query.x, None)).exp()
    torch.testing.assert_close(predictions(algorithm, task.support, task.query.x, meta)[0], expected, rtol=1e-12, atol=1e-12)


def test_infinite_kappa_is_the_global_model() -> None:
    algorithm = meta_bayfl(model("classification"), generator="full", grid_u=(1e12,), grid_v=(1e12,))
    meta, task = strategy(algorithm), client(clients("classification"), 2)
    meta["head"]["log_a"] = torch.zeros(CLASSES).double()
    body = tree.add(double(algorithm.model.init(random.key(0))["body"]), meta["z"]["full"])
    prior = {**meta["head"], "k": torch.tensor(40.0).double()}
    expected = zero_shot(prior, algorithm.model.features(body, task.query.x, None)).exp()
    torch.testing.assert_close(predictions(algorithm, task.support, task.query.x, meta)[0], expected, rtol=0, atol=1e-8)


def test_padding_moves_no_dropout() -> None:
    algorithm = meta_bayfl(model("classification", dropout=0.5))
    meta, task = strategy(algorithm), client(clients("classification"), 1)
    padded = padded_task(task, 3)
    one, other = (algorithm.client(meta, each, KEY) for each in (task, padded))
    torch.testing.assert_close(one.update, other.update, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(one.metrics["loss"], algorithm.client(meta, task, random.key(5)).metrics["loss"])
    still = meta_bayfl(model("classification")).client(meta, task, KEY)
    assert not torch.allclose(one.metrics["loss"], still.metrics["loss"])


def test_a_cohort_runs_as_one_batch_with_unbatched_weights() -> None:
    seen: list[tuple[bool, bool]] = []
    plain = cnn((1, 8, 8), CLASSES, channels=(4, 4), width=8)

    def features(body: Tree, x: Tensor, key: Tensor | None) -> Tensor:
        level = torch._C._functorch
        seen.append((any(level.is_batchedtensor(leaf) for leaf in tree.leaves(body)), level.is_batchedtensor(x)))
        return plain.features(body, x, key)

    algorithm = meta_bayfl(plain._replace(features=features))
    x, y, mask = random.normal(KEY, (3, 4, 1, 8, 8)), torch.arange(12).view(3, 4) % CLASSES, torch.ones(3, 4)
    tasks = Task(Batch(x, y, mask), Batch(x + 1, y, mask))
    losses, _ = torch.func.vmap(algorithm.objective, (None, 0, 0))(algorithm.init(KEY), tasks, client_keys(3))
    assert losses.shape == (3,)
    assert seen == [(False, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_of_new_clients(kind: str) -> None:
    algorithm = meta_bayfl(model(kind), rounds=60)
    sizes = ((8, 8),) * 8
    train, new = clients(kind, sizes), clients(kind, sizes, seed=9)
    state = algorithm.begin(double(algorithm.init(random.key(0))))

    def loss_of_new(meta: Tree) -> float:
        def one(task: Task, key: Tensor) -> Tensor:
            found = algorithm.predict(algorithm.adapt(meta, task.support, key), task.query.x, key)
            return prediction_nll(found, task.query.y).mean()

        return float(torch.func.vmap(one)(new, client_keys(8)).mean())

    before = loss_of_new(state.meta)
    for turn in range(60):

        def cohort(meta: Tree, turn: int = turn) -> Tensor:
            keys = random.keys(random.fold(KEY, turn), 8)
            return torch.func.vmap(algorithm.objective, (None, 0, 0))(meta, train, keys)[0].mean()

        state = algorithm.server(state, Aggregate(torch.func.grad(cohort)(state.meta), torch.tensor(1.0), {}))
    assert loss_of_new(state.meta) < before - 0.3


def test_blocks_have_their_own_rates() -> None:
    """Adam's first step is the rate times the gradient's sign: the change shows each block's rate."""
    algorithm = meta_bayfl(cnn((1, 12, 12), 2), hash_size=50, rounds=100)
    meta = algorithm.init(KEY)
    ones = tree.map(torch.ones_like, meta)
    moved = tree.subtract(meta, algorithm.server(algorithm.begin(meta), Aggregate(ones, torch.tensor(1.0), {})).meta)
    rates = {path: round(float(leaf.mean()), 6) for path, leaf in tree.flatten(moved).items()}
    assert {rate for path, rate in rates.items() if path.startswith("head")} == {1e-2}
    assert rates.pop("z/hash") == 3e-2
    assert {rate for path, rate in rates.items() if path.startswith("z/")} == {5e-3}
    full = meta_bayfl(model("classification"), generator="full")
    expected = adam({"z": {"full": 1e-3}, "head": 1e-2}, b2=0.99)  # type: ignore[dict-item]
    start = full.init(KEY)
    step, _ = expected.update(tree.map(torch.ones_like, start), expected.init(start))
    found = tree.subtract(start, full.server(full.begin(start), Aggregate(tree.map(torch.ones_like, start), torch.tensor(1.0), {})).meta)
    torch.testing.assert_close(found, step)


def test_rates_fall_over_the_last_two_fifths() -> None:
    algorithm = meta_bayfl(model("classification"), rounds=10)
    state = algorithm.begin(algorithm.init(KEY))
    ones = tree.map(torch.ones_like, state.meta)
    steps = []
    for _ in range(10):
        after = algorithm.server(state, Aggregate(ones, torch.tensor(1.0), {}))
        steps.append(float((state.meta["head"]["k"] - after.meta["head"]["k"]) / 1e-2))
        state = after
    torch.testing.assert_close(torch.tensor(steps), torch.tensor([1.0] * 7 + [0.75, 0.5, 0.25]), rtol=0, atol=1e-4)


def test_options_reach_the_generator_and_the_codecs() -> None:
    hashed = meta_bayfl(model("classification"), generator="hashed", hash_size=30, down="exact", up="exact", body_lr=2e-3)
    assert tree.flatten(hashed.init(KEY))["z/hash"].shape == (30,)
    assert (hashed.down.name, hashed.up.name) == ("exact", "exact")
    default = meta_bayfl(cnn((1, 28, 28), 10))
    assert (default.down.name, default.up.name) == ("int8", "int8")
    assert tree.size(default.init(KEY)) == 7681
    assert tree.size(meta_bayfl(cnn((1, 28, 28), 10), generator="separable", rank=1).init(KEY)) == 7681 - 2000 - 49 - 24 * 32


@pytest.mark.parametrize(
    "options, message",
    [
        ({"generator": "mixd"}, "unknown generator 'mixd': did you mean 'mixed'"),
        ({"down": "int9"}, "unknown codec 'int9'"),
        ({"rounds": 0}, "rounds"),
        ({"samples": 0}, "samples"),
        ({"beta2": 1.0}, "beta2"),
        ({"head_lr": 0.0}, "head_lr"),
        ({"body_lr": -1.0}, "body_lr"),
        ({"zero_shot_weight": -0.1}, "zero_shot_weight"),
        ({"grid_u": ()}, "grid_u"),
        ({"grid_v": (1.0, -2.0)}, "grid_v"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        meta_bayfl(model("classification"), **options)


def test_uncertainty_of_one_draw_is_all_aleatoric() -> None:
    algorithm = meta_bayfl(model("classification"), samples=1)
    task = client(clients("classification"), 2)
    out = predictions(algorithm, task.support, task.query.x, strategy(algorithm))
    assert float(out[3].abs().max()) < 1e-12
    assert float(out[1].max()) <= math.log(CLASSES) + 1e-12
