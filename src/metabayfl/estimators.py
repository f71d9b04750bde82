"""Scikit-learn's interface: a federation from one table with a group per row, in four lines.

::

    model = MetaBayesClassifier().fit(X, y, groups=client)
    own = model.personalize(X_new_client, y_new_client)
    own.predict_proba(more_of_that_client)

``fit`` meta-learns the strategy across the groups. The fitted estimator itself predicts for a client without labels; :meth:`personalize` gives an
estimator for one client. Without ``groups`` the rows are one population: they are dealt to small synthetic clients, and the estimator's own
posterior comes from all of them.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from metabayfl import random, tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.artifact import Strategy
from metabayfl.data import DataOptions, Federation, Schema, build_federation, from_arrays
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.rounds import rounds
from metabayfl.errors import ConfigError, SchemaError
from metabayfl.models import build_model
from metabayfl.personal import PersonalStrategy, rebuild
from metabayfl.types import Batch, Kind, Prediction

Array = NDArray[Any]
SMALLEST_FEDERATION = 6
"""Fewer groups than this leave none to validate on, so the last strategy is kept."""


class _MetaBayes(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What classifier and regressor share. Numbers are computed in float64, so that an input's prediction does not depend on its neighbours."""

    _kind: Kind

    def __init__(
        self,
        hidden: tuple[int, ...] = (32, 16),
        rounds: int = 100,
        cohort: int = 10,
        dropout: float = 0.0,
        validation_share: float = 0.2,
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.rounds = rounds
        self.cohort = cohort
        self.dropout = dropout
        self.validation_share = validation_share
        self.random_state = random_state

    def _fit(self, x: Array, y: Array, groups: Any) -> Self:
        if len(x) < 2:
            raise ValueError(f"n_samples = {len(x)}: expected at least 2 to learn from")
        federation = self._federation(x, y, groups)
        schema, arguments = federation.schema, {"rounds": self.rounds, "generator": "full", "body_lr": 5e-3, "down": "exact", "up": "exact"}
        table = {"name": "mlp", "hidden": list(self.hidden), "dropout": self.dropout}
        model = build_model("mlp", schema.input_shape, schema.outputs, schema.kind, hidden=tuple(self.hidden), dropout=self.dropout)
        options = TrainOptions(rounds=self.rounds, cohort=self.cohort, weighting="uniform")
        meta = None
        for state, _ in rounds(ALGORITHMS["meta_bayfl"](model, **arguments), federation, options, self.random_state):
            meta = state.best
        if meta is None:
            raise ConfigError(f"rounds is {self.rounds}, expected at least 1 to learn anything")
        self.strategy_ = Strategy({"algorithm": "meta_bayfl", "arguments": arguments, "model": table}, meta, schema.to_json())
        self.n_iter_ = state.round
        shared = Batch(*self._batch(schema, x, y)) if groups is None else Batch(*self._batch(schema, x[:1], y[:1]))._replace(mask=torch.zeros(1))
        self.posterior_ = self._adapt(shared)
        return self

    def _federation(self, x: Array, y: Array, groups: Any) -> Federation:
        alone = groups is None
        groups = _population(len(x), self.random_state) if alone else np.asarray(groups)
        raw = from_arrays(x, y, groups, kind=self._kind, layout="vector")
        names = len(set(np.asarray(groups).tolist()))
        share = self.validation_share if names >= SMALLEST_FEDERATION and not alone else 0
        options = DataOptions(validation_clients=share, heldout_clients=0, support=0.5, min_samples=2, min_classes=1)
        return build_federation(options, self.random_state, data=raw)

    def _batch(self, schema: Schema, x: Array, y: Array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        targets = torch.from_numpy(schema.encode_targets(y))
        targets = targets.double() if self._kind == "regression" else targets
        return torch.from_numpy(schema.encode(x, scale_limit=np.inf)).double(), targets, torch.ones(len(x), dtype=torch.float64)

    def _rebuilt(self) -> PersonalStrategy:
        return rebuild(self.strategy_)

    def _adapt(self, batch: Batch) -> dict[str, Any]:
        loaded = self._rebuilt()
        with torch.no_grad():
            return loaded.algorithm.adapt(tree.to(loaded.strategy.meta, torch.float64), batch, random.key(self.random_state))

    def personalize(self, X: Any, y: Any) -> Self:
        """An estimator for one client, from its labelled samples.

        Args:
            X: ``(n, features)``.
            y: ``(n,)``.

        Returns:
            A fitted estimator; this one stays as it is.
        """
        check_is_fitted(self)
        X, y = validate_data(self, X, y, reset=False)
        own = copy.copy(self)
        own.posterior_ = self._adapt(Batch(*self._batch(self._rebuilt().schema, X, y)))
        return own

    def _predict(self, X: Any) -> tuple[Schema, Prediction]:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        loaded = self._rebuilt()
        encoded = torch.from_numpy(loaded.schema.encode(X, scale_limit=np.inf)).double()
        with torch.no_grad():
            return loaded.schema, loaded.algorithm.predict(self.posterior_, encoded, random.fold(random.key(self.random_state), "predict"))


def _population(count: int, seed: int) -> Array:
    """Every row dealt to one of some synthetic clients of about twenty rows each."""
    size = max(2, min(20, count // 3))
    return np.random.default_rng(seed).permutation(np.arange(count) % max(1, count // size))


class MetaBayesClassifier(ClassifierMixin, _MetaBayes):  # type: ignore[misc]
    """Meta-learned Bayesian classification for clients with few samples each (Meta-BayFL, method of :mod:`metabayfl.algorithms.meta_bayfl`).

    Args:
        hidden: widths of the perceptron; the last one is the number of features ``M``.
        rounds: communication rounds.
        cohort: clients a round.
        dropout: on the input of the last hidden layer, in training.
        validation_share: of the groups, to keep the best strategy on; with fewer than six groups none.
        random_state: decides everything random.

    Attributes:
        classes_: labels in the order of the columns of ``predict_proba``.
        strategy_: the strategy, as an artifact: ``strategy_.save(path)``.
        n_iter_: rounds run.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> client, y = np.repeat(np.arange(8), 20), rng.integers(0, 2, 160)
        >>> X = rng.normal(size=(160, 3)) + 4 * y[:, None]
        >>> model = MetaBayesClassifier(rounds=30).fit(X, y, groups=client)
        >>> own = model.personalize(X[:10], y[:10])
        >>> bool(own.score(X[10:], y[10:]) > 0.9)
        True
    """

    _kind: Kind = "classification"

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Meta-learn the strategy across groups of rows.

        Args:
            X: ``(n, features)``.
            y: ``(n,)`` labels.
            groups: ``(n,)`` the client of each row; None for one population.
        """
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]!r}: expected at least two")
        self._width = len(str(len(self.classes_)))
        return self._fit(X, self._names(codes), groups)

    def _names(self, codes: Array) -> Array:
        """Class positions as texts whose order is theirs, since the schema sorts names."""
        return np.array([f"{code:0{self._width}d}" for code in codes], dtype=object)

    def personalize(self, X: Any, y: Any) -> Self:
        """See the base class; labels must be among ``classes_``."""
        check_is_fitted(self)
        strange = np.setdiff1d(y, self.classes_)
        if len(strange):
            raise SchemaError(f"y has the labels {strange[:5].tolist()} that training never saw, expected some of {self.classes_.tolist()}")
        codes = np.searchsorted(self.classes_, y)
        return super().personalize(X, codes)

    def _batch(self, schema: Schema, x: Array, y: Array) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        names = y if y.dtype == object else self._names(np.asarray(y, dtype=np.int64))
        return super()._batch(schema, x, names)

    def predict_proba(self, X: Any) -> Array:
        """Class probabilities ``(n, K)``."""
        _, prediction = self._predict(X)
        probabilities: Array = prediction[0].numpy()
        return probabilities

    def predict(self, X: Any) -> Array:
        """The most probable label ``(n,)``."""
        best = self.predict_proba(X).argmax(1)
        labels: Array = self.classes_[best]
        return labels

    def predict_uncertainty(self, X: Any) -> dict[str, Array]:
        """``total``, ``aleatoric`` and ``epistemic`` uncertainty ``(n,)`` in nats."""
        _, prediction = self._predict(X)
        return {name: getattr(prediction, name).numpy() for name in ("total", "aleatoric", "epistemic")}


class MetaBayesRegressor(RegressorMixin, _MetaBayes):  # type: ignore[misc]
    """Meta-learned Bayesian regression for clients with few samples each; arguments and attributes as :class:`MetaBayesClassifier`."""

    _kind: Kind = "regression"

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Meta-learn the strategy across groups of rows.

        Args:
            X: ``(n, features)``.
            y: ``(n,)`` numbers.
            groups: ``(n,)`` the client of each row; None for one population.
        """
        X, y = validate_data(self, X, y, y_numeric=True)
        return self._fit(X, np.asarray(y, dtype=np.float64), groups)

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """The predictive mean ``(n,)``; with ``return_std`` also the standard deviation, as in scikit-learn's Bayesian regressors."""
        schema, prediction = self._predict(X)
        mean = schema.decode_targets(prediction[0].numpy())[:, 0]
        return (mean, np.sqrt(prediction.total.numpy()[:, 0]) * schema.target_scale[0]) if return_std else mean
