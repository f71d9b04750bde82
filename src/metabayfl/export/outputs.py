"""What a graph answers, in the schema's names and units."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import torch
from numpy.polynomial import Chebyshev, Polynomial
from scipy import special
from torch import Tensor

from metabayfl.data.schema import Schema
from metabayfl.types import ClassPrediction, Prediction, RegressionPrediction
from metabayfl.uncertainty import refer

LEVEL = 0.9
"""Probability of the interval in regression."""


class Output(NamedTuple):
    """One output of a graph as its user sees it."""

    name: str
    kind: Literal["number", "flag", "class", "posterior"]
    shape: tuple[int, ...] = ()  # of one row
    unit: tuple[float, ...] = (1.0,)  # what a deviation is measured in: 1, or the targets' scale or its square


def outputs(schema: Schema) -> tuple[Output, ...]:
    """In the order of :func:`answers`. A name that an input has too ends in an underscore."""
    shape, unit = (schema.outputs,), schema.target_scale
    square = tuple(value**2 for value in unit)
    parts = ("total", "aleatoric", "epistemic")
    if schema.kind == "classification":
        found = [Output("label", "class"), Output("probabilities", "number", shape), *(Output(part, "number") for part in parts)]
    else:
        interval = Output("interval", "number", (*shape, 2), tuple(value for value in unit for _ in range(2)))
        found = [Output("mean", "number", shape, unit), interval, *(Output(part, "number", shape, square) for part in parts)]
    taken = {item.name for item in schema.features} | {"x", *schema.targets}
    named = (*found, Output("refer", "flag"), Output("valid", "flag"))
    return tuple(item._replace(name=f"{item.name}_") if item.name in taken else item for item in named)


def answers(schema: Schema, prediction: Prediction, threshold: Tensor | float, valid: Tensor) -> tuple[Tensor, ...]:
    """Label or mean, and all that stands beside it; a row that is not ``valid`` is referred."""
    said = (prediction.probs.argmax(-1), *prediction) if isinstance(prediction, ClassPrediction) else _in_units(schema, prediction)
    return (*said, refer(score(prediction), threshold) | ~valid, valid)


def score(prediction: Prediction) -> Tensor:
    """What the threshold of referral is compared with: total uncertainty ``(N,)``, the mean over targets in regression."""
    return prediction.total if isinstance(prediction, ClassPrediction) else prediction.total.mean(-1)


def _in_units(schema: Schema, prediction: RegressionPrediction) -> tuple[Tensor, ...]:
    unit, shift = torch.tensor(schema.target_scale, dtype=torch.float64), torch.tensor(schema.target_mean, dtype=torch.float64)
    mean = prediction.mean.double() * unit + shift  # float64 to the end: a target may vary little about a large mean
    half = prediction.scale.double() * quantile(prediction.dof.double()) * unit
    parts = [part.double() * unit**2 for part in (prediction.total, prediction.aleatoric, prediction.epistemic)]
    return (mean, torch.stack([mean - half, mean + half], -1), *parts)


def quantile(dof: Tensor) -> Tensor:
    """The Student-t quantile that bounds the central ``LEVEL``, for 2 or more degrees of freedom, to 1e-11.

    It is smooth in ``1 / dof`` from 0, the Gaussian's, so that a polynomial stands for it, which a graph can compute.

    Example:
        >>> round(float(quantile(torch.tensor(5.0, dtype=torch.float64))), 9)
        2.015048373
    """
    inverse, out = 1.0 / dof, torch.zeros_like(dof)
    for coefficient in reversed(_coefficients()):
        out = out * inverse + coefficient
    return out


@functools.cache
def _coefficients() -> tuple[float, ...]:
    fitted = Chebyshev.interpolate(lambda inverse: special.stdtrit(1.0 / inverse, 0.5 + LEVEL / 2), 12, domain=[0.0, 0.5])
    return tuple(float(value) for value in fitted.convert(kind=Polynomial).coef)
