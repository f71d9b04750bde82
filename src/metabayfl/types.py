"""The vocabulary of the whole library: what goes into an algorithm and what comes out of it.

Everything here is a ``NamedTuple`` of tensors or of pure functions, so that ``torch.func`` transforms carry it and nothing is subclassed.

Shape letters, used everywhere: ``C`` clients in the cohort, ``N`` examples (padded), ``K`` classes, ``M`` features, ``S`` posterior samples,
``T`` inner steps (the papers' nu), ``P`` parameters, ``D`` strategy dimension, ``B`` calibration bins, ``R`` regression targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

Tree: TypeAlias = dict[str, Any]
"""A nested ``dict`` whose leaves are tensors (see :mod:`metabayfl.tree`)."""

Key: TypeAlias = Tensor
"""A random key: one int64 number, shape ``()`` (see :mod:`metabayfl.random`)."""

Metrics: TypeAlias = dict[str, Tensor]
"""Sums over examples and the weights to divide them by, so that the metrics of several clients add up."""

Kind: TypeAlias = Literal["classification", "regression"]


class Batch(NamedTuple):
    """Examples of one client, padded. A padded example's value changes nothing: every mean is ``sum(l * mask) / sum(mask)``."""

    x: Tensor  # (N, ...) inputs
    y: Tensor  # (N,) int64 classes, or (N, R) real targets
    mask: Tensor  # (N,) 1.0 for a real example, 0.0 for padding; conjugate heads also take weights


class Task(NamedTuple):
    """One client's data in one round. Methods that need no split use both parts (:func:`metabayfl.batches.everything`)."""

    support: Batch
    query: Batch


class Message(NamedTuple):
    """What a client sends back. ``update`` is a pseudo-gradient (server minus client, or a meta-gradient): servers descend along it."""

    update: Tree
    weight: Tensor  # () number of examples the update speaks for
    metrics: Metrics


class Aggregate(NamedTuple):
    """What the server sees: one summed thing, never a client."""

    update: Tree  # the combined update, a weighted mean unless a robust combine was chosen
    weight: Tensor  # () sum of the weights
    metrics: Metrics  # sums over the cohort


class Guard(NamedTuple):
    """A step on the way of the messages, its two halves together: one on each message before it is summed, one on the cohort's aggregate.

    ``client`` runs on the client where secure aggregation hides its message from the server, else on arrival, where no hostile client can leave
    it out. Several guards run in order on messages and in reverse on the aggregate.
    """

    name: str
    begin: Callable[[Tree], Tree]  # the strategy -> the guard's state, ``{}`` where it has none
    client: Callable[[Tree, Message, Key], Message]  # state, message as decoded, the client's key of this round; pure and vmappable
    server: Callable[[Tree, Aggregate, Key], tuple[Tree, Aggregate]]  # state, aggregate, the round's key -> new state, aggregate


class ServerState(NamedTuple):
    """All that the server carries from round to round."""

    meta: Tree
    optimizer: Tree


class ClassPrediction(NamedTuple):
    """Class probabilities and their uncertainty in nats; ``total = aleatoric + epistemic``."""

    probs: Tensor  # (N, K)
    total: Tensor  # (N,) entropy of the mean prediction
    aleatoric: Tensor  # (N,) mean entropy of the posterior's predictions
    epistemic: Tensor  # (N,) their difference: the mutual information


class RegressionPrediction(NamedTuple):
    """A Student-t predictive per target (``dof = inf`` is a Gaussian); uncertainties are variances, ``total = aleatoric + epistemic``."""

    mean: Tensor  # (N, R)
    scale: Tensor  # (N, R) scale of the Student-t (its standard deviation where dof = inf)
    dof: Tensor  # (N, R) degrees of freedom
    total: Tensor  # (N, R)
    aleatoric: Tensor  # (N, R)
    epistemic: Tensor  # (N, R)


Prediction: TypeAlias = ClassPrediction | RegressionPrediction


