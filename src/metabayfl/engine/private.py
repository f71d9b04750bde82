"""Client-level privacy in the engine: the plan that follows from a run's options, the guard, secret cohorts, and the ledger that lets rounds run."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metabayfl import random, tree
from metabayfl.aggregators import fixed_mean
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.pipeline import Pipeline
from metabayfl.engine.population import Turnout
from metabayfl.engine.secure import Noise, Secure
from metabayfl.errors import ArtifactError, PrivacyError
from metabayfl.privacy import client_level, ledger, options, words
from metabayfl.privacy.accounting import Plan
from metabayfl.privacy.clipping import sensitivity
from metabayfl.privacy.options import PrivacyOptions
from metabayfl.types import Key, Tree

Permit = Callable[[int], bool]
"""Round number, from 0 -> whether it may run; whoever asks and hears yes has paid."""

SAMPLERS = {"poisson": "poisson", "fixed": "uniform"}
"""How the engine draws the cohorts that an account assumes."""


def sampler(train: TrainOptions) -> str:
    """The name of the run's sampler: the account's where there is one."""
    return train.sampler if train.privacy is None else SAMPLERS[train.privacy.sampling]


def cohort_generator(train: TrainOptions, seed: int, number: int) -> np.random.Generator:
    """What round ``number`` draws its cohort with: the seed, or secret bits where noise is secret too.

    Sampling makes a round cheaper only for clients of whom nobody knows whether they were drawn.
    """
    secret = train.privacy is not None and train.privacy.source == "secure"
    return np.random.default_rng(secrets.randbits(128) if secret else [seed, number])


def plan(train: TrainOptions, clients: int, meta: Tree) -> Plan:
    """The privacy plan of a run.

    Args:
        train: with ``privacy``.
        clients: training clients.
        meta: the strategy, for its size.

    Raises:
        PrivacyError: if the options ask for no privacy.
    """
    if train.privacy is None:
        raise PrivacyError("the options ask for no privacy: add a table [train.privacy]")
    cohort = min(train.cohort, clients)
    return options.plan(train.privacy, clients=clients, cohort=cohort, sampling=train.privacy.sampling, rounds=train.rounds, numbers=tree.size(meta))


def told(train: TrainOptions, turnout: Turnout) -> Turnout:
    """What may be said about who took part: under privacy, how many came is as private as who."""
    return turnout if train.privacy is None else turnout._replace(clients=train.cohort, sampled=train.cohort, lost=0)


def begin(train: TrainOptions) -> Tree:
    """The guard's state before the first round, under its name; ``{}`` without privacy."""
    return {} if train.privacy is None else {client_level.NAME: client_level.start(train.privacy)}


def guarded(steps: Pipeline, train: TrainOptions, clients: int, meta: Tree) -> Pipeline:
    """The pipeline with the guard and a mean that divides by the planned cohort, where the options ask for privacy."""
    if train.privacy is None:
        return steps
    agreed = plan(train, clients, meta)
    shared = steps.secure is not None and agreed.grid is not None
    guard = client_level.client_level(train.privacy, agreed, "clients" if shared else "server")
    secured = None if steps.secure is None else _secured(steps.secure, train.privacy, agreed)
    return steps._replace(combine=fixed_mean(agreed.cohort), guards=(*steps.guards, guard), secure=secured)


def _secured(secure: Secure, wanted: PrivacyOptions, agreed: Plan) -> Secure:
    """Secure aggregation whose range is the clipping bound; with a discrete mechanism every client adds its share of the noise."""
    bounded = secure._replace(clip=sensitivity(wanted.clip))
    if agreed.grid is None:
        return bounded._replace(exact=True)

    def share(key: Key) -> NDArray[np.int64]:
        source = words.secure() if wanted.source == "secure" else words.seeded(random.fold(key, "privacy", "share"))
        return client_level.noise_share(wanted, agreed, source)

    return bounded._replace(noise=Noise(options.granularity(wanted), share, client_level.headroom(agreed)))


def checkpoint_every(train: TrainOptions) -> int:
    """Rounds between two checkpoints: one where a repeated round would cost anew."""
    return train.checkpoint_every if train.privacy is None else ledger.checkpoint_every(train.privacy.source, train.checkpoint_every)


def always(number: int) -> bool:
    """The permit of a run without a ledger."""
    return True


def permit(directory: Path, train: TrainOptions, clients: int, meta: Tree, identity: str, *, done: int) -> Permit:
    """A permit that books every round in the directory's ledger before it runs, and refuses the first that the budget does not bear.

    Args:
        directory: of the run; holds ``privacy.json``.
        train: of the run.
        clients: training clients.
        meta: the strategy, for its size.
        identity: of the run.
        done: rounds that the run's checkpoint already holds.

    Raises:
        ArtifactError: if the ledger found was altered or belongs to another run, or there is none though rounds were done.
    """
    if train.privacy is None:
        return always
    wanted, path = train.privacy, directory / ledger.LEDGER
    if done and not path.exists():
        raise ArtifactError(f"{done} rounds were done, and there is no {path}: restore it; what was spent is not known without it")
    book = ledger.begin(
        path,
        plan(train, clients, meta),
        identity=identity,
        budget=wanted.epsilon,
        delta=wanted.delta,
        source=wanted.source,
        rounds=train.rounds,
    )

    def ask(number: int) -> bool:
        nonlocal book
        if not ledger.may_release(book, number):
            return False
        book = ledger.book(path, book, number)
        return True

    return ask
