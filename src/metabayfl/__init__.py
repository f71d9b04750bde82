"""Personalised probabilistic federated learning.

A server meta-learns a compact strategy across clients that never share their data; a client turns it and a few samples into its own Bayesian model::

    import metabayfl

    model = metabayfl.load("strategy.safetensors").personalize(x, y)
    prediction = model.predict(new_x)   # probabilities, total = aleatoric + epistemic, accept or refer
"""

from importlib.metadata import version

from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import DataOptions, build_federation
from metabayfl.estimators import MetaBayesClassifier, MetaBayesRegressor
from metabayfl.personal import PersonalModel, PersonalPrediction, PersonalStrategy, load, load_personal

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