class Likelihood(NamedTuple):
    """How raw model outputs become a loss and a prediction (:mod:`metabayfl.losses`)."""

    kind: Kind
    loss: Callable[[Tensor, Tensor], Tensor]  # outputs (N, O), y -> (N,) negative log likelihoods in nats
    predict: Callable[[Tensor], Prediction]  # outputs (N, O) -> a prediction without epistemic part
    predict_samples: Callable[[Tensor], Prediction]  # outputs (S, N, O) of S posterior samples -> the split prediction


class DenseLayer(NamedTuple):
    """Where a body's widest dense layer stands, for the generators that treat it apart: its weight is ``(M, channels * space)``."""

    name: str  # the layer's key in the body tree; its tensors are ``weight`` and ``bias``
    channels: int  # channels of the flattened input
    space: int  # positions per channel (1 for a body without convolutions)


class Model(NamedTuple):
    """A network as pure functions. Parameters are ``{"body": Tree, "head": Tree}``; the head is linear, on ``relu(features)`` or on the features."""

    name: str
    kind: Kind
    outputs: int  # K classes or R targets
    width: int  # M, number of features
    init: Callable[[Key], Tree]  # parameters from a key
    features: Callable[[Tree, Tensor, Key | None], Tensor]  # body tree, x (N, ...), key -> (N, M), no final activation
    apply: Callable[[Tree, Tensor, Key | None], Tensor]  # parameters, x, key -> (N, O); key None switches dropout off
    dense: DenseLayer | None  # None where the body has no dense layer
    likelihood: Likelihood
    head: Callable[[Tree, Tensor], Tensor]  # head tree, features (N, M) -> (N, O): what ``apply`` puts on the features
    stacks: bool = False  # whether ``apply`` also takes clients side by side, every argument with an axis C in front: faster than ``vmap(apply)``


class Codec(NamedTuple):
    """How a tree travels: lossy rounding as the receiver sees it, and the bytes that it takes (:mod:`metabayfl.compression`)."""

    name: str
    round_trip: Callable[[Tree, Key | None], Tree]  # what the receiver decodes; pure and vmappable; a key where rounding is stochastic
    encode: Callable[[Tree, Key | None], bytes]
    decode: Callable[[bytes, Tree], Tree]  # the second argument is a template: structure, shapes and dtypes are checked against it


class Prepared(NamedTuple):
    """A posterior made ready to answer many times: what does not depend on the inputs is computed, and drawn, once."""

    constants: Tree
    answer: Callable[[Tree, Tensor], Prediction]  # the constants, x (N, ...): pure, without randomness


class Algorithm(NamedTuple):
    """A federated method as pure functions; builders are in :data:`metabayfl.algorithms.ALGORITHMS`.

    Where the update is the gradient of a client objective, ``objective`` holds it: the engine may then take one backward pass for the whole
    cohort, and ``client`` must give exactly that gradient.
    """

    name: str
    model: Model
    init: Callable[[Key], Tree]  # the strategy's numbers
    begin: Callable[[Tree], ServerState]  # the server's state before the first round
    client: Callable[[Tree, Task, Key], Message]  # pure, vmappable; the same function runs on a device
    server: Callable[[ServerState, Aggregate], ServerState]
    adapt: Callable[[Tree, Batch, Key], Tree]  # meta, support -> the personal posterior
    predict: Callable[[Tree, Tensor, Key], Prediction]  # posterior, x (N, ...)
    objective: Callable[[Tree, Task, Key], tuple[Tensor, Metrics]] | None  # mean loss () and metrics
    down: Codec  # how the strategy travels to clients
    up: Codec  # how updates travel back
    federated: bool = True  # False: nothing is communicated, no round is run (local only)
    update: Callable[[Tree, Batch], Tree] | None = None  # posterior, more samples -> the posterior of all, exactly; None: adapt again
    clients: Callable[[Tree, Task, Tensor], Message] | None = None  # ``vmap(client)`` over stacked tasks and keys (C,), where it can be had faster
    prepare: Callable[[Tree, Key], Prepared] | None = None  # posterior, key: answers as ``predict`` does; None: nothing is gained
    subset: Callable[[Tree, Tensor], Tree] | None = None  # posterior, mask (N,) of its samples -> that of those alone, exactly; None: adapt again
    forget: Callable[[Tree, Batch, Sequence[float]], Tree] | None = None  # as update, the past faded; see ``meta_bayfl.forget``; None: cannot
