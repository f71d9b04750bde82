"""What a graph answers, in the schema's names and units."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
from scipy import special
from torch import Tensor

from metabayfl.calibration import score, strangeness
from metabayfl.data.schema import Schema
from metabayfl.types import ClassPrediction, Prediction, RegressionPrediction
from metabayfl.uncertainty import refer

COVERAGE = 0.9
"""Probability with which the interval holds the target."""

_DEGREE = 16


class Limits(NamedTuple):
    """What turns a prediction into a decision."""

    threshold: Tensor | float  # of total uncertainty: above it a case is referred
    novelty: Tensor | float  # of epistemic uncertainty: above it a case is novel, and referred
    mass: tuple[float, ...]  # of the predictive between an interval's ends, per target; empty in classification


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
    named = (*found, *(Output(name, "flag") for name in ("novel", "refer", "valid")))
    return tuple(item._replace(name=f"{item.name}_") if item.name in taken else item for item in named)


def answers(schema: Schema, prediction: Prediction, limits: Limits, valid: Tensor) -> tuple[Tensor, ...]:
    """Label or mean, and all that stands beside it; a row that is not ``valid`` is referred."""
    said = (prediction.probs.argmax(-1), *prediction) if isinstance(prediction, ClassPrediction) else _in_units(schema, prediction, limits.mass)
    novel = strangeness(prediction) > limits.novelty
    return (*said, novel, refer(score(prediction), limits.threshold) | novel | ~valid, valid)


def _in_units(schema: Schema, prediction: RegressionPrediction, mass: tuple[float, ...]) -> tuple[Tensor, ...]:
    unit, shift = torch.tensor(schema.target_scale, dtype=torch.float64), torch.tensor(schema.target_mean, dtype=torch.float64)
    mean = prediction.mean.double() * unit + shift  # float64 to the end: a target may vary little about a large mean
    half = prediction.scale.double() * half_width(prediction.dof.double(), mass) * unit
    parts = [part.double() * unit**2 for part in (prediction.total, prediction.aleatoric, prediction.epistemic)]
    return (mean, torch.stack([mean - half, mean + half], -1), *parts)


def half_width(dof: Tensor, mass: tuple[float, ...]) -> Tensor:
    """Half the central intervals of standard Student-t predictives that hold ``mass``, per target, for 2 or more degrees of freedom, to 1e-7.

    The logarithm is smooth in ``1 / dof`` from 0, the Gaussian's, so that a polynomial stands for it, which a graph can compute.

    Args:
        dof: ``(..., R)``, float64.
        mass: ``R`` probabilities between 0 and 1.

    Example:
        >>> round(float(half_width(torch.tensor([5.0], dtype=torch.float64), (0.9,))), 6)
        2.015048
    """
    inverse, out = 1.0 / dof, torch.zeros_like(dof)
    for row in torch.tensor([_coefficients(one) for one in mass], dtype=torch.float64).flip(-1).unbind(-1):
        out = out * inverse + row
    return torch.exp(out)


@functools.cache
def _coefficients(mass: float) -> tuple[float, ...]:
    fitted = Chebyshev.interpolate(lambda inverse: np.log(special.stdtrit(1.0 / inverse, 0.5 + mass / 2)), _DEGREE, domain=[0.0, 0.5])
    return tuple(float(value) for value in fitted.convert(kind=Polynomial).coef)
