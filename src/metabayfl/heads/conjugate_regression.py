"""The conjugate regression head: a Bayesian linear head with a matrix-normal inverse-Wishart prior that the strategy learns.

One client's model, with ``phi`` the features and a constant 1, ``P = M + 1`` of them::

    y = K' phi + noise    noise ~ N(0, Sigma)    K | Sigma ~ MN(K0, Lambda0^-1, Sigma)    Sigma ~ IW

Posterior: ``Lambda = Lambda0 + Phi'Phi``, ``K = Lambda^-1 (Phi'Y + Lambda0 K0)``, the scale matrix grows by the residual scatter and the degrees
of freedom by ``n``: no gradient step. The predictive of each target is a Student-t with mean ``K' phi``; its variance is
``E[Sigma_rr] (1 + phi' Lambda^-1 phi)``, of which ``E[Sigma_rr]`` is aleatoric and the rest epistemic.

The prior is compact. ``Lambda0 = diag(exp(log_lambda)) + U U'`` with few columns ``U``. The inverse Wishart's scale is diagonal, since one target's
predictive does not see the other targets' entries. Its degrees of freedom are written as those of a target's Student-t, ``2 + exp(log_dof)``, so
that every variance is finite.

The normal equations square the features' condition number: sums and solutions are in float64, answers in the features' type.

References:
    Gelman et al., "Bayesian Data Analysis", 3rd ed., section 3.6 and chapter 14. Harrison, Sharma, Pavone 2018, "Meta-learning priors for efficient
    online Bayesian regression" (ALPaCA), arXiv 1807.08912, equations 4 to 6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metabayfl import random
from metabayfl.heads import evidence as mixture
from metabayfl.heads import tails
from metabayfl.heads.head import Head
from metabayfl.losses import student_t_log_density
from metabayfl.types import Key, RegressionPrediction, Tree


def conjugate_regression(targets: int, width: int, rank: int = 1, strength: float = 1.0, dof: float = 9.4, shaped: bool = False) -> Head:
    """The head for ``targets`` (R) targets over ``width`` (M) features.

    Args:
        targets: number of targets.
        width: number of features.
        rank: columns of ``U``.
        strength: diagonal of ``Lambda0`` before training, in samples: how many with a feature of 1 weigh as much as the prior.
        dof: degrees of freedom of a target's Student-t before training, above 2: how many samples the prior's noise variance weighs.
        shaped: whether clients weigh their tails (:mod:`metabayfl.heads.tails`).
    """
    return Head(
        init=lambda key: init(targets, width, rank, key, strength, dof),
        scaled=scaled,
        statistics=statistics,
        leave_one_out=_observed_leave_one_out,
        zero_shot=_observed_zero_shot,
        log_predictive=_observed_predictive,
        prepare=prepare,
        answer=answer,
        tails=_tails if shaped else None,
    )


def init(targets: int, width: int, rank: int, key: Key, strength: float = 1.0, dof: float = 9.4) -> Tree:
    """The prior before training: ``K0 = 0``, ``Lambda0`` close to ``strength`` times the identity, noise variance 1/e of the targets'.

    ``U`` starts small and random: at ``U = 0`` the gradient of ``U U'`` vanishes.
    """
    prior = {
        "K0": torch.zeros(width + 1, targets),
        "log_lambda": torch.full((width + 1,), math.log(strength)),
        "log_noise": torch.full((targets,), -1.0),
        "log_dof": torch.tensor(math.log(dof - 2.0)),
    }
    return {**prior, "U": 0.1 * random.normal(key, (width + 1, rank))} if rank else prior


def scaled(prior: Tree, u: Tensor, v: Tensor) -> Tree:
    """The prior with ``Lambda0 u`` and ``v`` times the noise variance."""
    out = {**prior, "log_lambda": prior["log_lambda"] + torch.log(u), "log_noise": prior["log_noise"] + torch.log(v)}
    return {**out, "U": prior["U"] * torch.sqrt(u)} if "U" in prior else out


def precision(prior: Tree) -> Tensor:
    """``Lambda0``, ``(P, P)``, float64."""
    low = prior["U"].double() if "U" in prior else None
    diagonal = torch.diag(torch.exp(prior["log_lambda"].double()))
    return diagonal if low is None else diagonal + low @ low.T


def statistics(memory: Tree) -> Tree:
    """``{"gram": Phi'Phi (P, P), "cross": Phi'Y (P, R), "square": Y'Y (R, R), "count": n ()}``, float64; a row counts as its weight says."""
    weight = memory["mask"].double()
    design, y = _design(memory["features"], torch.sqrt(weight)), memory["y"].double() * torch.sqrt(weight).unsqueeze(-1)
    return {"gram": design.T @ design, "cross": design.T @ y, "square": y.T @ y, "count": weight.sum()}


def no_data(prior: Tree) -> Tree:
    """The statistics of nobody."""
    rows, targets = prior["K0"].shape
    shapes: dict[str, tuple[int, ...]] = {"gram": (rows, rows), "cross": (rows, targets), "square": (targets, targets), "count": ()}
    return {name: torch.zeros(shape, dtype=torch.float64, device=prior["K0"].device) for name, shape in shapes.items()}


def posterior(prior: Tree, statistics: Tree) -> Tree:
    """``{"mean": K (P, R), "cholesky": of Lambda (P, P), "scatter": scale matrix (R, R), "dof": ()}``, float64.

    ``dof`` is that of each target's Student-t: the inverse Wishart's, less ``R - 1``.
    """
    start, gram, cross = prior["K0"].double(), statistics["gram"], statistics["cross"]
    dof = 2.0 + torch.exp(prior["log_dof"].double())
    cholesky = torch.linalg.cholesky(precision(prior) + gram)
    surprise = cross - gram @ start  # Phi'(Y - Phi K0)
    step = torch.cholesky_solve(surprise, cholesky)
    misfit = statistics["square"] - start.T @ cross - cross.T @ start + start.T @ gram @ start  # (Y - Phi K0)'(Y - Phi K0)
    scatter = torch.diag(dof * torch.exp(prior["log_noise"].double())) + misfit - surprise.T @ step
    return {"mean": start + step, "cholesky": cholesky, "scatter": scatter, "dof": dof + statistics["count"]}


def predictive(posterior: Tree, features: Tensor) -> RegressionPrediction:
    """The marginal Student-t of every target at ``features`` ``(N, M)``, float64."""
    design = _design(features, torch.ones_like(features[:, 0]))
    return _student(design @ posterior["mean"], leverage(posterior, design), posterior["scatter"].diagonal(), posterior["dof"])


def leverage(posterior: Tree, design: Tensor) -> Tensor:
    """``phi' Lambda^-1 phi`` of each row of ``(N, P)``, shape ``(N, 1)``."""
    squares: Tensor = (design @ _root(posterior["cholesky"]).mT) ** 2
    return squares.sum(-1, keepdim=True)


def leave_one_out(prior: Tree, statistics: Tree, memory: Tree) -> RegressionPrediction:
    """What the posterior without sample ``i`` predicts at ``i``, for all ``i`` at once, from one factorisation (the hat matrix), float64.

    With ``w`` the weight of a row, ``h`` its leverage ``w phi' Lambda^-1 phi`` and ``e`` its residual: mean ``y - e/(1 - h)``, scale matrix less
    ``w e e'/(1 - h)``, ``w`` degrees of freedom less, and ``1 + w phi' Lambda_-i^-1 phi = 1/(1 - h)``.
    """
    real = memory["mask"] > 0
    design, y = _design(memory["features"], real), memory["y"].double()
    weight = torch.where(real, memory["mask"].double(), 1.0).unsqueeze(-1)  # of padding, whose values have no meaning: 1, so that they are finite
    whole = posterior(prior, statistics)
    keep = 1.0 - weight * leverage(whole, design)
    error = y - design @ whole["mean"]
    scatter = whole["scatter"].diagonal() - weight * error**2 / keep
    return _student(y - error / keep, (1.0 / keep - 1.0) / weight, scatter, whole["dof"] - weight)


def zero_shot(prior: Tree, features: Tensor) -> RegressionPrediction:
    """What the prior predicts."""
    return predictive(posterior(prior, no_data(prior)), features)


def prepare(prior: Tree, statistics: Tree, evidence: Tree, key: Key) -> Tree:
    """The grid's posteriors, the inverse of their Cholesky factors as ``root``, their weights, and the client's tails if it weighed them.

    Nothing is drawn.
    """
    points = mixture.over(evidence, lambda u, v: _rooted(posterior(scaled(prior, u, v), statistics)))
    shape = {"tails": evidence["tails"]} if "tails" in evidence else {}
    return {"weight": evidence["weight"].double(), "points": points, "count": statistics["count"], **shape}


def answer(prepared: Tree, features: Tensor) -> RegressionPrediction:
    """The evidence mixture as one Student-t per target, in the type of ``features``."""
    design = _design(features, torch.ones_like(features[:, 0]))
    points = prepared["points"]
    uncertainty = ((design @ points["root"].mT) ** 2).sum(-1, keepdim=True)  # phi' Lambda^-1 phi, (G, N, 1)
    scatter = points["scatter"].diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    each = _student(design @ points["mean"], uncertainty, scatter, points["dof"].view(-1, 1, 1))
    mixed = mixture.mix_students(prepared["weight"], each)
    if "tails" in prepared:
        mixed = tails.reshape(mixed, prepared["tails"], prepared["count"])
    return RegressionPrediction(*(field.to(features.dtype) for field in mixed))


def _tails(prior: Tree, statistics: Tree, memory: Tree, evidence: Tree) -> Tree:
    """From the mixture's leave-one-out predictives; the mixture's weights are those of all the samples."""
    each = mixture.over(evidence, lambda u, v: leave_one_out(scaled(prior, u, v), statistics, memory))
    return tails.weigh(mixture.mix_students(evidence["weight"].double(), each), memory["y"].double(), memory["mask"])


def _rooted(posterior: Tree) -> Tree:
    """With the root in place of the Cholesky factor: a product answers faster than a solve."""
    return {"mean": posterior["mean"], "root": _root(posterior["cholesky"]), "scatter": posterior["scatter"], "dof": posterior["dof"]}


def _root(cholesky: Tensor) -> Tensor:
    """``L^-1``, from which ``phi' Lambda^-1 phi`` is the square of a product; solves for each row cannot be traced for any number of rows."""
    identity = torch.eye(cholesky.shape[-1], dtype=cholesky.dtype, device=cholesky.device)
    return torch.linalg.solve_triangular(cholesky, identity, upper=False)


def _design(features: Tensor, mask: Tensor) -> Tensor:
    """Features and the constant, float64, times ``mask``: zero in padded rows."""
    return torch.nn.functional.pad(features, (0, 1), value=1.0).double() * mask.double().unsqueeze(-1)


def _student(mean: Tensor, leverage: Tensor, scatter: Tensor, dof: Tensor) -> RegressionPrediction:
    """From ``phi' Lambda^-1 phi`` ``(N, 1)`` and the scale matrix's diagonal, ``(R,)`` or one per row ``(N, R)``."""
    scale = torch.sqrt(scatter / dof * (1.0 + leverage))
    aleatoric = scatter / (dof - 2.0) * torch.ones_like(leverage)
    epistemic = aleatoric * leverage
    return RegressionPrediction(mean, scale, dof.expand_as(mean), aleatoric + epistemic, aleatoric, epistemic)


def _observed(prediction: RegressionPrediction, memory: Tree) -> Tensor:
    density = student_t_log_density(memory["y"].double(), prediction).sum(-1).to(memory["features"].dtype)
    return torch.where(memory["mask"] > 0, density, torch.zeros_like(density))


def _observed_leave_one_out(prior: Tree, statistics: Tree, memory: Tree) -> Tensor:
    return _observed(leave_one_out(prior, statistics, memory), memory)


def _observed_zero_shot(prior: Tree, memory: Tree) -> Tensor:
    return _observed(zero_shot(prior, memory["features"]), memory)


def _observed_predictive(prior: Tree, statistics: Tree, memory: Tree) -> Tensor:
    return _observed(predictive(posterior(prior, statistics), memory["features"]), memory)
