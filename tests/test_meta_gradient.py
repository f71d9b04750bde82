"""The backward sweep against closed forms, finite differences and automatic differentiation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.algorithms.inner import inner_losses, step_loss
from metabayfl.errors import ConfigError
from metabayfl.meta_gradient import Loss, Path, descend, exact, first_order, gradient_client, hessian_free, hvp_of, sweep, through
from metabayfl.types import Task, Tree
from quadratics import centre, class_batch, distance, hessian, params_of, quadratic_batch, quadratic_model, smooth_model, vector

P = 5
ALPHA = 0.3
STEPS = range(6)


def quadratic(A: Tensor, b: Tensor) -> Loss:
    return step_loss(quadratic_model(P), quadratic_batch([A], [b]), None)


def problem(nu: int) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor], Tensor]:
    """Another Hessian and centre in every inner step and in the query, and a start."""
    return [(hessian(P, 10 + step), centre(P, 10 + step)) for step in range(nu)], (hessian(P, 99), centre(P, 99)), centre(P, 7)


def closed_form(parts: list[tuple[Tensor, Tensor]], outer: tuple[Tensor, Tensor], w: Tensor, alpha: Tensor, hessians: float) -> Tensor:
    """``prod_l (I - A_l diag(alpha)) A_q (w^nu - b_q)``; ``hessians = 0`` drops them."""
    eye = torch.eye(P, dtype=torch.float64)
    jacobian = eye
    for A, b in parts:
        w = w - alpha * (A @ (w - b))
        jacobian = jacobian @ (eye - hessians * A @ torch.diag(alpha))
    return jacobian @ (outer[0] @ (w - outer[1]))


def smooth_problem(nu: int, dropout: float = 0.0, decay: float = 0.0) -> tuple[list[Loss], Loss, Tree]:
    model = smooth_model(dropout=dropout)
    inner = inner_losses(model, class_batch(1, 7), nu, random.key(5), decay)
    return inner, step_loss(model, class_batch(3, 8), random.key(6)), tree.to(model.init(random.key(0)), torch.float64)


def rates_like(params: Tree, seed: int = 4) -> Tree:
    """A different positive rate for every weight."""
    return tree.map(lambda leaf: 0.1 + 0.4 * random.uniform(random.key(seed), tuple(leaf.shape), torch.float64), params)


@pytest.mark.parametrize("nu", STEPS)
def test_exact_is_the_product_of_the_steps_jacobians(nu: int) -> None:
    parts, outer, w = problem(nu)
    found = sweep([quadratic(*part) for part in parts], quadratic(*outer), params_of(w), ALPHA, exact)
    assert torch.allclose(vector(found.model), closed_form(parts, outer, w, torch.full_like(w, ALPHA), 1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("nu", STEPS)
def test_exact_on_one_quadratic_is_a_power(nu: int) -> None:
    A, b, w = hessian(P, 1), centre(P, 1), centre(P, 2)
    found = sweep([quadratic(A, b)] * nu, quadratic(A, b), params_of(w), ALPHA, exact)
    contraction = torch.eye(P, dtype=torch.float64) - ALPHA * A
    expected = torch.linalg.matrix_power(contraction, 2 * nu) @ (A @ (w - b))
    assert torch.allclose(vector(found.model), expected, rtol=0, atol=1e-12)
    gap = torch.linalg.matrix_power(contraction, nu) @ (w - b)
    assert float(found.loss) == pytest.approx(float(0.5 * gap @ A @ gap), rel=1e-12)


@pytest.mark.parametrize("nu", STEPS)
def test_first_order_is_the_gradient_at_the_end(nu: int) -> None:
    parts, outer, w = problem(nu)
    found = sweep([quadratic(*part) for part in parts], quadratic(*outer), params_of(w), ALPHA, first_order)
    assert torch.allclose(vector(found.model), closed_form(parts, outer, w, torch.full_like(w, ALPHA), 0.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("nu", STEPS)
def test_hessian_free_is_exact_on_quadratics_whatever_its_step(nu: int) -> None:
    parts, outer, w = problem(nu)
    inner, last = [quadratic(*part) for part in parts], quadratic(*outer)
    reference = sweep(inner, last, params_of(w), ALPHA, exact)
    assert distance(sweep(inner, last, params_of(w), ALPHA, hessian_free(0.5)).model, reference.model) < 1e-12


@pytest.mark.parametrize("nu", STEPS)
@pytest.mark.parametrize("hvp", [exact, hessian_free(0.5)])
def test_rates_per_weight_stand_to_the_right_of_the_hessian(nu: int, hvp: object) -> None:
    parts, outer, w = problem(nu)
    rates = rates_like(params_of(w))
    found = sweep([quadratic(*part) for part in parts], quadratic(*outer), params_of(w), rates, hvp)
    assert torch.allclose(vector(found.model), closed_form(parts, outer, w, vector(rates), 1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("nu", STEPS)
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_sweep_equals_autograd_through_the_unrolled_loop(nu: int, decay: float) -> None:
    inner, outer, start = smooth_problem(nu, dropout=0.3, decay=decay)
    for rate in (ALPHA, torch.tensor(ALPHA, dtype=torch.float64), rates_like(start)):
        reference, loss = torch.func.grad_and_value(lambda w, rate=rate: through(inner, outer, w, rate))(start)
        found = sweep(inner, outer, start, rate, exact)
        assert distance(found.model, reference) < 1e-12
        assert float(found.loss) == pytest.approx(float(loss), rel=1e-14)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, at the first use of forward mode
def test_forward_mode_gives_the_same_hessian_product() -> None:
    inner, outer, start = smooth_problem(4, dropout=0.3)

    def forward_over_reverse(loss: Loss, at: Tree, direction: Tree) -> Tree:
        return torch.func.jvp(torch.func.grad(loss), (at,), (direction,))[1]

    assert distance(sweep(inner, outer, start, ALPHA, forward_over_reverse).model, sweep(inner, outer, start, ALPHA, exact).model) < 1e-13


def test_rate_gradient_equals_autograd_and_sums_to_that_of_one_rate() -> None:
    inner, outer, start = smooth_problem(4, dropout=0.3, decay=0.1)
    rates = rates_like(start)
    reference = torch.func.grad(lambda rate: through(inner, outer, start, rate))(rates)
    assert distance(sweep(inner, outer, start, rates, exact).rates, reference) < 1e-12
    one = torch.tensor(ALPHA, dtype=torch.float64)
    common = torch.func.grad(lambda rate: through(inner, outer, start, rate))(one)
    assert float(vector(sweep(inner, outer, start, one, exact).rates).sum()) == pytest.approx(float(common), rel=1e-12)


@pytest.mark.parametrize("nu", [1, 3, 5])
def test_rate_gradient_equals_finite_differences(nu: int) -> None:
    inner, outer, start = smooth_problem(nu)
    rates = rates_like(start)
    found = sweep(inner, outer, start, rates, exact).rates
    for seed in range(3):
        way = tree.map(lambda leaf, seed=seed: random.normal(random.key(seed), tuple(leaf.shape), torch.float64), rates)
        ahead, behind = (through(inner, outer, start, tree.step(rates, way, sign * 1e-4)) for sign in (-1.0, 1.0))
        assert float(tree.dot(found, way)) == pytest.approx(float(ahead - behind) / 2e-4, rel=1e-6)


@pytest.mark.parametrize("per_weight", ["one rate", "rates"])
def test_hessian_free_error_falls_as_delta_squared(per_weight: str) -> None:
    inner, outer, start = smooth_problem(3)
    rate = ALPHA if per_weight == "one rate" else rates_like(start)
    reference = sweep(inner, outer, start, rate, exact)
    deltas = [0.8, 0.4, 0.2, 0.1, 0.05, 0.025]
    errors = [float(tree.norm(tree.subtract(sweep(inner, outer, start, rate, hessian_free(d)).model, reference.model))) for d in deltas]
    slopes = [math.log(a / b) / math.log(2) for a, b in itertools.pairwise(errors)]
    assert all(1.8 < slope < 2.2 for slope in slopes), slopes


def test_first_order_bias_grows_with_the_rate_and_the_steps() -> None:
    parts, outer, w = problem(5)
    inner, last = [quadratic(*part) for part in parts], quadratic(*outer)

    def bias(alpha: float, nu: int) -> float:
        full, cheap = (sweep(inner[:nu], last, params_of(w), alpha, hvp).model for hvp in (exact, first_order))
        return float(tree.norm(tree.subtract(full, cheap)) / tree.norm(cheap))

    by_rate = [bias(alpha, 3) for alpha in (0.01, 0.03, 0.1, 0.3)]
    by_steps = [bias(0.1, nu) for nu in STEPS]
    assert by_steps[0] == 0.0
    assert by_rate == sorted(by_rate)
    assert by_steps == sorted(by_steps)
    assert by_rate[0] / 0.01 == pytest.approx(by_rate[1] / 0.03, rel=0.1)  # linear in alpha while alpha L nu is small


@pytest.mark.parametrize("nu", STEPS)
def test_weight_decay_adds_to_gradient_and_hessian(nu: int) -> None:
    A, b, outer, w = hessian(P, 1), centre(P, 1), (hessian(P, 2), centre(P, 2)), centre(P, 3)
    decay, eye = 0.4, torch.eye(P, dtype=torch.float64)
    inner = inner_losses(quadratic_model(P), quadratic_batch([A], [b]), nu, random.key(0), decay)
    decayed = A + decay * eye
    shifted = torch.linalg.solve(decayed, A @ b)  # A (w - b) + decay w = (A + decay I)(w - shifted)
    expected = closed_form([(decayed, shifted)] * nu, outer, w, torch.full_like(w, ALPHA), 1.0)
    found = sweep(inner, quadratic(*outer), params_of(w), ALPHA, exact)
    assert torch.allclose(vector(found.model), expected, rtol=0, atol=1e-12)


def test_a_step_without_examples_changes_nothing_even_with_decay() -> None:
    batch = quadratic_batch([hessian(P, 1)], [centre(P, 1)])
    empty = batch._replace(mask=torch.zeros_like(batch.mask), x=batch.x * 1e6)
    start = params_of(centre(P, 2))
    path = descend([step_loss(quadratic_model(P), empty, None, 0.4)], start, ALPHA)
    assert distance(path.points[-1], start) == 0.0


def test_every_inner_step_drops_other_inputs() -> None:
    inner, _, start = smooth_problem(3, dropout=0.5)
    slopes = [torch.func.grad(loss)(start) for loss in inner]
    assert distance(slopes[0], slopes[1]) > 1e-3
    assert distance(slopes[1], slopes[2]) > 1e-3


def test_path_has_every_point_and_leaves_its_start_alone() -> None:
    inner, _, start = smooth_problem(2)
    before = tree.map(torch.clone, start)
    path: Path = descend(inner, start, ALPHA)
    assert [len(path.points), len(path.slopes)] == [3, 2]
    assert distance(path.points[1], tree.step(start, path.slopes[0], ALPHA)) == 0.0
    assert distance(start, before) == 0.0


def test_sweep_maps_over_clients() -> None:
    starts = torch.stack([centre(P, seed) for seed in range(3)])
    A, b = hessian(P, 1), centre(P, 1)

    def one(w: Tensor) -> Tree:
        return sweep([quadratic(A, b)] * 2, quadratic(A, b), params_of(w), ALPHA, exact).model

    mapped = torch.func.vmap(one)(starts)
    for row, start in enumerate(starts):
        assert distance(tree.map(lambda leaf, row=row: leaf[row], mapped), one(start)) < 1e-14


def test_gradient_client_gives_the_objectives_gradient_and_counts_all_examples() -> None:
    model, task = smooth_model(), Task(class_batch(1, 7), class_batch(3, 8))
    meta = tree.to(model.init(random.key(0)), torch.float64)

    def objective(params: Tree, task: Task, key: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return step_loss(model, task.query, key)(params), {"examples": task.query.mask.sum()}

    message = gradient_client(objective)(meta, task, random.key(1))
    assert distance(message.update, torch.func.grad(step_loss(model, task.query, random.key(1)))(meta)) == 0.0
    assert [float(message.weight), float(message.metrics["examples"])] == [15.0, 8.0]


def test_flavours_by_name() -> None:
    assert hvp_of("exact") is exact
    assert hvp_of("first_order") is first_order
    with pytest.raises(ConfigError, match="did you mean 'hessian_free'"):
        hvp_of("hesian_free")
    with pytest.raises(ConfigError, match="must be positive"):
        hvp_of("exact", 0.0)
