"""Power priors: weighted heads against brute force in float64, and retentions chosen by evidence on streams whose right rate is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.heads import Head, conjugate_classification, conjugate_regression, evidence, forgetting, remember
from metabayfl.heads.conjugate_classification import leave_one_out as classes_left_out
from metabayfl.heads.conjugate_classification import log_probs
from metabayfl.heads.conjugate_classification import posterior as class_posterior
from metabayfl.heads.conjugate_regression import leave_one_out, posterior, precision, predictive
from metabayfl.types import Tree

COUNT, CLASSES, TARGETS, WIDTH = 9, 3, 2, 4
HEADS: dict[str, Head] = {"classification": conjugate_classification(CLASSES, WIDTH), "regression": conjugate_regression(TARGETS, WIDTH)}
KINDS = sorted(HEADS)


def normal(name: str, *shape: int) -> Tensor:
    return random.normal(random.fold(random.key(17), name), shape, torch.float64)


def prior(kind: str) -> Tree:
    start = tree.to(HEADS[kind].init(random.key(0)), torch.float64)
    return tree.map(lambda leaf: leaf + 0.3 * random.normal(random.key(leaf.numel()), tuple(leaf.shape), torch.float64), start)


def memory(kind: str, weight: Tensor | None = None, count: int = COUNT) -> Tree:
    y = torch.arange(count) % CLASSES if kind == "classification" else normal("y", count, TARGETS)
    return remember(normal("features", count, WIDTH), y, torch.ones(count, dtype=torch.float64) if weight is None else weight)


def rows(kept: Tree, index: list[int]) -> Tree:
    return tree.map(lambda leaf: leaf[index], kept)


WEIGHT = torch.tensor([0.3, 1.0, 0.05, 0.7, 2.0, 0.9, 1e-30, 0.5, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_two_is_the_sample_twice_and_of_nought_its_absence(kind: str) -> None:
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    twice = rows(memory(kind), [0, 1, 1, 3, 4, 4, 5, 6, 7, 8])
    weighted, repeated = HEADS[kind].statistics(memory(kind, weight)), HEADS[kind].statistics(twice)
    for name, leaf in weighted.items():
        torch.testing.assert_close(leaf, repeated[name], rtol=1e-13, atol=1e-13)


def test_the_weighted_regression_is_that_of_scaled_rows() -> None:
    """By the normal equations with explicit inverses: each row of the design and of the targets times the root of its weight."""
    kept, start, root = memory("regression", WEIGHT), prior("regression"), torch.diag(WEIGHT)
    design = torch.cat([kept["features"], torch.ones(COUNT, 1, dtype=torch.float64)], -1)
    whole = posterior(start, HEADS["regression"].statistics(kept))
    lam = precision(start) + design.T @ root @ design
    mean = torch.linalg.inv(lam) @ (design.T @ root @ kept["y"] + precision(start) @ start["K0"])
    first = torch.diag((2 + torch.exp(start["log_dof"])) * torch.exp(start["log_noise"]))
    scatter = first + kept["y"].T @ root @ kept["y"] + start["K0"].T @ precision(start) @ start["K0"] - mean.T @ lam @ mean
    torch.testing.assert_close(whole["mean"], mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(whole["scatter"], scatter, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(whole["dof"], 2 + torch.exp(start["log_dof"]) + WEIGHT.sum())


def test_leave_one_out_takes_the_whole_weight_out() -> None:
    for row in range(COUNT):
        others = [at for at in range(COUNT) if at != row]
        kept, start = memory("classification", WEIGHT), prior("classification")
        alone = log_probs(class_posterior(start, HEADS["classification"].statistics(rows(kept, others))), kept["features"][row : row + 1])
        at_once = classes_left_out(start, HEADS["classification"].statistics(kept), kept)[row : row + 1]
        torch.testing.assert_close(at_once, alone, rtol=1e-10, atol=1e-10)
        kept, start = memory("regression", WEIGHT), prior("regression")
        refitted = predictive(posterior(start, HEADS["regression"].statistics(rows(kept, others))), kept["features"][row : row + 1])
        for one, other in zip(leave_one_out(start, HEADS["regression"].statistics(kept), kept), refitted, strict=True):
            if WEIGHT[row] > 1e-12:  # a smaller weight out is lost in rounding, and so is its vote
                torch.testing.assert_close(one[row : row + 1], other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_counts_a_sample_as_its_weight_says(kind: str) -> None:
    head, kept = HEADS[kind], memory(kind, WEIGHT)
    points = evidence.grid((0.3, 1.0), (1.0, 3.0), kept["features"])
    found = evidence.weigh(head, prior(kind), head.statistics(kept), kept, points)["weight"]
    each = torch.stack(
        [head.leave_one_out(head.scaled(prior(kind), u, v), head.statistics(kept), kept) for u, v in zip(*points.values(), strict=True)]
    )
    torch.testing.assert_close(found, torch.softmax(each @ WEIGHT, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_recursion_is_refitting_before_every_sample(kind: str) -> None:
    """Statistics, evidence over (u, v), and the scores, against sums over explicitly weighted pasts."""
    head, kept, start = HEADS[kind], memory(kind), prior(kind)
    retentions = torch.tensor([1.0, 0.8, 0.5], dtype=torch.float64)
    points = evidence.grid((0.3, 1.0), (1.0, 3.0), kept["features"])
    state = forgetting.run(head, start, points, forgetting.begin(head, points, kept, retentions), kept)
    for place, retention in enumerate(retentions):
        logs = torch.zeros(COUNT, 4, dtype=torch.float64)
        for row in range(COUNT):
            past = rows(kept, list(range(row)))
            past["mask"] = retention ** torch.arange(row - 1, -1, -1)
            for at, (u, v) in enumerate(zip(*points.values(), strict=True)):
                logs[row, at] = head.log_predictive(head.scaled(start, u, v), head.statistics(past), rows(kept, [row])).squeeze()
        ages = torch.arange(COUNT - 1, -1, -1)
        whole = head.statistics({**kept, "mask": retention**ages})
        for name, leaf in whole.items():
            torch.testing.assert_close(state["statistics"][name][place], leaf, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state["evidence"][place], (retention**ages) @ logs)
        earlier = torch.stack([(retention ** torch.arange(row - 1, -1, -1)) @ logs[:row] for row in range(COUNT)])
        mixed = torch.logsumexp(torch.log_softmax(earlier, -1) + logs, -1)
        torch.testing.assert_close(state["score"][place], (forgetting.SCORE_MEMORY ** ages.double()) @ mixed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_in_pieces_is_the_stream_and_padding_is_no_case(kind: str) -> None:
    head, kept, start = HEADS[kind], memory(kind), prior(kind)
    points = evidence.grid((1.0,), (1.0, 3.0), kept["features"])
    first = forgetting.begin(head, points, kept, torch.tensor(forgetting.RETENTIONS, dtype=torch.float64))
    at_once = forgetting.run(head, start, points, first, kept)
    padding = tree.map(lambda leaf: torch.cat([leaf[:4], torch.zeros_like(leaf[:2]), leaf[4:]]), kept)
    pieces = forgetting.run(
        head, start, points, forgetting.run(head, start, points, first, rows(padding, [0, 1, 2])), rows(padding, list(range(3, 11)))
    )
    for path, leaf in tree.flatten(at_once).items():
        torch.testing.assert_close(tree.flatten(pieces)[path], leaf, rtol=0, atol=0)


def test_weights_fade_by_real_rows_and_never_to_nothing() -> None:
    real = torch.tensor([True] * 3 + [False] + [True] * 2)
    torch.testing.assert_close(forgetting.weights(real, torch.tensor(0.9)), torch.tensor([0.9**4, 0.9**3, 0.9**2, 0.0, 0.9, 1.0]))
    assert bool((forgetting.weights(torch.ones(5000, dtype=torch.bool), torch.tensor(0.5)) > 0).all())


def drifting(steps: int, speed: float) -> Tree:
    """Two classes whose means walk at a speed, as a share of the noise, a case."""
    labels = torch.arange(steps) % 2
    walk = torch.cumsum(speed * normal("walk", steps, 2, WIDTH), 0)
    features = walk[torch.arange(steps), labels] + normal("noise", steps, WIDTH)
    return remember(features, labels, torch.ones(steps, dtype=torch.float64))


@pytest.mark.parametrize(("speed", "fastest", "slowest"), [(0.0, 0.97, 1.0), (0.5, 0.9, 0.95)])
def test_a_walking_client_forgets_and_a_resting_one_does_not(speed: float, fastest: float, slowest: float) -> None:
    head, kept = conjugate_classification(2, WIDTH), drifting(150, speed)
    start = {**tree.to(head.init(random.key(0)), torch.float64), "log_t": torch.tensor(0.0).double(), "k": torch.tensor(-1.0).double()}
    points = evidence.grid((1.0,), (1.0,), kept["features"])
    state = forgetting.begin(head, points, kept, torch.tensor(forgetting.RETENTIONS, dtype=torch.float64))
    chosen = float(forgetting.best(forgetting.run(head, start, points, state, kept)))
    assert fastest <= chosen <= slowest


def test_without_a_sample_nothing_is_forgotten() -> None:
    kept = memory("classification")
    points = evidence.grid((1.0,), (1.0,), kept["features"])
    state = forgetting.begin(HEADS["classification"], points, kept, torch.tensor(forgetting.RETENTIONS))
    assert float(forgetting.best(state)) == 1.0
