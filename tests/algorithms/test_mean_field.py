"""Amortised mean-field Bayes on problems whose posterior is known, and its meta-gradient against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad

from metabayfl import posterior, random, tree
from metabayfl.algorithms.mean_field import mean_field
from metabayfl.algorithms.variational import Steps, expected_loss, variational
from metabayfl.errors import ConfigError
from metabayfl.types import Batch, Key, Model, Task, Tree
from quadratics import class_batch, smooth_model
from scenarios import batch, double, padded, small_model, squared_error_model

F64 = torch.float64
KEY = random.key(7)
N, P = 12, 3
S0 = torch.tensor([0.3, 1.0, 2.0], dtype=F64)


def conjugate(scale: float = 1.0) -> tuple[Model, Batch, Tree]:
    """Linear regression with unit noise, correlated inputs and a prior of three widths: its posterior is Gaussian."""
    model = squared_error_model(P)
    raw = random.normal(KEY, (N, P), F64)
    x = scale * (raw + 0.5 * raw[:, :1])
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=F64) + random.normal(random.fold(KEY, "noise"), (N, 1), F64)
    return model, batch(x.numpy(), y.numpy()), prior_of(model, S0.log())


def prior_of(model: Model, log_sd: Tensor) -> Tree:
    return {"mean": model.init(random.fold(KEY, "prior")), "log_sd": {"head": {"weight": log_sd.unsqueeze(0)}}}


def answer(prior: Tree, support: Batch, kl_weight: float) -> tuple[Tensor, Tensor]:
    """The best mean-field Gaussian: the exact posterior's mean, and the diagonal of its precision; the data count ``1 / kl_weight`` times."""
    mean0, log_sd0 = posterior.vectors(prior)
    weight, gram = torch.exp(-2 * log_sd0), support.x.T @ support.x / kl_weight
    mean = torch.linalg.solve(torch.diag(weight) + gram, weight * mean0 + support.x.T @ support.y[:, 0] / kl_weight)
    return mean, (weight + gram.diagonal()).rsqrt()


