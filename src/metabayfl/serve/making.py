"""Making posteriors: what takes many milliseconds of arithmetic, from bytes to bytes, so that another process can do it."""

from __future__ import annotations

from typing import Any, NamedTuple

from metabayfl.personal import PersonalStrategy, personal_from_bytes
from metabayfl.presentation import PersonalPrediction
from metabayfl.serve import answers
from metabayfl.serve.answers import Assessed
from metabayfl.serve.requests import Samples


class Made(NamedTuple):
    """A new posterior and what it was compared with."""

    data: bytes
    before: tuple[PersonalPrediction, Assessed] | None  # of the new samples, by the old posterior
    after: PersonalPrediction | None  # of the new samples, by the new one, where somebody looks


def personalized(source: PersonalStrategy, given: Samples, shares: dict[str, Any]) -> Made:
    """A client's first posterior."""
    return Made(source.personalize(given.x, given.y, **shares).to_bytes(), None, None)


def updated(source: PersonalStrategy, data: bytes, given: Samples, look: bool) -> Made:
    """The posterior in ``data`` with more samples."""
    old = personal_from_bytes(data, source, where="the posterior")
    before = answers.assess(old, given.x, given.y)
    model = old.update(given.x, given.y)
    return Made(model.to_bytes(), before, model.predict(given.x) if look else None)
