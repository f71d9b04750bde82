"""Meta-BayFL as its published code does it: the baseline that this library's strategy is measured against (arXiv 2603.18083).

The dense layers are variational (Blundell et al. 2015, "Weight uncertainty in neural networks", arXiv 1505.05424: ``w = mean + softplus(rho) e``,
one draw a minibatch), convolutions and everything else are point parameters. What is called meta-learning there is a choice of the learning rate:

1. 20 % of the client's examples, at least one, are set aside.
2. For each rate, one epoch of Adam on the rest from the global tensors; the rate with the least loss on the part set aside is chosen.
3. From the global tensors anew, five epochs of Adam at that rate, again on the rest alone.
4. The server takes the plain average of all tensors, ``rho`` among them: every client counts the same, whatever its examples.

A client personalises by steps 1 to 3 on its support.

Where this differs from that code, on purpose: its prior is one mixture of N(0, 1) and N(0, 100) over a layer's whole vector, whose second part
weighs nothing against the first for any trained net, so the prior here is N(0, 1) with its KL in closed form; means start at the
model's own start and deviations at ``initial_sd`` instead of 0 and 0.69; a rate that ends in a loss that is not finite is never chosen; a client's
only example is for training; and the KL is weighted. That code adds it whole to a minibatch's mean loss (``kl_scale="published", kl_weight=1``),
``n`` times what the evidence bound of a client with ``n`` examples has. With some tens of examples against ten thousands of weights either way
ends at the prior: of 100 clients of 20-50 Fashion-MNIST images at 14x14, Dirichlet 0.3, one seed, a held-out client had 16 % right after 100
rounds at the bound's weight, 60 % at 0.1 of it, and after 60 rounds 77 % at 0.01 and 79 % at 0.001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from metabayfl import compression, optimizers, posterior, random, tree
from metabayfl.algorithms.local_training import require
from metabayfl.batches import everything, examples, minibatches, take
from metabayfl.errors import ConfigError, unknown
from metabayfl.losses import mean_loss
from metabayfl.types import Algorithm, Batch, Key, Message, Metrics, Model, Prediction, Task, Tree

KlScale = Literal["elbo", "published"]


class Local(NamedTuple):
    """How a client trains."""

    batch_size: int
    kl_weight: float
    whole_kl: bool  # not divided by the number of examples
    prior_sd: float


def meta_bayfl_published(
    model: Model,
    *,
    client_lrs: Sequence[float] = (1e-2, 1e-3, 1e-4),
    local_epochs: int = 5,
    trial_epochs: int = 1,
    batch_size: int = 32,
    validation_share: float = 0.2,
    kl_weight: float = 1e-3,
    kl_scale: KlScale = "elbo",
    prior_sd: float = 1.0,
    initial_sd: float = 0.05,
    samples: int = 20,
) -> Algorithm:
    """Differs from FedAvg in the variational dense layers, Adam on the client, the choice of its rate and the equal weights.

    Args:
        model: the network; its 2-D ``weight`` leaves and the biases beside them become variational.
        client_lrs: the rates to choose from.
        local_epochs: passes of the training proper.
        trial_epochs: passes before a rate is judged.
        batch_size: examples a local step; 0 takes all at once.
        validation_share: share of the examples that judge the rates, at least one example.
        kl_weight: factor on the KL; 1 is the evidence bound.
        kl_scale: ``elbo``: ``kl_weight KL / n`` beside the mean NLL, with ``n`` the training examples; ``published``: ``kl_weight KL``.
        prior_sd: standard deviation of the prior on variational weights, around 0.
        initial_sd: standard deviation of the first global posterior.
        samples: ``S``, draws of a prediction.

    Returns:
        the algorithm; the meta is ``{"mean": parameters, "rho": of the dense layers}``, a posterior is one of :mod:`metabayfl.posterior`.

    Raises:
        ConfigError: for a number outside its range or an unknown ``kl_scale``.
        ModelError: from ``init``, if the model has no dense layer.
    """
    _check(client_lrs, kl_scale, batch_size=batch_size, local_epochs=local_epochs, trial_epochs=trial_epochs)
    require("samples", samples, least=1)
    require("validation_share", validation_share, above=0, below=1)
    for name, value in {"kl_weight": kl_weight, "prior_sd": prior_sd, "initial_sd": initial_sd}.items():
        require(name, value, above=0)
    how = Local(batch_size, kl_weight, kl_scale == "published", prior_sd)

    def init(key: Key) -> Tree:
        params = model.init(key)
        start = posterior.isotropic(params, posterior.dense_paths(params), initial_sd)
        return {"mean": params, "rho": tree.map(lambda log_sd: torch.log(torch.expm1(torch.exp(log_sd))), start["log_sd"])}

    def local(meta: Tree, batch: Batch, key: Key) -> tuple[Tree, Metrics]:
        practice, held = hold_out(batch, validation_share, random.fold(key, "hold out"))
        rates = torch.tensor(client_lrs, dtype=tree.leaves(meta)[0].dtype, device=batch.mask.device)
        trial = random.fold(key, "trial")
        losses = vmap(lambda rate: _judge(model, train(model, meta, practice, trial, rate, trial_epochs, how)[0], practice, held, trial, how))(rates)
        return train(model, meta, practice, random.fold(key, "train"), pick_rate(rates, losses), local_epochs, how)

    def client(meta: Tree, task: Task, key: Key) -> Message:
        batch = everything(task)
        trained, metrics = local(meta, batch, key)
        return Message(tree.subtract(meta, trained), (examples(batch) > 0).to(batch.mask.dtype), metrics)

    def adapt(meta: Tree, support: Batch, key: Key) -> Tree:
        return as_posterior(local(meta, support, key)[0])

    def predict(adapted: Tree, x: Tensor, key: Key) -> Prediction:
        return posterior.predict(model, adapted, x, key, samples)

    exact = compression.exact()
    begin, server = optimizers.server(optimizers.sgd(1.0))
    return Algorithm("meta_bayfl_published", model, init, begin, client, server, adapt, predict, None, exact, exact)


def _check(rates: Sequence[float], kl_scale: str, **counts: int) -> None:
    if not rates or not all(rate > 0 for rate in rates):
        raise ConfigError(f"client_lrs is {tuple(rates)}, expected at least one rate, each above 0")
    if kl_scale not in get_args(KlScale):
        raise unknown("kl_scale", kl_scale, get_args(KlScale))
    for name, value in counts.items():
        require(name, value, least=0)


def as_posterior(state: Tree) -> Tree:
    """``{"mean", "log_sd"}`` of ``{"mean", "rho"}``: ``sd = softplus(rho)``."""
    return {"mean": state["mean"], "log_sd": tree.map(lambda rho: torch.log(torch.nn.functional.softplus(rho)), state["rho"])}


def hold_out(batch: Batch, share: float, key: Key) -> tuple[Batch, Batch]:
    """Training part and part set aside, by masks: ``max(1, floor(share n))`` of the ``n`` real examples, but never the only one.

    Example:
        >>> ten = Batch(torch.zeros(12, 2), torch.zeros(12), torch.tensor([1.0] * 10 + [0.0] * 2))
        >>> [int(part.mask.sum()) for part in hold_out(ten, 0.2, random.key(0))]
        [8, 2]
    """
    mixed = take(batch, random.permutation(key, batch.mask))
    count = examples(batch)
    aside = torch.minimum(torch.clamp(torch.floor(share * count + 1e-4), min=1.0), count - 1.0)
    held = (torch.arange(len(mixed.mask), device=mixed.mask.device) < aside).to(mixed.mask.dtype)
    return mixed._replace(mask=mixed.mask * (1.0 - held)), mixed._replace(mask=mixed.mask * held)


def pick_rate(rates: Tensor, losses: Tensor) -> Tensor:
    """The rate ``()`` of the least loss; losses that are not finite come last.

    Example:
        >>> pick_rate(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([float("nan"), 2.0, 5.0]))
        tensor(0.2000)
    """
    finite = torch.where(torch.isfinite(losses), losses, math.inf)
    return torch.gather(rates, 0, torch.argmin(finite, keepdim=True)).squeeze(0)


def train(model: Model, state: Tree, batch: Batch, key: Key, rate: Tensor, epochs: int, how: Local) -> tuple[Tree, Metrics]:
    """Adam from ``state``, afresh, on the free energy of minibatches; the metrics hold the NLL that the examples had, averaged over epochs."""
    adam, slope = optimizers.adam(1.0, eps=1e-7), grad_and_value(free_energy, has_aux=True)
    moments, total, count = adam.init(state), torch.zeros((), dtype=rate.dtype, device=rate.device), examples(batch)
    parts = minibatches(batch, how.batch_size, epochs, key)
    for index, part in enumerate(parts):
        length = len(parts) // epochs
        at = random.fold(key, index // length, index % length)  # its place in its epoch: padding lengthens every epoch
        gradient, (_, nll) = slope(state, model, part, count, at, how)
        step, moved = adam.update(gradient, moments)
        real = examples(part) > 0
        state, moments = tree.where(real, tree.step(state, step, rate), state), tree.where(real, moved, moments)
        total = total + nll * examples(part)
    return state, {"loss": total.detach() / max(epochs, 1), "examples": count}


def free_energy(state: Tree, model: Model, part: Batch, count: Tensor, key: Key, how: Local) -> tuple[Tensor, Tensor]:
    """Mean NLL of ``part`` under one draw plus the KL's share; the NLL apart. ``count`` is ``n``, the training examples."""
    q = as_posterior(state)
    prior = {"mean": tree.zeros_like(q["mean"]), "log_sd": tree.map(lambda leaf: torch.full_like(leaf, math.log(how.prior_sd)), q["log_sd"])}
    params = tree.map(lambda leaf: leaf.squeeze(0), posterior.draw(q, random.fold(key, "weights"), 1))
    nll = mean_loss(model.likelihood, model.apply(params, part.x, random.fold(key, "dropout")), part)
    weight = how.kl_weight if how.whole_kl else how.kl_weight / torch.clamp(count, min=1.0)
    return nll + weight * posterior.kl(q, prior), nll


def _judge(model: Model, state: Tree, practice: Batch, held: Batch, key: Key, how: Local) -> Tensor:
    """The loss of a trial on the part set aside, KL included, as the published code has it."""
    return free_energy(state, model, held, examples(practice), random.fold(key, "judge"), how)[0]
