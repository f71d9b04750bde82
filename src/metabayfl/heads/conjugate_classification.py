"""The conjugate classification head: a Dirichlet-categorical over classes and a normal with learned precisions over each class's features.

One client's model (all parameters but the class means and shares are the strategy's)::

    pi ~ Dir(a)    y ~ Cat(pi)    mu_c ~ N(mu0_c, diag 1/(t kappa_c))    phi | y = c ~ N(mu_c, I/t)
    log kappa_cj = k + k_M[j] + k_C[c]

With ``n_c`` samples of class ``c`` and ``S_c`` the sum of their features, the posterior is ``kappa' = kappa + n_c``,
``M_c = (kappa mu0_c + S_c) / kappa'``, ``a' = a + n_c``: no gradient step. Its predictive is the softmax of::

    l_c(phi) = eta log(a'_c / sum a') - 1/2 sum_j [ t (phi_j - M_cj)^2 / (1 + 1/kappa'_cj) + log(1 + 1/kappa'_cj) ]

``eta`` tempers the class shares. See ``docs/strategy.md``. Shapes: ``K`` classes, ``M`` features, ``N`` examples, ``S`` posterior samples.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.heads import evidence as mixture
from metabayfl.heads.dirichlet import log_dirichlet
from metabayfl.heads.head import Head
from metabayfl.types import ClassPrediction, Key, Tree
from metabayfl.uncertainty import sampled_split


def conjugate_classification(classes: int, width: int, samples: int = 20) -> Head:
    """The head for ``classes`` (K) classes over ``width`` (M) features; ``samples`` (S) posterior samples split the uncertainty."""

    return Head(
        init=lambda key: init(classes, width),
        scaled=scaled,
        statistics=lambda memory: statistics(memory, classes),
        leave_one_out=_observed_leave_one_out,
        zero_shot=_observed_zero_shot,
        log_predictive=_observed_predictive,
        prepare=partial(prepare, samples=samples),
        answer=answer,
    )


def init(classes: int, width: int) -> Tree:
    """The prior before training: means at 0, kappa = e^1.5, a uniform Dirichlet, t = 1/e."""
    return {
        "mu0": torch.zeros(classes, width),
        "k": torch.tensor(1.5),
        "k_M": torch.zeros(width),
        "k_C": torch.zeros(classes),
        "log_a": torch.zeros(classes),
        "eta": torch.tensor(1.0),
        "log_t": torch.tensor(-1.0),
    }


def scaled(prior: Tree, u: Tensor, v: Tensor) -> Tree:
    """The prior with ``kappa u`` and ``a v``; for factors ``(G,)`` one prior each, along a leading axis of whatever is made from it."""
    return {**prior, "k": prior["k"] + torch.log(u), "log_a": prior["log_a"] + torch.log(v).unsqueeze(-1)}


def kappa(prior: Tree) -> Tensor:
    """How many samples the prior mean is worth, per class and feature, ``(..., K, M)``."""
    return torch.exp(prior["k"].unsqueeze(-1).unsqueeze(-1) + prior["k_M"] + prior["k_C"].unsqueeze(-1))


def statistics(memory: Tree, classes: int) -> Tree:
    """``{"count": (K,), "sum": (K, M)}``: samples per class and the sum of their features, each as often as its weight says."""
    hot = _hot(memory, classes)
    return {"count": hot.sum(0), "sum": hot.T @ memory["features"]}


def no_data(prior: Tree) -> Tree:
    """The statistics of nobody."""
    return {"count": torch.zeros_like(prior["log_a"]), "sum": torch.zeros_like(prior["mu0"])}


def posterior(prior: Tree, statistics: Tree) -> Tree:
    """``{"mean": M (..., K, M), "kappa": kappa' (..., K, M), "a": a' (..., K), "eta": (), "t": ()}``."""
    strength, count = kappa(prior), statistics["count"]
    total = strength + count.unsqueeze(-1)
    mean = (strength * prior["mu0"] + statistics["sum"]) / total
    return {"mean": mean, "kappa": total, "a": torch.exp(prior["log_a"]) + count, "eta": prior["eta"], "t": torch.exp(prior["log_t"])}


def form(posterior: Tree, centre: Tensor) -> Tree:
    """``l_c`` as a quadratic in ``d = phi - centre``: ``{"constant": (K,), "linear": (K, M), "square": (K, M)}`` for :func:`scores`."""
    offset = posterior["mean"] - centre
    weight = posterior["t"] / (1.0 + 1.0 / posterior["kappa"])
    widths = torch.log1p(1.0 / posterior["kappa"])
    return {"constant": _log_shares(posterior) - 0.5 * (weight * offset**2 + widths).sum(-1), "linear": weight * offset, "square": weight}


def scores(form: Tree, d: Tensor) -> Tensor:
    """``constant + linear d - square d^2 / 2`` as matrix products, ``(..., N, K)``; leading axes of the form's leaves stay in front.

    Args:
        form: from :func:`form` or, without ``square``, :func:`sample`.
        d: ``(N, M)``, features less the form's centre.
    """
    out: Tensor = form["constant"].unsqueeze(-2) + d @ form["linear"].mT
    return out - 0.5 * (d**2 @ form["square"].mT) if "square" in form else out


def log_probs(posterior: Tree, features: Tensor) -> Tensor:
    """The posterior predictive ``log p(y = c | phi)``, ``(N, K)``."""
    return torch.log_softmax(_log_shares(posterior) + _log_density(posterior, features), -1)


def zero_shot(prior: Tree, features: Tensor) -> Tensor:
    """The predictive without any sample and with a flat prior over the classes, ``(N, K)`` log probabilities."""
    return torch.log_softmax(_log_density(posterior(prior, no_data(prior)), features), -1)


def leave_one_out(prior: Tree, statistics: Tree, memory: Tree) -> Tensor:
    """``log p(y = c | phi_i, all samples but i)`` for all ``i`` at once, ``(N, K)``, in O(N K M).

    Without sample ``i``, with its whole weight, only the posterior of its own class changes: all other columns are those of the whole posterior.
    A padded row holds some distribution over the classes, finite and of no meaning.
    """
    features, labels = memory["features"], memory["y"]
    whole = posterior(prior, statistics)
    hot = _hot(memory, len(prior["log_a"]))
    others = torch.clamp(statistics["count"] - hot, min=0.0)  # exact, before a small kappa or a is added
    strength = kappa(prior)
    total = strength[labels] + torch.where(hot > 0, others, torch.zeros_like(others)).sum(-1, keepdim=True)
    own_sum = memory["mask"].to(features.dtype).unsqueeze(-1) * features
    mean = ((strength * prior["mu0"])[labels] + (statistics["sum"][labels] - own_sum)) / total
    own = _log_normal(features, mean, total, whole["t"]).sum(-1, keepdim=True)
    density = torch.where(hot > 0, own, _log_density(whole, features))
    return torch.log_softmax(density + prior["eta"] * torch.log(torch.exp(prior["log_a"]) + others), -1)


def sample(posterior: Tree, centre: Tensor, noise: Tensor, log_shares: Tensor) -> Tree:
    """Draws of the class means and shares, as ``{"constant": (..., K), "linear": (..., K, M)}`` for :func:`scores`.

    Under the draw, ``p(y = c | phi)`` is the softmax of ``eta log pi_c - t/2 |phi - mu_c|^2``. ``|phi|^2`` is the same for all classes and left out,
    and so is whatever shift the means have in common, which keeps the squares small.

    Args:
        posterior: from :func:`posterior`.
        centre: ``(M,)``, what features are measured from.
        noise: standard normal ``(..., K, M)``, what the means are drawn from.
        log_shares: ``log pi`` ``(..., K)``, drawn.
    """
    means = posterior["mean"] + noise / torch.sqrt(posterior["t"] * posterior["kappa"])
    middle, t = means.mean(-2, keepdim=True), posterior["t"]
    offset = means - middle
    fixed = (offset * (offset + 2.0 * (middle - centre))).sum(-1)
    return {"constant": posterior["eta"] * log_shares - 0.5 * t * fixed, "linear": t * offset}


def prepare(prior: Tree, statistics: Tree, evidence: Tree, key: Key, samples: int = 20) -> Tree:
    """All that :func:`answer` needs of a client: the grid's predictives and ``samples`` draws from the same mixture.

    Returns:
        ``{"centre": (M,), "weight": (G,), "points": forms with an axis G, "draws": forms with an axis S}``.
    """
    centre = posterior(prior, statistics)["mean"].mean(0)
    points = form(posterior(scaled(prior, evidence["u"], evidence["v"]), statistics), centre)
    return {"centre": centre, "weight": evidence["weight"], "points": points, "draws": draw(prior, statistics, evidence, centre, key, samples)}


def answer(prepared: Tree, features: Tensor) -> ClassPrediction:
    """The evidence mixture's closed-form probabilities, with the uncertainty of draws from the same mixture.

    The probabilities are closed-form at every support size: averages of sampled probabilities are under-confident where the support is small,
    since the closed form also knows what the query's own features say about the draw.
    """
    d = features - prepared["centre"]
    each = torch.log_softmax(scores(prepared["points"], d), -1)
    return sampled_split(mixture.mix_classes(prepared["weight"], each), torch.softmax(scores(prepared["draws"], d), -1))


def draw(prior: Tree, statistics: Tree, evidence: Tree, centre: Tensor, key: Key, samples: int) -> Tree:
    """``samples`` draws from the evidence mixture, leaves as :func:`sample`'s with an axis S in front.

    Each draw takes a grid point by its weight, then class means and shares from that posterior. Neighbouring draws use opposite noise (antithetic),
    which halves the noise of a split from few samples.
    """
    shape = ((samples + 1) // 2, *prior["mu0"].shape)
    half = random.normal(random.fold(key, "means"), shape, centre.dtype)
    noise = torch.stack([half, -half], 1).flatten(0, 1)[:samples]
    each = posterior(scaled(prior, *mixture.draw(evidence, samples, random.fold(key, "grid"))), statistics)
    shares = torch.func.vmap(log_dirichlet)(random.keys(random.fold(key, "shares"), samples), each["a"])
    return sample(each, centre, noise, shares)


def _hot(memory: Tree, classes: int) -> Tensor:
    """One-hot labels times the rows' weights ``(N, K)``, in the type of the features: zero in padded rows."""
    labels: Tensor = memory["y"].unsqueeze(-1)
    mask: Tensor = memory["mask"].unsqueeze(-1)
    hit = labels == torch.arange(classes, device=labels.device)
    return (hit * mask).to(memory["features"].dtype)