@pytest.mark.parametrize("kl_weight", [1.0, 0.1])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_proximal_steps_along_the_expected_gradient_reach_the_mean_field_posterior(kl_weight: float, rate: float) -> None:
    _, support, prior = conjugate()
    hessian, slope = support.x.T @ support.x / N, support.x.T @ support.y[:, 0] / N
    mean0, log_sd0 = posterior.vectors(prior)
    prox = posterior.prox(log_sd0, torch.tensor(rate * kl_weight / N, dtype=F64))
    shift, ratio = torch.zeros(P, dtype=F64), torch.ones(P, dtype=F64)
    for _ in range(1500):
        descents = rate * (hessian @ (mean0 + shift) - slope), rate * hessian.diagonal() * S0 * ratio
        shift, ratio = posterior.step_mean(prox, shift, descents[0]), posterior.step_sd(prox, ratio, descents[1])
    torch.testing.assert_close((mean0 + shift, S0 * ratio), answer(prior, support, kl_weight), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kl_weight", [1.0, 0.1])
def test_long_adaptation_reaches_the_mean_field_posterior(kl_weight: float) -> None:
    model, support, prior = conjugate()
    algorithm = mean_field(model, kl_weight=kl_weight, adapt_steps=200, adapt_lr=0.3, inner_samples=1000)
    mean, log_sd = posterior.vectors(algorithm.adapt(prior, support, KEY))
    expected = answer(prior, support, kl_weight)
    torch.testing.assert_close(mean, expected[0], rtol=0, atol=1e-8)  # antithetic pairs leave no noise in the mean of a quadratic
    torch.testing.assert_close(log_sd.exp(), expected[1], rtol=0.05, atol=0)  # 1,000 draws leave some in the deviation


def test_without_data_the_posterior_is_the_prior_to_the_bit() -> None:
    for kind in ("classification", "regression"):
        algorithm = mean_field(small_model(kind, dropout=0.3))
        meta = algorithm.init(KEY)
        y = torch.zeros(3, dtype=torch.int64) if kind == "classification" else torch.zeros(3, 2)
        torch.testing.assert_close(algorithm.adapt(meta, Batch(torch.ones(3, 4), y, torch.zeros(3)), KEY), meta, rtol=0, atol=0)


def test_infinite_prior_precision_is_the_global_model() -> None:
    model, support = small_model("classification"), class_batch(1, 7)
    algorithm = mean_field(model, prior_sd=1e-20)
    meta = double(algorithm.init(KEY))
    adapted = algorithm.adapt(meta, support, KEY)
    torch.testing.assert_close(adapted, meta, rtol=0, atol=1e-12)
    probs = model.likelihood.predict(model.apply(meta["mean"], support.x, None))[0]
    torch.testing.assert_close(algorithm.predict(adapted, support.x, KEY)[0], probs, rtol=0, atol=1e-12)


def test_a_tiny_prior_deviation_is_stable_where_a_plain_step_diverges() -> None:
    model, support, _ = conjugate()
    prior = prior_of(model, torch.full((P,), 1e-3, dtype=F64).log())
    rate, steps = 0.1, 60
    mean0, log_sd0 = posterior.vectors(prior)
    plain = mean0 + 1e-9
    for _ in range(steps):
        slope = support.x.T @ (support.x @ plain - support.y[:, 0]) / N
        plain = plain - rate * (slope + (plain - mean0) * torch.exp(-2 * log_sd0) / N)
    assert (plain - mean0).abs().max() > 1e6
    q = variational(model, prior, support, KEY, Steps(steps, rate, 1.0, 2))
    mean, log_sd = posterior.vectors(q)
    torch.testing.assert_close(mean, answer(prior, support, 1.0)[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(log_sd.exp(), answer(prior, support, 1.0)[1], rtol=1e-4, atol=0)


def test_wild_rates_keep_the_deviations_positive_and_finite() -> None:
    model, support, prior = conjugate(scale=30.0)
    _, log_sd = posterior.vectors(variational(model, prior, support, KEY, Steps(3, 10.0, 1e-3, 2)))
    assert torch.isfinite(log_sd).all()


def test_more_evidence_narrows_the_posterior_and_the_pull_holds_it() -> None:
    model, support, prior = conjugate()
    widths = [posterior.vectors(variational(model, prior, support, KEY, Steps(40, 0.3, w, 50)))[1].sum() for w in (0.01, 1.0, 100.0)]
    assert widths[0] < widths[1] < widths[2] < S0.log().sum()


def test_a_regression_heads_noise_scale_is_the_strategys_own() -> None:
    algorithm = mean_field(small_model("regression"), inner_steps=3)
    meta = double(algorithm.init(KEY))
    assert "log_scale" not in meta["log_sd"]["head"]
    task = Task(*(batch(*(random.normal(random.key(i + j), (6, w), F64).numpy() for j, w in ((0, 4), (50, 2)))) for i in (1, 2)))
    assert torch.equal(algorithm.adapt(meta, task.support, KEY)["mean"]["head"]["log_scale"], meta["mean"]["head"]["log_scale"])
    assert (algorithm.client(meta, task, KEY).update["mean"]["head"]["log_scale"] != 0).all()


@pytest.mark.parametrize("fill", [1e6, 1e12])
def test_padding_changes_no_posterior(fill: float) -> None:
    algorithm, support = mean_field(small_model("classification")), class_batch(5, 6)
    meta = double(algorithm.init(KEY))
    full, wide = (algorithm.adapt(meta, part, KEY) for part in (support, padded(support, 4, fill)))
    torch.testing.assert_close(wide, full, rtol=0, atol=1e-12)


# The meta-gradient.


def smooth(dropout: float = 0.0, **options: object) -> tuple[object, Tree, Task]:
    algorithm = mean_field(smooth_model(dropout=dropout), inner_steps=4, inner_lr=0.3, prior_sd=0.4, kl_weight=0.5, **options)
    return algorithm, double(algorithm.init(KEY)), Task(class_batch(1, 7), class_batch(3, 8))


@pytest.mark.parametrize("block", ["mean", "log_sd"])
@pytest.mark.parametrize("meta_kl, dropout", [(0.0, 0.0), (0.7, 0.3)])
def test_exact_meta_gradient_against_finite_differences(block: str, meta_kl: float, dropout: float) -> None:
    algorithm, meta, task = smooth(dropout, meta_kl=meta_kl)
    update = algorithm.client(meta, task, KEY).update
    for seed in range(3):
        noise = random.normal(random.key(seed), (tree.size(meta[block]),), F64)
        direction = {**tree.zeros_like(meta), block: posterior.split(noise, meta[block])}
        ahead, behind = (algorithm.objective(tree.step(meta, direction, -sign * 1e-5), task, KEY)[0] for sign in (1, -1))
        assert float(tree.dot(update, direction)) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-6)


def test_first_order_moves_the_prior_mean_along_the_query_gradient_at_the_posterior() -> None:
    algorithm, meta, task = smooth(meta_gradient="first_order")
    steps = Steps(4, 0.3, 0.5, 2)
    adapted = variational(algorithm.model, meta, task.support, random.fold(KEY, "support"), steps)
    slope = grad(lambda q: expected_loss(algorithm.model, q, task.query, random.fold(KEY, "query"), 2))(adapted)
    update = algorithm.client(meta, task, KEY).update
    torch.testing.assert_close(update["mean"], slope["mean"], rtol=0, atol=1e-13)
    exact, _, _ = smooth()
    assert tree.norm(tree.subtract(exact.client(meta, task, KEY).update, update)) > 1e-3


@pytest.mark.parametrize("flavour", ["exact", "first_order"])
def test_without_steps_both_flavours_are_the_plain_gradient(flavour: str) -> None:
    algorithm = mean_field(smooth_model(), inner_steps=0, meta_gradient=flavour)
    meta, task = double(algorithm.init(KEY)), Task(class_batch(1, 7), class_batch(3, 8))
    slope = grad(lambda q: expected_loss(algorithm.model, q, task.query, random.fold(KEY, "query"), 2))(meta)
    torch.testing.assert_close(algorithm.client(meta, task, KEY).update, slope, rtol=0, atol=1e-14)


@pytest.mark.parametrize("flavour", ["exact", "first_order"])
def test_a_backward_pass_from_outside_gives_the_same_gradient(flavour: str) -> None:
    algorithm, meta, task = smooth(meta_gradient=flavour)
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(meta)]
    loss, _ = algorithm.objective(tree.like(meta, leaves), task, KEY)
    update = tree.like(meta, torch.autograd.grad(loss, leaves))
    torch.testing.assert_close(update, algorithm.client(meta, task, KEY).update, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"inner_lr": 0.0}, "inner_lr"),
        ({"kl_weight": 0.0}, "kl_weight"),
        ({"inner_samples": 0}, "inner_samples"),
        ({"query_samples": 0}, "query_samples"),
        ({"samples": 0}, "samples"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"adapt_lr": -1.0}, "adapt_lr"),
        ({"meta_kl": -1.0}, "meta_kl"),
        ({"sd_lr": 0.0}, "sd_lr"),
        ({"meta_gradient": "first-order"}, "did you mean 'first_order'"),
    ],
)
def test_numbers_outside_their_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mean_field(small_model("classification"), **options)


def test_the_key_decides_the_draws() -> None:
    algorithm, meta, task = smooth()

    def weights(key: Key) -> Tensor:
        return posterior.vectors(algorithm.adapt(meta, task.support, key))[0]

    assert torch.equal(weights(KEY), weights(KEY))
    assert not torch.equal(weights(KEY), weights(random.fold(KEY, 1)))
