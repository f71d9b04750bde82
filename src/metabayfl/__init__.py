"""Personalised probabilistic federated learning.

A server meta-learns a compact strategy across clients that never share their data; a client turns it and a few samples into its own Bayesian model::

    import metabayfl

    model = metabayfl.load("strategy.safetensors").personalize(x, y)
    prediction = model.predict(new_x)   # probabilities, total = aleatoric + epistemic, accept or refer
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import DataOptions, build_federation
from metabayfl.personal import PersonalModel, PersonalStrategy, load, load_personal
from metabayfl.presentation import PersonalPrediction

if TYPE_CHECKING:
    from metabayfl.estimators import MetaBayesClassifier, MetaBayesRegressor

__version__ = version("metabayfl")

__all__ = [
    "ALGORITHMS",
    "DataOptions",
    "MetaBayesClassifier",
    "MetaBayesRegressor",
    "PersonalModel",
    "PersonalPrediction",
    "PersonalStrategy",
    "__version__",
    "build_federation",
    "load",
    "load_personal",
]


def __getattr__(name: str) -> Any:
    """The estimators when they are asked for: scikit-learn is a third of what a process has to load, and a site starts one for every message."""
    if name in ("MetaBayesClassifier", "MetaBayesRegressor"):
        return getattr(import_module("metabayfl.estimators"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
