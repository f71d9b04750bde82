"""One client's own model: from the strategy and a few labelled samples to calibrated predictions, in raw units and names.

    model = metabayfl.load("strategy.safetensors").personalize(x, y)
    prediction = model.predict(new_x)         # probabilities, total = aleatoric + epistemic, accept or refer
    model = model.update(more_x, more_y)      # the same as personalizing on all samples

Nothing here is trained by more than the strategy's own rule, and nothing leaves the client.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import random, storage, tree_file
from metabayfl.algorithms import ALGORITHMS
from metabayfl.algorithms.preparation import prepare
from metabayfl.artifact import Strategy, load_strategy, posterior_from_bytes, posterior_to_bytes
from metabayfl.data.schema import Schema
from metabayfl.errors import ArtifactError, ConfigError, DataError, ModelError, SchemaError
from metabayfl.losses import student_t_half_width
from metabayfl.models import build_model
from metabayfl.types import Algorithm, Batch, ClassPrediction, Key, Model, Prediction, Prepared, Tree
from metabayfl.uncertainty import refer, threshold_for_share

Array = NDArray[Any]
_ABOUT = ("threshold", "refer_share", "seed")

FOLDS = 5
"""The referral threshold is chosen on predictions for support samples that the model was not built from, in so many folds."""


@dataclass(frozen=True)
class PersonalPrediction:
    """What a client's model says of ``n`` inputs, as NumPy arrays.

    Attributes:
        label: the most probable class name ``(n,)``, or the mean in the target's unit ``(n, R)``.
        probabilities: ``(n, K)`` in the order of ``classes``; None in regression.
        classes: class names, or target names.
        total: entropy in nats ``(n,)``, or predictive variance in squared units ``(n, R)``.
        aleatoric: the part that more samples would not remove.
        epistemic: the part that they would.
        interval: ``(n, R, 2)`` central 90 % interval in the target's unit; None in classification.
        refer: ``(n,)`` True where a person should look.
        threshold: the uncertainty above which a case is referred: nats, or the mean over targets of the standardised predictive variance.
    """

    label: Array
    probabilities: Array | None
    classes: tuple[str, ...]
    total: Array
    aleatoric: Array
    epistemic: Array
    interval: Array | None
    refer: Array
    threshold: float

    @property
    def referred(self) -> int:
        """How many cases to refer."""
        return int(self.refer.sum())


@dataclass(frozen=True)
class PersonalStrategy:
    """A strategy that can be personalised; :func:`load` makes one."""

    strategy: Strategy
    algorithm: Algorithm
    schema: Schema

    def personalize(self, x: Any, y: Any, *, refer_share: float = 0.2, seed: int = 0) -> PersonalModel:
        """The posterior of one client.

        Args:
            x: raw inputs as the schema says: a data frame or mapping of columns, or an array ``(n, ...)``.
            y: raw targets ``(n,)``: class names, or numbers.
            refer_share: the threshold is set so that this share of cases like the support would be referred.
            seed: of sampling, where the algorithm samples.

        Raises:
            SchemaError: if inputs or targets do not fit the schema.
            DataError: if there is no sample.
        """
        batch = encode(self.schema, x, y)
        key = random.key(seed)
        posterior = _adapt(self.algorithm, self.strategy.meta, batch, key)
        threshold = _threshold(self.algorithm, self.strategy.meta, batch, key, refer_share)
        return PersonalModel(self, posterior, batch, threshold, refer_share, seed)


@dataclass(frozen=True)
class PersonalModel:
    """One client's posterior; :meth:`update` gives a new one and leaves this as it is."""

    source: PersonalStrategy
    posterior: Tree
    support: Batch  # encoded; stays with the client, so that an update is exact for every algorithm
    threshold: float
    refer_share: float
    seed: int

    @property
    def schema(self) -> Schema:
        """What inputs must look like."""
        return self.source.schema

    @cached_property
    def prepared(self) -> Prepared:
        """The posterior made ready to answer: computed with the first prediction and kept."""
        return prepare(self.source.algorithm, self.posterior, random.fold(random.key(self.seed), "predict"))

    def predict(self, x: Any, *, threshold: float | None = None) -> PersonalPrediction:
        """Predict raw inputs ``(n, ...)``; ``threshold`` overrides the one chosen on the support.

        Raises:
            SchemaError: if inputs do not fit the schema.
        """
        encoded = torch.from_numpy(self.schema.encode(x))
        with torch.no_grad():
            prediction = self.prepared.answer(self.prepared.constants, encoded)
        return _present(self.schema, prediction, self.threshold if threshold is None else threshold)

    def update(self, x: Any, y: Any) -> PersonalModel:
        """The model with more samples, the same as personalizing on all of them together."""
        new = encode(self.schema, x, y)
        both = Batch(*(torch.cat(pair) for pair in zip(self.support, new, strict=True)))
        algorithm, key = self.source.algorithm, random.key(self.seed)
        if algorithm.update is not None:
            with torch.no_grad():
                posterior = algorithm.update(self.posterior, new)
        else:
            posterior = _adapt(algorithm, self.source.strategy.meta, both, key)
        threshold = _threshold(algorithm, self.source.strategy.meta, both, key, self.refer_share)
        return dataclasses.replace(self, posterior=posterior, support=both, threshold=threshold)

    def save(self, path: str | Path) -> None:
        """Write the posterior, with all that predicting and updating need, in one file."""
        storage.write_bytes(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the file; the same model gives the same bytes."""
        value = {"posterior": self.posterior, "support": self.support._asdict()}
        about = {**{name: getattr(self, name) for name in _ABOUT}, "threshold": float(self.threshold).hex()}
        return posterior_to_bytes(value, self.source.strategy, about)


def load(path: str | Path, model: Model | None = None) -> PersonalStrategy:
    """The strategy in a file.

    Args:
        path: written by training, ``strategy.safetensors``.
        model: needed only for a strategy that was trained on a user's own ``torch.nn.Module``, which no file can hold.

    Raises:
        ArtifactError: if the file is damaged, altered, of another version, or does not fit its own description.
    """
    return rebuild(load_strategy(path), model, str(path))


def load_personal(path: str | Path, model: Model | None = None) -> PersonalModel:
    """The personal model that :meth:`PersonalModel.save` wrote.

    Raises:
        ArtifactError: as :func:`load`.
    """
    return personal_from_bytes(storage.read_bytes(path), model=model, where=str(path))


def personal_from_bytes(
    data: bytes, source: PersonalStrategy | None = None, *, model: Model | None = None, where: str = "the posterior"
) -> PersonalModel:
    """The inverse of :meth:`PersonalModel.to_bytes`.

    Args:
        data: the content of a posterior's file.
        source: the strategy that it must come from, where it is at hand; else it is rebuilt from the file.
        model: as in :func:`load`.
        where: names the file in messages.

    Raises:
        ArtifactError: as :func:`load`, and for a posterior of another strategy than ``source``.
    """
    value, strategy, about = posterior_from_bytes(data, strategy=source.strategy if source else None, where=where)
    support = value.get("support", {})
    if value.keys() != {"posterior", "support"} or support.keys() != set(Batch._fields) or about.keys() != set(_ABOUT):
        raise ArtifactError(f"{where} is a posterior without its support or threshold: save it with PersonalModel.save")
    about["threshold"] = float.fromhex(about["threshold"])  # a text, since infinity, where nothing is referred, has no JSON
    return PersonalModel(source or rebuild(strategy, model, where), value["posterior"], Batch(**support), **about)


def rebuild(strategy: Strategy, model: Model | None = None, where: str = "the strategy") -> PersonalStrategy:
    """The algorithm and the schema that a strategy's specification describes, around its numbers.

    Raises:
        ArtifactError: if the specification names what this library lacks, or the numbers do not fit it.
    """
    try:
        schema = Schema.from_json(strategy.schema)
        network = model or _network(strategy.spec["model"], schema)
        algorithm = ALGORITHMS[strategy.spec["algorithm"]](network, **strategy.spec["arguments"])
    except (AttributeError, KeyError, TypeError, SchemaError, ConfigError, ModelError) as error:
        raise ArtifactError(f"{where} has a specification that this library cannot rebuild ({error}): was it written by another version?") from error
    tree_file.fit(strategy.meta, algorithm.init(random.key(0)), where)
    return PersonalStrategy(strategy, algorithm, schema)


def _network(table: dict[str, Any], schema: Schema) -> Model:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items() if key != "name"}
    return build_model(table["name"], schema.input_shape, schema.outputs, schema.kind, **options)


def encode(schema: Schema, x: Any, y: Any) -> Batch:
    """Raw samples as a batch without padding.

    Raises:
        SchemaError: if they do not fit the schema or each other.
        DataError: if there is none.
    """
    inputs, targets = schema.encode(x), schema.encode_targets(y)
    if len(inputs) != len(targets):
        raise SchemaError(f"{len(inputs)} inputs with {len(targets)} targets: give one target for each input")
    if not len(inputs):
        raise DataError("no sample to personalise on: give at least one labelled sample")
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.ones(len(targets)))


def _adapt(algorithm: Algorithm, meta: Tree, batch: Batch, key: Key) -> Tree:
    with torch.no_grad():
        return algorithm.adapt(algorithm.down.round_trip(meta, None), batch, random.fold(key, "adapt"))


def _threshold(algorithm: Algorithm, meta: Tree, batch: Batch, key: Key, share: float) -> float:
    """The uncertainty that ``share`` of the support exceeds when each fold is predicted from the others; with one sample nothing is referred."""
    count = len(batch.mask)
    if count < 2:
        return math.inf
    fold_of = random.permutation(random.fold(key, "folds"), batch.mask) % min(FOLDS, count)
    scores = torch.empty(count)
    for fold in range(min(FOLDS, count)):
        out = fold_of == fold
        posterior = _adapt(algorithm, meta, Batch(batch.x[~out], batch.y[~out], batch.mask[~out]), key)
        with torch.no_grad():
            scores[out] = _score(algorithm.predict(posterior, batch.x[out], random.fold(key, "predict")))
    return threshold_for_share(scores, share)


def _score(prediction: Prediction) -> Tensor:
    """What the threshold is compared with: total uncertainty, ``(n,)``."""
    return prediction.total if isinstance(prediction, ClassPrediction) else prediction.total.mean(-1)


def _present(schema: Schema, prediction: Prediction, threshold: float) -> PersonalPrediction:
    refused = refer(_score(prediction), threshold).numpy()
    if isinstance(prediction, ClassPrediction):
        label = schema.decode_targets(prediction.probs.argmax(-1).numpy())
        probs, total, aleatoric, epistemic = (part.numpy() for part in prediction)
        return PersonalPrediction(label, probs, schema.classes, total, aleatoric, epistemic, None, refused, threshold)
    unit = np.asarray(schema.target_scale)
    mean = schema.decode_targets(prediction.mean.numpy())
    half = student_t_half_width(prediction.scale, prediction.dof, 0.9).numpy() * unit
    total, aleatoric, epistemic = (part.numpy() * unit**2 for part in (prediction.total, prediction.aleatoric, prediction.epistemic))
    interval = np.stack([mean - half, mean + half], -1)
    return PersonalPrediction(mean, None, schema.targets, total, aleatoric, epistemic, interval, refused, threshold)
