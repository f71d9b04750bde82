"""Making posteriors: what takes many milliseconds of arithmetic, here or in another process, which gets and gives bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from metabayfl.personal import PersonalModel, PersonalStrategy, personal_from_bytes
from metabayfl.presentation import PersonalPrediction
from metabayfl.serve import answers
from metabayfl.serve.answers import Assessed
from metabayfl.serve.requests import Samples


class Made(NamedTuple):
    """A new posterior and what it was compared with."""

    data: bytes
    before: tuple[PersonalPrediction, Assessed] | None  # of the new samples, by the old posterior
    after: PersonalPrediction | None  # of the new samples, by the new one, where somebody looks
    seconds: float  # of the processor
    model: PersonalModel | None  # None where it was made in another process


class Job(NamedTuple):
    """A posterior to be made, either way."""

    samples: int  # that it will be of
    here: Callable[[PersonalStrategy], Made]
    elsewhere: Callable[[PersonalStrategy], Made]  # goes to another process and comes back without the model


def personalized(given: Samples, shares: dict[str, Any]) -> Job:
    """A client's first posterior."""
    here = partial(_personalized, given=given, shares=shares)
    return Job(len(given.rows), here, partial(_packed, here))


def updated(old: PersonalModel, data: bytes, given: Samples, look: bool) -> Job:
    """A posterior, whose file holds ``data``, with more samples."""
    here = partial(_updated, old=old, given=given, look=look)
    elsewhere = partial(_packed, partial(_updated, old=data, given=given, look=look))
    return Job(len(old.support.mask) + len(given.rows), here, elsewhere)


@torch.inference_mode()
def _personalized(source: PersonalStrategy, given: Samples, shares: dict[str, Any]) -> Made:
    start = time.thread_time()
    model = source.personalize(given.x, given.y, **shares)
    return _made(start, model, None, None)


@torch.inference_mode()
def _updated(source: PersonalStrategy, old: PersonalModel | bytes, given: Samples, look: bool) -> Made:
    start = time.thread_time()
    old = personal_from_bytes(old, source) if isinstance(old, bytes) else old
    before = answers.assess(old, given.x, given.y)
    model = old.update(given.x, given.y)
    return _made(start, model, before, model.predict(given.x) if look else None)


def _made(start: float, model: PersonalModel, before: tuple[PersonalPrediction, Assessed] | None, after: PersonalPrediction | None) -> Made:
    data = model.to_bytes()
    _ = model.prepared  # here, and not with the first prediction
    return Made(data, before, after, time.thread_time() - start, model)


def _packed(making: Callable[[PersonalStrategy], Made], source: PersonalStrategy) -> Made:
    return making(source)._replace(model=None)
