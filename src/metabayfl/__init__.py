"""Personalised probabilistic federated learning.

A server meta-learns a compact strategy across clients that never share their data; a client turns it and a few samples into its own Bayesian model::

    import metabayfl

    model = metabayfl.load("strategy.safetensors").personalize(x, y)
    prediction = model.predict(new_x)   # probabilities, total = aleatoric + epistemic, accept or refer
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metabayfl.algorithms import ALGORITHMS
    from metabayfl.data import DataOptions, build_federation
    from metabayfl.estimators import MetaBayesClassifier, MetaBayesRegressor
    from metabayfl.personal import PersonalModel, PersonalStrategy, load, load_personal
    from metabayfl.presentation import PersonalPrediction

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


_HOMES = {
    "algorithms": ("ALGORITHMS",),
    "data": ("DataOptions", "build_federation"),
    "estimators": ("MetaBayesClassifier", "MetaBayesRegressor"),
    "personal": ("PersonalModel", "PersonalStrategy", "load", "load_personal"),
    "presentation": ("PersonalPrediction",),
}
"""Where each name is defined."""


def __getattr__(name: str) -> Any:
    """A name when it is asked for: PyTorch takes seconds to load, and a command that only writes a token or shows its help has no use for it."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"metabayfl.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
