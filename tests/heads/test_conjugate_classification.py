"""The conjugate classification head against refitting, quadrature and limits, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.heads import conjugate_classification as build
from metabayfl.heads import evidence, remember
from metabayfl.heads.conjugate_classification import (
    answer,
    draw,
    form,
    kappa,
    leave_one_out,
    log_probs,
    no_data,
    posterior,
    prepare,
    sample,
    scaled,
    scores,
    statistics,
    zero_shot,
)
from metabayfl.heads.dirichlet import log_dirichlet
from metabayfl.losses import split_entropy
from metabayfl.types import Tree

CLASSES, WIDTH, COUNT = 4, 3, 11
HEAD = build(CLASSES, WIDTH)


def normal(name: str, *shape: int) -> Tensor:
    return random.normal(random.fold(random.key(7), name), shape, torch.float64)


def prior(classes: int = CLASSES, width: int = WIDTH) -> Tree:
    """A prior with every number of its own, so that no term can hide."""
    return {
        "mu0": normal("mu0", classes, width),
        "k": torch.tensor(0.4).double(),
        "k_M": 0.5 * normal("k_M", width),
        "k_C": 0.5 * normal("k_C", classes),
        "log_a": 0.5 * normal("log_a", classes),
        "eta": torch.tensor(0.7).double(),
        "log_t": torch.tensor(0.3).double(),
    }


def memory(count: int = COUNT) -> Tree:
    """Class 3 has no sample and class 0 one: both edges of leaving one out."""
    labels = torch.tensor([0] + [1 + i % 2 for i in range(count - 1)])
    return remember(2 * normal("features", count, WIDTH) + labels.unsqueeze(-1), labels, torch.ones(count).double())


def without(kept: Tree, row: int) -> Tree:
    return tree.map(lambda leaf: torch.cat([leaf[:row], leaf[row + 1 :]]), kept)


def refit(kept: Tree) -> Tree:
    return posterior(prior(), statistics(kept, CLASSES))


def test_leave_one_out_equals_refitting_without_the_sample() -> None:
    kept = memory()
    at_once = leave_one_out(prior(), statistics(kept, CLASSES), kept)
    for row in range(COUNT):
        alone = log_probs(refit(without(kept, row)), kept["features"][row : row + 1])
        torch.testing.assert_close(at_once[row : row + 1], alone, rtol=0, atol=1e-10)


def test_observed_values_are_those_of_the_labels() -> None:
    kept = memory()
    sums = HEAD.statistics(kept)
    rows = torch.arange(COUNT)
    torch.testing.assert_close(HEAD.leave_one_out(prior(), sums, kept), leave_one_out(prior(), sums, kept)[rows, kept["y"]])
    torch.testing.assert_close(HEAD.zero_shot(prior(), kept), zero_shot(prior(), kept["features"])[rows, kept["y"]])


def test_predictive_is_the_documented_formula() -> None:
    kept, phi = memory(), normal("query", WIDTH)
    p, k = prior(), kappa(prior())
    scores = []
    for c in range(CLASSES):
        mine = kept["features"][kept["y"] == c]
        total = k[c] + len(mine)
        mean = (k[c] * p["mu0"][c] + mine.sum(0)) / total
        share = (math.exp(p["log_a"][c]) + len(mine)) / (float(p["log_a"].exp().sum()) + COUNT)
        t = math.exp(p["log_t"])
        scores.append(p["eta"] * math.log(share) - 0.5 * (t * (phi - mean) ** 2 / (1 + 1 / total) + torch.log(1 + 1 / total)).sum())
    torch.testing.assert_close(log_probs(refit(kept), phi.unsqueeze(0))[0], torch.log_softmax(torch.stack(scores), 0), rtol=0, atol=1e-12)


def test_no_data_gives_the_prior_back() -> None:
    empty = remember(normal("features", 5, WIDTH), torch.zeros(5).long(), torch.zeros(5).double())
    for nothing in (HEAD.statistics(empty), no_data(prior())):
        after = posterior(prior(), nothing)
        torch.testing.assert_close(after["mean"], prior()["mu0"])
        torch.testing.assert_close(after["kappa"], kappa(prior()))
        torch.testing.assert_close(after["a"], prior()["log_a"].exp())


def test_infinite_trust_in_the_prior_is_the_zero_shot_model() -> None:
    kept, query = memory(), normal("query", 6, WIDTH)
    flat = {**prior(), "log_a": torch.zeros(CLASSES).double()}
    sums = statistics(kept, CLASSES)
    after = posterior(scaled(flat, torch.tensor(1e12).double(), torch.tensor(1e12).double()), sums)
    expected = zero_shot({**flat, "k": torch.tensor(40.0).double()}, query)
    torch.testing.assert_close(log_probs(after, query), expected, rtol=0, atol=1e-9)


def test_statistics_of_two_sets_add_up() -> None:
    kept = memory()
    first, second = (tree.map(lambda leaf, part=part: leaf[part], kept) for part in (slice(0, 4), slice(4, COUNT)))
    total = tree.add(HEAD.statistics(first), HEAD.statistics(second))
    torch.testing.assert_close(total, HEAD.statistics(kept), rtol=1e-14, atol=1e-14)


def test_padding_with_infinite_values_changes_nothing() -> None:
    kept = memory()
    rows = torch.full((3, WIDTH), math.inf).double()
    wide = remember(torch.cat([kept["features"], rows]), torch.cat([kept["y"], torch.full((3,), -1)]), torch.cat([kept["mask"], torch.zeros(3)]))
    torch.testing.assert_close(HEAD.statistics(wide), HEAD.statistics(kept))
    values = HEAD.leave_one_out(prior(), HEAD.statistics(wide), wide)
    torch.testing.assert_close(values[:COUNT], HEAD.leave_one_out(prior(), HEAD.statistics(kept), kept))
    assert not values[COUNT:].any()


def test_posterior_predictive_against_numerical_integration() -> None:
    """One feature, two classes: integrate the class means on a grid and the share of class 0 on another, knowing only the likelihoods."""
    p = {**prior(2, 1), "eta": torch.tensor(1.0).double()}
    labels = torch.tensor([0, 0, 1, 0])
    kept = remember(normal("one", 4, 1), labels, torch.ones(4).double())
    t, k, phi = float(p["log_t"].exp()), kappa(p)[:, 0], 0.3
    grid = torch.linspace(-15, 15, 20001).double()
    share = torch.linspace(0, 1, 20003)[1:-1].double()

    def gauss(at: Tensor | float, mean: Tensor | float, precision: float) -> Tensor:
        return torch.exp(-0.5 * precision * torch.as_tensor(at - mean) ** 2)

    joint = []
    prior_share = share ** (p["log_a"][0].exp() - 1) * (1 - share) ** (p["log_a"][1].exp() - 1)
    counts = share**3 * (1 - share)
    shares = [(prior_share * counts * part).sum() / (prior_share * counts).sum() for part in (share, 1 - share)]
    for c in range(2):
        density = gauss(grid, p["mu0"][c, 0], t * float(k[c]))
        for value in kept["features"][labels == c, 0]:
            density = density * gauss(value, grid, t)
        joint.append(shares[c] * (density * gauss(phi, grid, t)).sum() / density.sum())
    expected = torch.stack(joint) / torch.stack(joint).sum()
    found = log_probs(posterior(p, statistics(kept, 2)), torch.tensor([[phi]]).double()).exp()[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def sampled(after: Tree, phi: Tensor, count: int) -> Tensor:
    noise = normal("noise", count, *after["mean"].shape)
    keys = random.keys(random.key(3), count)
    centre = 0.5 * after["mean"][0]  # any will do
    drawn = sample(after, centre, noise, torch.func.vmap(lambda key: log_dirichlet(key, after["a"]))(keys))
    return torch.softmax(scores(drawn, phi - centre), -1)


def test_sampled_split_converges_to_quadrature() -> None:
    """Two classes, one feature, fixed shares: the logit is quadratic in two normals, so the split is a two-dimensional integral."""
    p = {**prior(2, 1), "log_a": torch.full((2,), 20.0).double()}
    after = posterior(p, no_data(p))
    phi = torch.tensor([[0.4]]).double()
    node = torch.linspace(-7, 7, 1001).double()
    weight = torch.exp(-0.5 * node**2)
    weight = weight / weight.sum()
    sd = 1 / torch.sqrt(after["t"] * after["kappa"][:, 0])
    means = [after["mean"][c, 0] + sd[c] * node for c in range(2)]
    gap = -0.5 * after["t"] * ((0.4 - means[0]) ** 2).unsqueeze(1) + 0.5 * after["t"] * ((0.4 - means[1]) ** 2).unsqueeze(0)
    probs = torch.stack([torch.sigmoid(gap), torch.sigmoid(-gap)], -1)
    joint = weight.unsqueeze(1) * weight.unsqueeze(0)
    mean = (joint.unsqueeze(-1) * probs).sum((0, 1))
    aleatoric = -(joint.unsqueeze(-1) * torch.xlogy(probs, probs)).sum()
    split = split_entropy(sampled(after, phi, 40000))
    torch.testing.assert_close(split.probs[0], mean, rtol=0, atol=6e-3)
    torch.testing.assert_close(split.aleatoric[0], aleatoric, rtol=0, atol=6e-3)


def test_sampled_joint_densities_average_to_the_closed_form() -> None:
    """``E[pi_c N(phi; mu_c)]`` over the posterior, normalised over classes, is the closed-form predictive."""
    after = {**refit(memory()), "eta": torch.tensor(1.0).double()}
    phi, count = normal("query", WIDTH), 60000
    noise = normal("noise", count, CLASSES, WIDTH)
    means = after["mean"] + noise / torch.sqrt(after["t"] * after["kappa"])
    density = torch.exp(-0.5 * after["t"] * ((phi - means) ** 2).sum(-1)) * (after["a"] / after["a"].sum())
    torch.testing.assert_close(density.mean(0) / density.mean(0).sum(), log_probs(after, phi.unsqueeze(0))[0].exp(), rtol=0, atol=8e-3)


def test_many_samples_leave_no_epistemic_part_and_the_closed_form() -> None:
    few = {**memory(), "y": torch.arange(COUNT) % CLASSES}
    kept = tree.map(lambda leaf: leaf.repeat(20000, *[1] * (leaf.ndim - 1)), few)
    point = {"u": torch.ones(1).double(), "v": torch.ones(1).double(), "weight": torch.ones(1).double()}
    query = normal("query", 5, WIDTH)
    prepared = prepare(prior(), statistics(kept, CLASSES), point, random.key(0), 200)
    out = answer(prepared, query)
    assert float(out.epistemic.max()) < 1e-4
    samples = torch.softmax(scores(prepared["draws"], query - prepared["centre"]), -1).mean(0)
    torch.testing.assert_close(samples, out.probs, rtol=0, atol=1e-3)


def test_draws_are_antithetic_and_depend_on_the_key_alone() -> None:
    kept, query = memory(), normal("query", 5, WIDTH)
    sums = statistics(kept, CLASSES)
    points = evidence.weigh(HEAD, prior(), sums, kept, evidence.grid((0.5, 2.0), (1.0,), query))
    one, again, other = (draw(prior(), sums, points, query[0], random.key(seed), 5) for seed in (1, 1, 2))
    assert {name: leaf.shape for name, leaf in one.items()} == {"constant": (5, CLASSES), "linear": (5, CLASSES, WIDTH)}
    for name in one:
        assert torch.equal(one[name], again[name])
        assert not torch.allclose(one[name], other[name])
    sharp = {**prior(), "log_a": torch.full((CLASSES,), 30.0).double()}
    at_mean = {"u": torch.ones(1).double(), "v": torch.ones(1).double(), "weight": torch.ones(1).double()}
    pair = draw(sharp, no_data(sharp), at_mean, query[0], random.key(1), 2)
    noise = random.normal(random.fold(random.key(1), "means"), (1, CLASSES, WIDTH), torch.float64)[0]
    keys = random.keys(random.fold(random.key(1), "shares"), 2)
    after = posterior(sharp, no_data(sharp))
    expected = [sample(after, query[0], sign * noise, log_dirichlet(key, after["a"])) for sign, key in zip((1, -1), keys, strict=True)]
    for name, leaf in pair.items():
        torch.testing.assert_close(leaf, torch.stack([one[name] for one in expected]))


def test_the_quadratic_form_is_the_documented_formula() -> None:
    """Both ways of computing ``l_c`` agree, around any centre."""
    after, query, centre = refit(memory()), normal("query", 5, WIDTH), normal("centre", WIDTH)
    found = torch.log_softmax(scores(form(after, centre), query - centre), -1)
    torch.testing.assert_close(found, log_probs(after, query), rtol=0, atol=1e-12)


def test_a_draw_s_form_is_the_softmax_of_shares_and_distances() -> None:
    after, query, centre, noise = refit(memory()), normal("query", 5, WIDTH), normal("centre", WIDTH), normal("noise", CLASSES, WIDTH)
    means = after["mean"] + noise / torch.sqrt(after["t"] * after["kappa"])
    shares = log_dirichlet(random.key(4), after["a"])
    expected = after["eta"] * shares - 0.5 * after["t"] * ((query.unsqueeze(1) - means) ** 2).sum(-1)
    found = scores(sample(after, centre, noise, shares), query - centre)
    torch.testing.assert_close(torch.softmax(found, -1), torch.softmax(expected, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("small", [1e-9, 1e-4])
def test_single_precision_survives_a_prior_worth_almost_nothing(small: float) -> None:
    kept = tree.to(memory(), torch.float32)
    weak = scaled(tree.to(prior(), torch.float32), torch.tensor(small), torch.tensor(small))
    assert torch.isfinite(HEAD.leave_one_out(weak, HEAD.statistics(kept), kept)).all()


def test_gradient_of_leave_one_out_against_finite_differences() -> None:
    kept = memory()

    def loss(p: Tree, features: Tensor) -> Tensor:
        inputs = {**kept, "features": features}
        return HEAD.leave_one_out(p, HEAD.statistics(inputs), inputs).sum() + HEAD.zero_shot(p, inputs).sum()

    gradient, slope = torch.func.grad(loss, argnums=(0, 1))(prior(), kept["features"])
    for path, leaf in tree.flatten(gradient).items():
        direction = normal(path, *leaf.shape)
        ahead, behind = ({**prior(), path: prior()[path] + step * direction} for step in (1e-5, -1e-5))
        numeric = (loss(ahead, kept["features"]) - loss(behind, kept["features"])) / 2e-5
        torch.testing.assert_close((leaf * direction).sum(), numeric, rtol=1e-6, atol=1e-7)
    direction = normal("direction", COUNT, WIDTH)
    numeric = (loss(prior(), kept["features"] + 1e-5 * direction) - loss(prior(), kept["features"] - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((slope * direction).sum(), numeric, rtol=1e-6, atol=1e-7)
