"""Where the flavours of the meta-gradient converge: exact at a stationary point of F, the approximations in a neighbourhood (arXiv 2504.21327)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from metabayfl import random
from metabayfl.aggregators import uniform_mean
from metabayfl.algorithms.maml import maml
from metabayfl.algorithms.per_fedavg import per_fedavg
from metabayfl.types import Algorithm, Batch, Model, Task
from quadratics import IDENTITY, centre, hessian, params_of, quadratic_batch, quadratic_model, vector

P = 4
CLIENTS = range(3)
EYE = torch.eye(P, dtype=torch.float64)
MATRICES = [(hessian(P, 2 * c, 0.8, 1.2), hessian(P, 2 * c + 1, 0.8, 1.2)) for c in CLIENTS]
CENTRES = [(centre(P, 2 * c), centre(P, 2 * c + 1)) for c in CLIENTS]


def stacked(batches: list[Batch]) -> Batch:
    return Batch(*(torch.stack(parts) for parts in zip(*batches, strict=True)))


def federation() -> Task:
    halves = ([quadratic_batch([pair[half]], [at[half]]) for pair, at in zip(MATRICES, CENTRES, strict=True)] for half in (0, 1))
    return Task(*(stacked(half) for half in halves))


def affine(alpha: float, nu: int, hessians: bool) -> tuple[Tensor, Tensor]:
    """``(Q, r)`` of the mean meta-gradient ``Q w - r``, exact or first-order."""
    Q, r = torch.zeros(P, P, dtype=torch.float64), torch.zeros(P, dtype=torch.float64)
    for (A, Aq), (b, bq) in zip(MATRICES, CENTRES, strict=True):
        J = torch.linalg.matrix_power(EYE - alpha * A, nu)
        left = (J if hessians else EYE) @ Aq / len(CLIENTS)
        Q, r = Q + left @ J, r + left @ (bq - b + J @ b)
    return Q, r


def run(algorithm: Algorithm, tasks: Task, rounds: int, gradient: Callable[[Tensor], Tensor]) -> list[float]:
    """Norms of the true meta-gradient, round by round."""
    mean, norms = uniform_mean(), []
    state = algorithm.begin(params_of(torch.full((P,), 3.0, dtype=torch.float64)))
    for number in range(rounds):
        norms.append(float(gradient(vector(state.meta)).norm()))
        keys = random.fold(random.key(number), torch.arange(len(CLIENTS)))
        messages = vmap(algorithm.client, (None, 0, 0))(state.meta, tasks, keys)
        state = algorithm.server(state, mean.finish(mean.partial(messages)))
    return [*norms, float(gradient(vector(state.meta)).norm())]


def descent(model: Model, tasks: Task, nu: int, alpha: float, flavour: str, rate: float, rounds: int, delta: float = 1e-3) -> list[float]:
    options = {"inner_steps": nu, "inner_lr": alpha, "meta_lr": rate, "server_optimizer": "sgd"}
    algorithm = maml(model, meta_gradient=flavour, hessian_delta=delta, **options)
    reference = vmap(maml(model, **options).client, (None, 0, None))
    if model.name == "quadratic":
        Q, r = affine(alpha, nu, hessians=True)
        return run(algorithm, tasks, rounds, lambda w: Q @ w - r)
    return run(algorithm, tasks, rounds, lambda w: vmap(vector)(reference(params_of(w), tasks, random.key(0)).update).mean(0))


@pytest.mark.parametrize("nu", [1, 3, 10])
def test_exact_gradients_reach_a_stationary_point(nu: int) -> None:
    Q, _ = affine(0.1, nu, hessians=True)
    rate = 1.0 / float(torch.linalg.eigvalsh(Q).max())
    norms = descent(quadratic_model(P), federation(), nu, 0.1, "exact", rate, rounds=40)
    assert norms[-1] < 1e-6 * norms[0]
    assert all(after < before for before, after in itertools.pairwise(norms) if before > 1e-10)


@pytest.mark.parametrize("nu", [1, 3, 10])
def test_first_order_gradients_stop_in_a_neighbourhood(nu: int) -> None:
    Q, r = affine(0.1, nu, hessians=False)
    rate = 1.0 / float(torch.linalg.eigvals(Q).real.max())
    norms = descent(quadratic_model(P), federation(), nu, 0.1, "first_order", rate, rounds=30)
    exact_Q, exact_r = affine(0.1, nu, hessians=True)
    floor = float((exact_Q @ torch.linalg.solve(Q, r) - exact_r).norm())
    assert floor > 1e-3
    assert norms[-1] == pytest.approx(floor, rel=1e-4)


def test_the_first_order_neighbourhood_grows_with_rate_and_steps() -> None:
    def floor(alpha: float, nu: int) -> float:
        (Q, r), (exact_Q, exact_r) = affine(alpha, nu, hessians=False), affine(alpha, nu, hessians=True)
        return float((exact_Q @ torch.linalg.solve(Q, r) - exact_r).norm())

    by_rate, by_steps = [floor(alpha, 3) for alpha in (0.0, 0.01, 0.03, 0.1)], [floor(0.03, nu) for nu in range(11)]
    assert by_rate[0] < 1e-12
    assert by_steps[0] < 1e-12
    assert by_rate == sorted(by_rate)
    assert by_steps == sorted(by_steps)


def rough_model() -> Model:
    """Loss ``log cosh(a' w - b)`` on an example ``(a, b)``: smooth and convex, with a third derivative."""

    def apply(params: dict, x: Tensor, key: Tensor | None) -> Tensor:
        gap = x[:, :P] @ vector(params) - x[:, P]
        return (torch.logaddexp(gap, -gap)).unsqueeze(-1)

    return quadratic_model(P)._replace(name="log cosh", apply=apply, likelihood=IDENTITY)


def test_the_hessian_free_neighbourhood_shrinks_with_delta_squared() -> None:
    def half(seed: int) -> Batch:
        slopes = torch.stack([2.0 * torch.linalg.qr(hessian(P, seed + c))[0] for c in CLIENTS])  # the mean of a a' is I
        x = torch.cat([slopes, 0.7 * random.normal(random.key(seed), (len(CLIENTS), P, 1), torch.float64)], -1)
        return Batch(x, x[..., :1], torch.ones(x.shape[:2], dtype=torch.float64))

    tasks = Task(half(20), half(30))
    floors = [descent(rough_model(), tasks, 2, 0.3, "hessian_free", 3.0, rounds=24, delta=delta)[-1] for delta in (0.4, 0.2)]
    exact = descent(rough_model(), tasks, 2, 0.3, "exact", 3.0, rounds=24)
    assert exact[-1] < 3e-5 * exact[0]
    assert floors[1] > 10 * exact[-1]
    assert 3.3 < floors[0] / floors[1] < 4.7


def test_local_meta_steps_converge_near_the_stationary_point() -> None:
    """More local steps drift towards the clients' own optima: the neighbourhood is proportional to ``beta (tau - 1)``."""
    Q, r = affine(0.1, 2, hessians=True)

    def floor(beta: float, tau: int) -> float:
        algorithm = per_fedavg(quadratic_model(P), inner_steps=2, inner_lr=0.1, meta_lr=beta, local_meta_steps=tau)
        return run(algorithm, federation(), rounds=20, gradient=lambda w: Q @ w - r)[-1]

    assert floor(1.2, 1) < 1e-8
    assert floor(0.2, 6) / floor(0.2, 4) == pytest.approx(5 / 3, rel=0.1)
