"""Meta-BayFL with a compact strategy: a generated body and a conjugate Bayesian head (after arXiv 2603.18083; the equations are in docs/strategy.md).

The strategy is ``{"z": the generator's numbers, "head": the prior}``. A client grows the body ``theta(z)`` from them and the seed, computes its
features once, and has its posterior in closed form: adapting takes no gradient step. Every sample is support and query at once, since the
leave-one-out predictive is exact::

    L = - mean_j log p(y_j | x_j, D without j) - lambda mean_j log p_0(y_j | x_j)

One backward pass through ``L`` is the exact meta-gradient; the second term, what the strategy predicts without any support, guards against
meta-overfitting where clients hold few classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.algorithms.local_training import require
from metabayfl.batches import everything, examples, take
from metabayfl.compression import CODECS
from metabayfl.errors import unknown
from metabayfl.generators import GENERATORS, Generator
from metabayfl.heads import Head, conjugate_classification, conjugate_regression, evidence, forgetting, remember
from metabayfl.losses import masked_mean
from metabayfl.meta_gradient import Objective, gradient_client
from metabayfl.models.order import channels_last
from metabayfl.optimizers import adam, linear_tail, server
from metabayfl.types import Algorithm, Batch, Key, Metrics, Model, Prediction, Prepared, Task, Tree

GRID = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Factors on each of the prior's two strengths that a client weighs by evidence."""


def meta_bayfl(
    model: Model,
    *,
    generator: str = "mixed",
    rank: int = 2,
    hash_size: int | None = None,
    rounds: int = 300,
    body_lr: float | None = None,
    hash_lr: float = 3e-2,
    head_lr: float = 1e-2,
    beta2: float = 0.99,
    zero_shot_weight: float | None = None,
    samples: int = 20,
    grid_u: Sequence[float] = GRID,
    grid_v: Sequence[float] = GRID,
    prior_strength: float = 1.0,
    prior_dof: float = 9.4,
    tails: bool = True,
    seed: int = 0,
    down: str = "int8",
    up: str = "int8",
) -> Algorithm:
    """A compact strategy from which a client builds a calibrated Bayesian model of its own in milliseconds.

    The features are used as they are, without an activation: a perceptron needs two hidden layers to be more than linear.

    Args:
        model: classification or regression; its dropout is used in training (0.3 to 0.5 before the last dense layer is the best guard against
            meta-overfitting).
        generator: ``full``, ``hashed``, ``separable`` or ``mixed`` (:mod:`metabayfl.generators`).
        rank: terms of the separable product.
        hash_size: numbers of the count sketch; None means 5,000 for ``hashed`` and 2,000 for ``mixed``.
        rounds: length of the training that the rates decay over, linearly in the last 40 %.
        body_lr: server's Adam rate on ``z`` except its sketch; None means 1e-3 for ``full`` and 5e-3 for ``separable`` and ``mixed``.
        hash_lr: server's Adam rate on the sketch.
        head_lr: server's Adam rate on the prior.
        beta2: decay of Adam's second moment; 0.99 forgets the first, large gradients within a few hundred rounds.
        zero_shot_weight: ``lambda``; None means 3 in classification and 0.3 in regression, where a prior predictive is wide by nature.
        samples: ``S`` posterior samples that split the uncertainty (classification).
        grid_u: factors on ``kappa`` (classification) or ``Lambda0`` (regression) in the evidence mixture; ``(1.0,)`` twice switches it off.
        grid_v: factors on ``a`` (classification) or the noise variance (regression).
        prior_strength: ``Lambda0`` before training (regression), in samples; start high where clients hardly differ, since the server's Adam moves
            its logarithm by no more than ``head_lr`` a round.
        prior_dof: degrees of freedom of the noise variance's prior before training, above 2 (regression); start high where clients are alike noisy.
        tails: a client also reads the shape of its noise off its own residuals (regression, :mod:`metabayfl.heads.tails`).
        seed: of the body's start and the generator's constants; part of the strategy.
        down: codec of the strategy (:data:`metabayfl.compression.CODECS`).
        up: codec of the updates.

    Raises:
        ConfigError: for an unknown generator or codec, or a number out of range.
        ModelError: if ``model.dense`` does not fit the body.
    """
    require("rounds", rounds, least=1)
    require("samples", samples, least=1)
    zero_shot_weight = zero_shot_weight if zero_shot_weight is not None else 3.0 if model.kind == "classification" else 0.3
    require("zero_shot_weight", zero_shot_weight, least=0)
    require("beta2", beta2, least=0, below=1)
    for name, rate in {"head_lr": head_lr, "hash_lr": hash_lr, "body_lr": 1.0 if body_lr is None else body_lr}.items():
        require(name, rate, above=0)
    for name, factors in {"grid_u": grid_u, "grid_v": grid_v}.items():
        require(f"the least of {name}", min(factors, default=0.0), above=0)
    body = _generator(model, generator, rank, hash_size, seed)
    require("prior_strength", prior_strength, above=0)
    require("prior_dof", prior_dof, above=2)
    if model.kind == "regression":
        head = conjugate_regression(model.outputs, model.width, strength=prior_strength, dof=prior_dof, shaped=tails)
    else:
        head = conjugate_classification(model.outputs, model.width, samples)
    rates = _rates(body, body_lr, hash_lr, head_lr)
    begin, step = server(adam(rates, b2=beta2, schedule=linear_tail(rounds)))
    objective = _objective(model, body, head, zero_shot_weight)

    def init(key: Key) -> Tree:
        return {"z": body.init(random.fold(key, "z")), "head": head.init(random.fold(key, "head"))}

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        grown = body.body(meta["z"])
        memory = _memory(model, grown, support, None)
        return _posterior(head, grown, meta["head"], memory, evidence.grid(grid_u, grid_v, memory["features"]))

    def answer(prepared: Tree, x: Tensor) -> Prediction:
        return head.answer(prepared["head"], model.features(prepared["body"], x, None))

    def prepare(posterior: Tree, key: Key) -> Prepared:
        ready = head.prepare(posterior["prior"], posterior["statistics"], posterior["evidence"], key)
        return Prepared({"body": channels_last(posterior["body"]), "head": ready}, answer)

    def predict(posterior: Tree, x: Tensor, key: Key) -> Prediction:
        return answer(prepare(posterior, key).constants, x)

    client, codecs = gradient_client(objective), (_codec(down), _codec(up))
    more, fewer, fading = partial(update, model, head), partial(subset, head), partial(forget, model, head)
    parts = (init, begin, client, step, adapt, predict, objective)
    return Algorithm("meta_bayfl", model, *parts, *codecs, update=more, prepare=prepare, subset=fewer, forget=fading)


