"""Server optimisers against torch.optim and the papers' formulas, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from metabayfl import optimizers, random, tree
from metabayfl.optimizers import Optimizer, adam, fed_adagrad, fed_adam, fed_yogi, linear_tail, server, sgd
from metabayfl.types import Aggregate, Tree

PARAMS: Tree = {"a": {"w": torch.tensor([1.0, -2.0, 0.5]).double()}, "t": torch.tensor(0.3).double()}
STEPS = 6


def gradient(step: int) -> Tree:
    keys = {path: random.fold(random.key(9), step, path) for path in tree.paths(PARAMS)}
    return tree.unflatten({path: random.normal(keys[path], tuple(leaf.shape), leaf.dtype) for path, leaf in tree.flatten(PARAMS).items()})


def ours(optimizer: Optimizer, params: Tree = PARAMS) -> Tree:
    state = optimizer.init(params)
    for step in range(STEPS):
        direction, state = optimizer.update(tree.to(gradient(step), tree.leaves(params)[0].dtype), state)
        params = tree.subtract(params, direction)
    return params


def torchs(build: Callable[[list[torch.Tensor]], torch.optim.Optimizer]) -> Tree:
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(PARAMS)]
    optimizer = build(leaves)
    for step in range(STEPS):
        for leaf, slope in zip(leaves, tree.leaves(gradient(step)), strict=True):
            leaf.grad = slope
        optimizer.step()
    return tree.like(PARAMS, [leaf.detach() for leaf in leaves])


def close(found: Tree, expected: Tree, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs(momentum: float) -> None:
    close(ours(sgd(0.1, momentum)), torchs(lambda leaves: torch.optim.SGD(leaves, 0.1, momentum)))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_adam_is_torchs(betas: tuple[float, float]) -> None:
    close(ours(adam(0.1, *betas)), torchs(lambda leaves: torch.optim.Adam(leaves, 0.1, betas)))


SECOND_MOMENTS = [
    (fed_adam(0.1, 0.7, 0.8, 0.01), 0.7, lambda v, g: 0.8 * v + 0.2 * g**2),
    (fed_yogi(0.1, 0.7, 0.8, 0.01), 0.7, lambda v, g: v - 0.2 * g**2 * np.sign(v - g**2)),
    (fed_adagrad(0.1, 0.0, 0.01), 0.0, lambda v, g: v + g**2),
]


@pytest.mark.parametrize("optimizer, b1, second", SECOND_MOMENTS, ids=["adam", "yogi", "adagrad"])
def test_fedopt_follows_the_paper(optimizer: Optimizer, b1: float, second: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Reddi et al. 2021, Algorithm 2: no bias correction, tau outside the root, v from tau^2."""
    found = tree.flatten(ours(optimizer))
    for path, leaf in tree.flatten(PARAMS).items():
        x, m, v = leaf.numpy().copy(), np.zeros(leaf.shape), np.full(leaf.shape, 0.01**2)
        for step in range(STEPS):
            g = tree.flatten(gradient(step))[path].numpy()
            m, v = b1 * m + (1 - b1) * g, second(v, g)
            x = x - 0.1 * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(found[path].numpy(), x, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [sgd(0.1), sgd(0.1, 0.9), adam(0.1), fed_adam(0.1), fed_yogi(0.1), fed_adagrad(0.1)])
def test_single_precision_stays_single_and_counts_rounds(optimizer: Optimizer) -> None:
    single = tree.to(PARAMS, torch.float32)
    assert {leaf.dtype for leaf in tree.leaves(ours(optimizer, single))} == {torch.float32}
    state = optimizer.init(single)
    step, after = optimizer.update(tree.to(gradient(0), torch.float32), state)
    assert {path: leaf.dtype for path, leaf in tree.flatten(after).items()} == {path: leaf.dtype for path, leaf in tree.flatten(state).items()}
    assert (int(state["count"]), int(after["count"])) == (0, 1)
    assert list(tree.paths(step)) == list(tree.paths(single))


@pytest.mark.parametrize("build", [sgd, adam, fed_adam, fed_yogi, fed_adagrad])
def test_a_rate_per_block(build: Callable[..., Optimizer]) -> None:
    mixed, slow, fast = (ours(build(rate)) for rate in ({"a": 0.1, "t": 0.01}, 0.01, 0.1))
    close(mixed, {"a": fast["a"], "t": slow["t"]})
    with pytest.raises(KeyError, match="t"):
        ours(build({"a": 0.1}))


@pytest.mark.parametrize("build", [sgd, adam])
def test_a_schedule_scales_the_rate_of_its_round(build: Callable[..., Optimizer]) -> None:
    half = build(0.1, schedule=lambda step: torch.where(step < 2, 1.0, 0.5))
    state, plain_state, plain = half.init(PARAMS), build(0.1).init(PARAMS), build(0.1)
    for step in range(4):
        direction, state = half.update(gradient(step), state)
        expected, plain_state = plain.update(gradient(step), plain_state)
        close(direction, tree.scale(expected, 1.0 if step < 2 else 0.5))


def test_linear_tail_ends_above_0_and_no_schedule_is_1() -> None:
    factors = [float(linear_tail(10, 0.4)(torch.tensor(step))) for step in range(10)]
    assert factors == [1.0] * 7 + [0.75, 0.5, 0.25]
    assert float(linear_tail(3, 0.0)(torch.tensor(2))) == 1.0
    assert optimizers.constant(torch.tensor(5)) == 1.0


def test_the_server_descends_along_the_aggregate() -> None:
    begin, update = server(sgd(0.5, 0.9))
    state = begin(PARAMS)
    for step in range(3):
        state = update(state, Aggregate(gradient(step), torch.tensor(1.0), {}))
    expected, velocity = PARAMS, tree.zeros_like(PARAMS)
    for step in range(3):
        velocity = tree.add(tree.scale(velocity, 0.9), gradient(step))
        expected = tree.step(expected, velocity, 0.5)
    close(state.meta, expected)
    close(state.optimizer["velocity"], velocity)
