"""The conjugate regression head against the textbook in NumPy, scikit-learn, refitting and quadrature, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import BayesianRidge
from torch import Tensor

from metabayfl import random, tree
from metabayfl.heads import conjugate_regression as build
from metabayfl.heads import remember
from metabayfl.heads.conjugate_regression import leave_one_out, no_data, posterior, precision, predictive, scaled, statistics, zero_shot
from metabayfl.losses import student_t_log_density
from metabayfl.types import RegressionPrediction, Tree

TARGETS, WIDTH, COUNT = 2, 3, 9
HEAD = build(TARGETS, WIDTH, rank=2)


def normal(name: str, *shape: int) -> Tensor:
    return random.normal(random.fold(random.key(11), name), shape, torch.float64)


def prior() -> Tree:
    return {
        "K0": normal("K0", WIDTH + 1, TARGETS),
        "log_lambda": 0.5 * normal("log_lambda", WIDTH + 1),
        "log_noise": 0.3 * normal("log_noise", TARGETS),
        "log_dof": torch.tensor(0.8).double(),
        "U": normal("U", WIDTH + 1, 2),
    }


def memory(count: int = COUNT) -> Tree:
    return remember(normal("features", count, WIDTH), normal("y", count, TARGETS), torch.ones(count).double())


def without(kept: Tree, row: int) -> Tree:
    return tree.map(lambda leaf: torch.cat([leaf[:row], leaf[row + 1 :]]), kept)


def assert_same(left: RegressionPrediction, right: RegressionPrediction, tolerance: float = 1e-10) -> None:
    for name, one, other in zip(left._fields, left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_leave_one_out_equals_refitting_without_the_sample() -> None:
    kept = memory()
    at_once = leave_one_out(prior(), statistics(kept), kept)
    for row in range(COUNT):
        alone = predictive(posterior(prior(), statistics(without(kept, row))), kept["features"][row : row + 1])
        assert_same(RegressionPrediction(*(field[row : row + 1] for field in at_once)), alone)


def test_posterior_and_predictive_are_the_textbook_ones() -> None:
    """Matrix-normal inverse-Wishart by the definitions, with explicit inverses (Gelman et al., 3rd ed., section 3.6; ALPaCA, equations 4-6)."""
    p, kept, query = prior(), memory(), normal("query", 4, WIDTH).numpy()
    k0, u = p["K0"].numpy(), p["U"].numpy()
    lambda0 = np.diag(np.exp(p["log_lambda"].numpy())) + u @ u.T
    marginal_dof = 2 + math.exp(p["log_dof"])
    wishart_dof = marginal_dof + TARGETS - 1
    psi0 = np.diag(marginal_dof * np.exp(p["log_noise"].numpy()))
    phi = np.column_stack([kept["features"].numpy(), np.ones(COUNT)])
    y, at = kept["y"].numpy(), np.column_stack([query, np.ones(4)])

    lambda_n = lambda0 + phi.T @ phi
    k_n = np.linalg.inv(lambda_n) @ (phi.T @ y + lambda0 @ k0)
    psi_n = psi0 + y.T @ y + k0.T @ lambda0 @ k0 - k_n.T @ lambda_n @ k_n
    dof = wishart_dof + COUNT - TARGETS + 1
    spread = 1 + np.einsum("np,pq,nq->n", at, np.linalg.inv(lambda_n), at)[:, None]
    noise = np.diag(psi_n) / (wishart_dof + COUNT - TARGETS - 1)  # E[Sigma_rr]

    after = posterior(p, statistics(kept))
    np.testing.assert_allclose(after["scatter"], psi_n, rtol=1e-10)
    expected = (at @ k_n, np.sqrt(np.diag(psi_n) / dof * spread), np.full((4, 2), dof), noise * spread, noise * np.ones((4, 2)), noise * (spread - 1))
    assert_same(predictive(after, torch.from_numpy(query)), RegressionPrediction(*map(torch.from_numpy, expected)))


def test_coincides_with_bayesian_ridge_of_the_same_precisions() -> None:
    x, y = normal("x", 40, WIDTH).numpy(), None
    y = x @ np.array([1.0, -2.0, 0.5]) + 0.3 * normal("noise", 40).numpy()
    ridge = BayesianRidge(fit_intercept=False, tol=1e-12, max_iter=2000).fit(x, y)
    known_noise = {
        "K0": torch.zeros(WIDTH + 1, 1).double(),
        "log_lambda": torch.tensor([math.log(ridge.lambda_ / ridge.alpha_)] * WIDTH + [60.0]).double(),  # no intercept
        "log_noise": torch.tensor([-math.log(ridge.alpha_)]).double(),
        "log_dof": torch.tensor(40.0).double(),
    }
    kept = remember(torch.from_numpy(x), torch.from_numpy(y).unsqueeze(-1), torch.ones(40).double())
    query = normal("query", 6, WIDTH)
    mean, deviation = ridge.predict(query.numpy(), return_std=True)
    out = predictive(posterior(known_noise, statistics(kept)), query)
    np.testing.assert_allclose(out.mean[:, 0], mean, rtol=1e-7)
    np.testing.assert_allclose(out.scale[:, 0], deviation, rtol=1e-7)
    np.testing.assert_allclose(out.total[:, 0], deviation**2, rtol=1e-7)


def test_predictive_against_numerical_integration() -> None:
    """No feature but the constant: integrate the mean and the noise variance on a grid, knowing only the likelihood."""
    p = {
        "K0": torch.tensor([[0.5]]).double(),
        "log_lambda": torch.tensor([0.2]).double(),
        "log_noise": torch.tensor([-0.5]).double(),
        "log_dof": torch.tensor(0.7).double(),
    }
    y = normal("few", 3, 1)
    kept = remember(torch.zeros(3, 0).double(), y, torch.ones(3).double())
    dof, noise, strength = 2 + math.exp(0.7), math.exp(-0.5), math.exp(0.2)
    mean = np.linspace(-12, 12, 1601)[:, None]
    logs = np.linspace(-6, 7, 1301)[None, :]
    variance = np.exp(logs)
    log_joint = stats.invgamma.logpdf(variance, dof / 2, scale=dof * noise / 2) + logs
    log_joint = log_joint + stats.norm.logpdf(mean, 0.5, np.sqrt(variance / strength))
    for value in y[:, 0].tolist():
        log_joint = log_joint + stats.norm.logpdf(value, mean, np.sqrt(variance))
    joint = np.exp(log_joint - log_joint.max())
    joint /= joint.sum()
    after = predictive(posterior(p, statistics(kept)), torch.zeros(1, 0).double())
    for at in (-1.0, 0.0, 0.7, 2.5):
        expected = (joint * stats.norm.pdf(at, mean, np.sqrt(variance))).sum()
        np.testing.assert_allclose(student_t_log_density(torch.tensor([[at]]).double(), after).exp().item(), expected, rtol=2e-5)
    np.testing.assert_allclose(after.aleatoric.item(), (joint * variance).sum(), rtol=2e-3)


def test_no_data_gives_the_prior_back() -> None:
    empty = HEAD.statistics(remember(normal("features", 4, WIDTH), normal("y", 4, TARGETS), torch.zeros(4).double()))
    after = posterior(prior(), empty)
    torch.testing.assert_close(after["mean"], prior()["K0"])
    torch.testing.assert_close(after["cholesky"] @ after["cholesky"].T, precision(prior()))
    torch.testing.assert_close(after["scatter"].diagonal() / after["dof"], prior()["log_noise"].exp())
    query = normal("query", 3, WIDTH)
    assert_same(predictive(after, query), zero_shot(prior(), query))
    assert_same(predictive(posterior(prior(), no_data(prior())), query), zero_shot(prior(), query))


def test_infinite_trust_in_the_prior_keeps_the_global_weights() -> None:
    query = normal("query", 3, WIDTH)
    after = predictive(posterior(scaled(prior(), torch.tensor(1e10).double(), torch.tensor(1.0).double()), statistics(memory())), query)
    torch.testing.assert_close(after.mean, zero_shot(prior(), query).mean, rtol=0, atol=1e-8)
    assert float(after.epistemic.max()) < 1e-8


def test_scaling_multiplies_precision_and_noise() -> None:
    moved = scaled(prior(), torch.tensor(3.0).double(), torch.tensor(0.2).double())
    torch.testing.assert_close(precision(moved), 3 * precision(prior()))
    torch.testing.assert_close(moved["log_noise"].exp(), 0.2 * prior()["log_noise"].exp())


def test_statistics_of_two_sets_add_up() -> None:
    kept = memory()
    first, second = (tree.map(lambda leaf, part=part: leaf[part], kept) for part in (slice(0, 4), slice(4, COUNT)))
    torch.testing.assert_close(tree.add(HEAD.statistics(first), HEAD.statistics(second)), HEAD.statistics(kept), rtol=1e-13, atol=1e-13)


def test_padding_with_infinite_values_changes_nothing() -> None:
    kept, more = memory(), torch.full((3, 1), math.inf).double()
    padded = (torch.cat([kept["features"], more.expand(3, WIDTH)]), torch.cat([kept["y"], more.expand(3, TARGETS)]))
    wide = remember(*padded, torch.cat([kept["mask"], torch.zeros(3)]))
    torch.testing.assert_close(HEAD.statistics(wide), HEAD.statistics(kept))
    values = HEAD.leave_one_out(prior(), HEAD.statistics(wide), wide)
    torch.testing.assert_close(values[:COUNT], HEAD.leave_one_out(prior(), HEAD.statistics(kept), kept))
    assert not values[COUNT:].any()


def test_observed_values_are_densities_of_the_targets() -> None:
    kept = memory()
    expected = student_t_log_density(kept["y"], leave_one_out(prior(), statistics(kept), kept)).sum(-1)
    torch.testing.assert_close(HEAD.leave_one_out(prior(), statistics(kept), kept), expected)
    torch.testing.assert_close(HEAD.zero_shot(prior(), kept), student_t_log_density(kept["y"], zero_shot(prior(), kept["features"])).sum(-1))


def test_single_precision_survives_features_that_repeat() -> None:
    """Copies of one feature make the normal equations singular but for the prior; float32 sums would lose the factorisation."""
    base = 100 * random.normal(random.key(1), (2000, 1))
    kept = remember(base.expand(-1, WIDTH), base[:, :1].repeat(1, TARGETS) / 100, torch.ones(2000))
    start = {**tree.to(prior(), torch.float32), "log_lambda": torch.full((WIDTH + 1,), -8.0)}
    values = HEAD.leave_one_out(start, HEAD.statistics(kept), kept)
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()


def test_gradient_of_leave_one_out_against_finite_differences() -> None:
    kept = memory()

    def loss(p: Tree, features: Tensor) -> Tensor:
        inputs = {**kept, "features": features}
        return HEAD.leave_one_out(p, HEAD.statistics(inputs), inputs).sum() + HEAD.zero_shot(p, inputs).sum()

    gradient, slope = torch.func.grad(loss, argnums=(0, 1))(prior(), kept["features"])
    for path, leaf in tree.flatten(gradient).items():
        direction = normal(path + "direction", *leaf.shape)
        ahead, behind = ({**prior(), path: prior()[path] + step * direction} for step in (1e-5, -1e-5))
        numeric = (loss(ahead, kept["features"]) - loss(behind, kept["features"])) / 2e-5
        torch.testing.assert_close((leaf * direction).sum(), numeric, rtol=1e-6, atol=1e-7)
    direction = normal("direction", COUNT, WIDTH)
    numeric = (loss(prior(), kept["features"] + 1e-5 * direction) - loss(prior(), kept["features"] - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((slope * direction).sum(), numeric, rtol=1e-6, atol=1e-7)


def test_prior_before_training() -> None:
    start = HEAD.init(random.key(0))
    assert {path: tuple(leaf.shape) for path, leaf in start.items()} == {
        "K0": (4, 2),
        "log_lambda": (4,),
        "log_noise": (2,),
        "log_dof": (),
        "U": (4, 2),
    }
    assert "U" not in build(TARGETS, WIDTH, rank=0).init(random.key(0))
    diagonal = {name: leaf for name, leaf in prior().items() if name != "U"}
    torch.testing.assert_close(precision(diagonal), torch.diag(prior()["log_lambda"].exp()))
    torch.testing.assert_close(precision(scaled(diagonal, torch.tensor(2.0).double(), torch.tensor(1.0).double())), 2 * precision(diagonal))