def update(model: Model, head: Head, posterior: Tree, batch: Batch) -> Tree:
    """The posterior after more samples, exactly as if it had been fitted on all of them at once.

    The new samples' features join the memory, the sufficient statistics add up, and the evidence is weighed anew. Nothing else is needed: neither
    the strategy nor the old inputs.

    Args:
        model: the algorithm's model.
        head: the algorithm's head.
        posterior: from ``adapt`` or an earlier update.
        batch: new samples ``(N, ...)``.
    """
    new = _memory(model, posterior["body"], batch, None)
    memory = tree.map(lambda old, more: torch.cat([old, more]), posterior["memory"], new)
    statistics = tree.add(posterior["statistics"], head.statistics(new))
    weighed = _weighed(head, posterior["prior"], statistics, memory, posterior["evidence"])
    return {**_lasting(posterior), "memory": memory, "statistics": statistics, "evidence": weighed}


def forget(model: Model, head: Head, posterior: Tree, batch: Batch, retentions: Sequence[float]) -> Tree:
    """The posterior after more samples, in which the past fades at the rate of ``retentions`` that predicted the stream best, exactly.

    A sample that ``a`` others have followed has the weight ``lambda^a``: the result is that of ``adapt`` with these weights as the mask. The scores
    of the retentions go on from where they were, ``posterior["stream"]``; with other retentions than before they begin anew on the whole memory.

    Args:
        model: the algorithm's model.
        head: the algorithm's head.
        posterior: from ``adapt``, ``update`` or an earlier ``forget``.
        batch: new samples ``(N, ...)`` in their order, ``N >= 0``.
        retentions: the grid of ``lambda``, each above 0 and at most 1; a single one is taken as it is.
    """
    past, new = posterior["memory"], _memory(model, posterior["body"], batch, None)
    memory = tree.map(lambda old, more: torch.cat([old, more]), past, new)
    prior, points, grid = posterior["prior"], posterior["evidence"], torch.tensor(retentions, dtype=memory["features"].dtype)
    state = posterior.get("stream")
    if state is None or not torch.equal(state["retention"], grid):
        state, new = forgetting.begin(head, points, memory, grid), memory
    state = forgetting.run(head, prior, points, state, new)
    faded = {**memory, "mask": forgetting.weights(memory["mask"] > 0, forgetting.best(state))}
    return {**_posterior(head, posterior["body"], prior, faded, points), "stream": state}