def _log_shares(posterior: Tree) -> Tensor:
    out: Tensor = posterior["eta"] * torch.log(posterior["a"] / posterior["a"].sum(-1, keepdim=True))
    return out


def _log_normal(features: Tensor, mean: Tensor, kappa: Tensor, t: Tensor) -> Tensor:
    return -0.5 * (t * (features - mean) ** 2 / (1.0 + 1.0 / kappa) + torch.log1p(1.0 / kappa))


def _log_density(posterior: Tree, features: Tensor) -> Tensor:
    """The second term of ``l_c``, ``(N, K)``, as matrix products so that nothing of size N K M is built."""
    centre = posterior["mean"].mean(0).detach()  # a common shift: it keeps the squares small and changes no value, hence no gradient
    shifted, mean = features - centre, posterior["mean"] - centre
    weight = posterior["t"] / (1.0 + 1.0 / posterior["kappa"])
    squares: Tensor = (shifted**2) @ weight.T - 2.0 * shifted @ (weight * mean).T + (weight * mean**2).sum(-1)
    return -0.5 * (squares + torch.log1p(1.0 / posterior["kappa"]).sum(-1))


def _observed(log_probs: Tensor, memory: Tree) -> Tensor:
    """Picked by a mask, since ``torch.gather`` under ``vmap`` cannot be traced for any number of rows."""
    seen = _hot(memory, log_probs.shape[-1]) > 0
    return torch.where(seen, log_probs, torch.zeros_like(log_probs)).sum(-1)


def _observed_leave_one_out(prior: Tree, statistics: Tree, memory: Tree) -> Tensor:
    return _observed(leave_one_out(prior, statistics, memory), memory)


def _observed_zero_shot(prior: Tree, memory: Tree) -> Tensor:
    return _observed(zero_shot(prior, memory["features"]), memory)


def _observed_predictive(prior: Tree, statistics: Tree, memory: Tree) -> Tensor:
    return _observed(log_probs(posterior(prior, statistics), memory["features"]), memory)
