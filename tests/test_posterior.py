"""Mean-field Gaussians against torch.distributions, closed forms and their own limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from metabayfl import posterior, random, tree
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models import cnn
from metabayfl.types import ClassPrediction, RegressionPrediction, Tree
from scenarios import small_model, squared_error_model

F64 = torch.float64
KEY = random.key(4)


def gaussian(seed: int) -> Tree:
    """A posterior of two uncertain leaves and a point parameter."""
    draw = [random.normal(random.key(10 * seed + i), (2, 3), F64) for i in range(5)]
    mean = {"a": {"weight": draw[0]}, "point": draw[4], "b": draw[1][0]}
    return {"mean": mean, "log_sd": {"a": {"weight": 0.5 * draw[2]}, "b": 0.5 * draw[3][0]}}


def normals(q: Tree) -> list[Normal]:
    return [Normal(q["mean"]["a"]["weight"], q["log_sd"]["a"]["weight"].exp()), Normal(q["mean"]["b"], q["log_sd"]["b"].exp())]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def test_kl_is_that_of_torch_distributions() -> None:
    q, p = gaussian(0), gaussian(1)
    expected = sum(kl_divergence(left, right).sum() for left, right in zip(normals(q), normals(p), strict=True))
    assert float(posterior.kl(q, p)) == pytest.approx(float(expected), rel=1e-12)
    assert float(posterior.kl(q, q)) == 0.0


def test_kl_refuses_gaussians_over_different_parameters() -> None:
    q = gaussian(0)
    with pytest.raises(ValueError, match="trees differ"):
        posterior.kl(q, {"mean": q["mean"], "log_sd": {"b": q["log_sd"]["b"]}})


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_draws_are_antithetic_pairs_around_the_mean(count: int) -> None:
    q, drawn = gaussian(2), posterior.draw(gaussian(2), KEY, count)
    assert list(tree.paths(drawn)) == list(tree.paths(q["mean"]))
    assert torch.equal(drawn["point"], q["mean"]["point"].expand(count, 2, 3))
    gap, half = drawn["a"]["weight"] - q["mean"]["a"]["weight"], (count + 1) // 2
    assert gap.shape == (count, 2, 3)
    torch.testing.assert_close(gap[half:], -gap[: count - half], rtol=0, atol=1e-15)


def test_draws_have_the_standard_deviations() -> None:
    q = gaussian(3)
    drawn = posterior.draw(q, KEY, 20_000)
    for path, log_sd in tree.flatten(q["log_sd"]).items():
        torch.testing.assert_close(tree.flatten(drawn)[path].std(0), log_sd.exp(), rtol=0.03, atol=0)


def test_draws_do_not_depend_on_the_other_clients() -> None:
    q, keys = gaussian(2), random.keys(KEY, 3)
    together = torch.func.vmap(lambda key: posterior.draw(q, key, 4))(keys)
    for row in range(3):
        alone = posterior.draw(q, keys[row], 4)
        torch.testing.assert_close(tree.map(lambda leaf, row=row: leaf[row], together), alone, rtol=0, atol=0)


def test_join_and_split_are_inverse() -> None:
    log_sd = gaussian(0)["log_sd"]
    vector = posterior.join(log_sd)
    torch.testing.assert_close(posterior.split(vector, log_sd), log_sd, rtol=0, atol=0)
    stacked = posterior.split(vector.expand(7, -1), log_sd)
    assert torch.equal(stacked["a"]["weight"], log_sd["a"]["weight"].expand(7, 2, 3))


def test_which_parameters_are_weights_and_which_belong_to_dense_layers() -> None:
    params = cnn((1, 8, 8), 2, "regression").init(KEY)
    leaves = tree.flatten(params)
    dense = posterior.dense_paths(params)
    assert {path for path in leaves if leaves[path].ndim == 2} == {path for path in dense if path.endswith("weight")}
    assert {"head/weight", "head/bias"} <= set(dense)
    assert all(path.replace("bias", "weight") in dense for path in dense)
    assert posterior.dense_paths({"mix": {"in_weight": torch.zeros(2, 2)}, "norm": {"weight": torch.zeros(2), "bias": torch.zeros(2)}}) == []
    assert set(leaves) - set(posterior.weight_paths(params)) == {"head/log_scale"}


@pytest.mark.parametrize("sd", [0.0, -1.0, float("nan")])
def test_a_deviation_must_be_positive(sd: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        posterior.isotropic(gaussian(0)["mean"], ["b"], sd)


def test_a_gaussian_over_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="at least one"):
        posterior.isotropic({"kernel": torch.zeros(2, 2, 2)}, [], 1.0)


def test_isotropic_is_where_and_as_wide_as_told() -> None:
    q = posterior.isotropic(gaussian(0)["mean"], ["b"], 0.3)
    assert torch.equal(q["mean"]["b"], gaussian(0)["mean"]["b"])
    torch.testing.assert_close(q["log_sd"]["b"].exp(), torch.full((3,), 0.3, dtype=F64))
    assert list(q["log_sd"]) == ["b"]


def test_overlay_replaces_leaves_and_keeps_empty_branches() -> None:
    params = {"body": {}, "head": {"weight": torch.zeros(1), "bias": torch.zeros(1)}}
    laid = posterior.overlay(params, {"head": {"bias": torch.ones(1)}})
    assert (list(laid), list(laid["head"])) == (["body", "head"], ["weight", "bias"])
    assert (float(laid["head"]["weight"]), float(laid["head"]["bias"])) == (0.0, 1.0)


def test_move_shifts_means_and_log_deviations() -> None:
    p = gaussian(0)
    q = posterior.move(p, torch.full((9,), 0.5, dtype=F64), torch.full((9,), -0.25, dtype=F64))
    mean, log_sd = posterior.vectors(q)
    mean0, log_sd0 = posterior.vectors(p)
    torch.testing.assert_close((mean - mean0, log_sd - log_sd0), (torch.full((9,), 0.5, dtype=F64), torch.full((9,), -0.25, dtype=F64)))
    assert torch.equal(q["mean"]["point"], p["mean"]["point"])


# The proximal map.


@pytest.mark.parametrize("pull", [1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("sd", [1e-6, 0.05, 1.0, 30.0])
def test_the_proximal_map_is_the_minimum(pull: float, sd: float) -> None:
    shift, ratio, descent = column(-2.0, 0.0, 0.3), column(0.2, 1.0, 5.0), sd * column(0.5, -3.0, 7.0)
    prox, c = posterior.prox(torch.full((3,), sd, dtype=F64).log(), column(pull)[0]), pull / sd**2
    new_shift, new_ratio = posterior.step_mean(prox, shift, descent), posterior.step_sd(prox, ratio, descent)
    torch.testing.assert_close((1 + c) * new_shift, shift - descent, rtol=1e-9, atol=0)
    v = ratio - descent / sd
    assert (new_ratio > 0).all()
    torch.testing.assert_close((1 + c) * new_ratio - c / new_ratio, v, rtol=1e-6, atol=1e-9 * (1 + c))


def test_the_deviations_own_minimum_is_the_priors() -> None:
    prox, ratio = posterior.prox(torch.zeros(1, dtype=F64), column(0.3)[0]), column(7.0)
    for _ in range(200):
        ratio = posterior.step_sd(prox, ratio, column(0.0))
    assert float(ratio) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("log_sd", [-60.0, -20.0, 5.0])
def test_the_proximal_map_and_its_gradient_are_finite_in_single_precision(log_sd: float) -> None:
    def step(log_sd: Tensor) -> Tensor:
        prox = posterior.prox(log_sd, torch.tensor(1e-3))
        return (posterior.step_mean(prox, torch.ones(2), torch.ones(2) * 3) + posterior.step_sd(prox, torch.ones(2), torch.ones(2) * 1e-3)).sum()

    slope, value = torch.func.grad_and_value(step)(torch.full((2,), log_sd))
    assert torch.isfinite(value)
    assert torch.isfinite(slope).all()


def test_infinite_precision_holds_everything() -> None:
    prox = posterior.prox(torch.full((1,), -60.0, dtype=F64), column(1e-3)[0])
    assert float(posterior.step_mean(prox, column(0.0), column(1e3))) == pytest.approx(0.0, abs=1e-30)
    assert float(posterior.step_sd(prox, column(1.0), 1e-26 * column(1e3))) == pytest.approx(1.0, abs=1e-12)


# Predictions.


def test_epistemic_variance_of_a_linear_model_is_that_of_the_weights() -> None:
    model = small_model("regression")
    params = tree.to(model.init(KEY), F64)
    q = posterior.isotropic(params, ["head/bias"], 0.4)
    out = posterior.predict(model, q, torch.zeros(3, 4, dtype=F64), KEY, 20_000)
    assert isinstance(out, RegressionPrediction)
    torch.testing.assert_close(out.epistemic, torch.full((3, 2), 0.16, dtype=F64), rtol=0.03, atol=0)
    torch.testing.assert_close(out.mean, model.apply(params, torch.zeros(3, 4, dtype=F64), None)[:, :2], rtol=0, atol=1e-12)
    torch.testing.assert_close(out.aleatoric, torch.ones(3, 2, dtype=F64))


def test_antithetic_pairs_predict_the_mean_of_a_linear_model_exactly() -> None:
    model = squared_error_model(3)
    params, x = model.init(KEY), random.normal(random.fold(KEY, "x"), (5, 3), F64)
    q = posterior.isotropic(params, ["head/weight"], 0.7)
    torch.testing.assert_close(posterior.outputs(model, q, x, KEY, 2).mean(0), model.apply(params, x, None), rtol=0, atol=1e-14)


def test_a_vanishing_deviation_predicts_as_the_means_do() -> None:
    model = small_model("classification")
    params, x = tree.to(model.init(KEY), F64), random.normal(random.fold(KEY, "x"), (5, 4), F64)
    out = posterior.predict(model, posterior.isotropic(params, posterior.weight_paths(params), 1e-12), x, KEY, 6)
    point = model.likelihood.predict(model.apply(params, x, None))
    assert isinstance(out, ClassPrediction)
    torch.testing.assert_close(out.probs, point.probs, rtol=0, atol=1e-10)
    assert (out.epistemic < 1e-10).all()