def _lasting(posterior: Tree) -> Tree:
    """The posterior without the scores of a stream, which would not know of samples that are not in it."""
    return {name: part for name, part in posterior.items() if name != "stream"}


def subset(head: Head, posterior: Tree, mask: Tensor) -> Tree:
    """The posterior of some of its samples alone, exactly as if it had been fitted on them: features are not computed anew.

    Args:
        head: the algorithm's head.
        posterior: from ``adapt`` or :func:`update`, on ``N`` samples.
        mask: ``(N,)``, 1 for a sample that stays; of padding it says 0.
    """
    memory = remember(posterior["memory"]["features"], posterior["memory"]["y"], mask)
    points = {name: posterior["evidence"][name] for name in ("u", "v")}
    return _posterior(head, posterior["body"], posterior["prior"], memory, points)


def _posterior(head: Head, body: Tree, prior: Tree, memory: Tree, points: Tree) -> Tree:
    """All that predictions and later updates need: ``predict`` and :func:`update` see nothing else."""
    statistics = head.statistics(memory)
    weighed = _weighed(head, prior, statistics, memory, points)
    return {"body": body, "prior": prior, "memory": memory, "statistics": statistics, "evidence": weighed}


def _weighed(head: Head, prior: Tree, statistics: Tree, memory: Tree, points: Tree) -> Tree:
    found = evidence.weigh(head, prior, statistics, memory, points)
    return {**found, "tails": head.tails(prior, statistics, memory, found)} if head.tails else found


def _memory(model: Model, body: Tree, batch: Batch, key: Key | None) -> Tree:
    """Features of the real examples. Padding is emptied first: an infinite activation would spoil the weights' gradient even under a mask."""
    real = (batch.mask > 0).view(-1, *[1] * (batch.x.ndim - 1))
    return remember(model.features(channels_last(body), torch.where(real, batch.x, torch.zeros_like(batch.x)), key), batch.y, batch.mask)


def _real_first(batch: Batch) -> Batch:
    """Dropout goes by position in the batch: real examples stand first, so that padding between support and query moves nothing."""
    return take(batch, torch.argsort(batch.mask, descending=True, stable=True))


def _objective(model: Model, generator: Generator, head: Head, zero_shot_weight: float) -> Objective:
    def objective(meta: Tree, task: Task, key: Key) -> tuple[Tensor, Metrics]:
        memory = _memory(model, generator.body(meta["z"]), _real_first(everything(task)), random.fold(key, "dropout"))
        left_out = head.leave_one_out(meta["head"], head.statistics(memory), memory)
        loss = -masked_mean(left_out, memory["mask"])
        metrics = {"loss": -left_out.sum().detach(), "examples": examples(everything(task))}
        if zero_shot_weight == 0:
            return loss, metrics
        zero_shot = head.zero_shot(meta["head"], memory)
        return loss - zero_shot_weight * masked_mean(zero_shot, memory["mask"]), {**metrics, "zero_shot": -zero_shot.sum().detach()}

    return objective


def _generator(model: Model, name: str, rank: int, hash_size: int | None, seed: int) -> Generator:
    if name not in GENERATORS:
        raise unknown("generator", name, GENERATORS)
    options: dict[str, Any] = {"rank": rank} if name in ("separable", "mixed") else {}
    if hash_size is not None and name in ("hashed", "mixed"):
        options["size"] = hash_size
    return GENERATORS[name](model, seed=seed, **options)


def _rates(generator: Generator, body_lr: float | None, hash_lr: float, head_lr: float) -> dict[str, Any]:
    """One Adam rate per block of the strategy."""
    blocks = generator.init(random.key(0))
    own = {name: 1e-3 if name == "full" else 5e-3 for name in blocks} if body_lr is None else dict.fromkeys(blocks, body_lr)
    return {"z": {**own, **({"hash": hash_lr} if "hash" in blocks else {})}, "head": head_lr}


def _codec(name: str) -> Any:
    if name not in CODECS:
        raise unknown("codec", name, CODECS)
    return CODECS[name]()
