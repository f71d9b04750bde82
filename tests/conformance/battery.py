"""Every algorithm of the registry on the small problems of :mod:`scenarios`, built once: what the conformance tests share.

A new algorithm is tested by being in the registry; nothing is to be added here.
"""

from __future__ import annotations

import functools
import inspect
from typing import NamedTuple

import torch

from metabayfl import random, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.errors import ModelError
from metabayfl.types import Algorithm, Batch, Message, Task, Tree
from scenarios import client, client_keys, clients, double, small_model

KINDS = ("classification", "regression")


QUICK = {"adapt_steps": 3, "local_epochs": 2, "samples": 5}
"""Hyper-parameters that cost time and let rounding errors grow, for the builders that have them."""


class Case(NamedTuple):
    """One algorithm on one kind of problem."""

    algorithm: Algorithm
    meta: Tree  # float64, as the server holds it before the first round
    tasks: Task  # (C, N, ...) ragged clients
    keys: torch.Tensor  # (C,)


def build(name: str, kind: str) -> Algorithm:
    known = inspect.signature(ALGORITHMS[name]).parameters
    return ALGORITHMS[name](small_model(kind), **{key: value for key, value in QUICK.items() if key in known})


def supports(name: str, kind: str) -> bool:
    """Whether the builder takes that kind of model: refusing it with a ModelError is the only other thing that it may do."""
    try:
        build(name, kind)
    except ModelError:
        return False
    return True


CASES = [(name, kind) for name in sorted(ALGORITHMS) for kind in KINDS if supports(name, kind)]
"""Names and kinds to parametrise over."""

FEDERATED = [(name, kind) for name, kind in CASES if build(name, kind).federated]
OBJECTIVES = [(name, kind) for name, kind in CASES if build(name, kind).objective is not None]


@functools.cache
def case(name: str, kind: str) -> Case:
    algorithm = build(name, kind)
    tasks = clients(kind)
    return Case(algorithm, double(algorithm.init(random.key(0))), tasks, client_keys(len(tasks.support.mask)))


@functools.cache
def messages(name: str, kind: str) -> Message:
    """All clients' messages in one vectorised call, stacked along ``C``."""
    one = case(name, kind)
    return vectorised(one, one.tasks)


def vectorised(one: Case, tasks: Task) -> Message:
    return torch.func.vmap(one.algorithm.client, in_dims=(None, 0, 0))(one.meta, tasks, one.keys)


def single(one: Case, task: Task, row: int) -> Message:
    return one.algorithm.client(one.meta, task, one.keys[row])


def adapted(one: Case, support: Batch, row: int) -> Tree:
    return one.algorithm.adapt(one.meta, support, one.keys[row])


@functools.cache
def posterior(name: str, kind: str) -> Tree:
    """The first client's personal posterior."""
    one = case(name, kind)
    return adapted(one, client(one.tasks, 0).support, 0)


def row_of(message: Message, row: int) -> Message:
    """Client ``row`` of stacked messages."""
    metrics = {name: value[row] for name, value in message.metrics.items()}
    return Message(tree.map(lambda leaf: leaf[row], message.update), message.weight[row], metrics)


def assert_close(left: Tree | tuple, right: Tree | tuple, tolerance: float = 1e-10) -> None:
    """Trees, messages or predictions of one structure that agree to ``tolerance``, relative and absolute."""
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def assert_finite(value: Tree) -> None:
    for path, leaf in tree.flatten(value).items():
        assert torch.isfinite(leaf).all(), f"{path} is not finite"
