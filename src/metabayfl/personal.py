"""One client's own model: from the strategy and a few labelled samples to calibrated predictions, in raw units and names.

    model = metabayfl.load("strategy.safetensors").personalize(x, y)
    prediction = model.predict(new_x)         # probabilities, total = aleatoric + epistemic, accept or refer
    model = model.update(more_x, more_y)      # the same as personalizing on all samples
    model = model.with_forgetting("evidence") # from here on the past fades as fast as that predicts the client best
    model.alarm                               # whether the client has changed: then model.restart()

Nothing here is trained by more than the strategy's own rule, and nothing leaves the client.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import change_point, continual, new_class, random, specification, storage
from metabayfl.algorithms.preparation import prepare
from metabayfl.artifact import Strategy, load_strategy, posterior_from_bytes, posterior_to_bytes
from metabayfl.calibration import (
    By,
    Cases,
    Known,
    cross_fit,
    novelty_limit,
    referral_for_error,
    referral_for_share,
    score,
    set_limits,
)
from metabayfl.change_point import NO_CHANGE, Change
from metabayfl.continual import Forgetting
from metabayfl.data.schema import Schema
from metabayfl.errors import ArtifactError, ConfigError, DataError, SchemaError
from metabayfl.presentation import Decision, PersonalPrediction, present
from metabayfl.types import Algorithm, Batch, Model, Prepared, Tree
from metabayfl.uncertainty import threshold_for_share

Array = NDArray[Any]
_ABOUT = ("refer_share", "refer_error", "novelty_rate", "seed", "forgetting", "change")


@dataclass(frozen=True)
class PersonalStrategy:
    """A strategy that can be personalised; :func:`load` makes one."""

    strategy: Strategy
    algorithm: Algorithm
    schema: Schema

    def personalize(
        self, x: Any, y: Any, *, refer_share: float = 0.2, refer_error: float | None = None, novelty_rate: float = 0.02, seed: int = 0
    ) -> PersonalModel:
        """The posterior of one client.

        Args:
            x: raw inputs as the schema says: a data frame or mapping of columns, or an array ``(n, ...)``.
            y: raw targets ``(n,)``: class names, or numbers.
            refer_share: the threshold is set so that this share of cases like the known ones would be referred.
            refer_error: in place of a share, the share of all cases that may be answered without a person and wrong (classification).
            novelty_rate: share of ordinary cases that may be called novel.
            seed: of sampling, where the algorithm samples.

        Raises:
            SchemaError: if inputs or targets do not fit the schema.
            DataError: if there is no sample.
            ConfigError: if a share is none, or an error is wanted of a regression.
        """
        if refer_error is not None and self.schema.kind == "regression":
            raise ConfigError(f"refer_error is {refer_error}, but a regression's answers are not right or wrong: give refer_share")
        batch = encode(self.schema, x, y)
        posterior = continual.adapt(self.algorithm, self.received, batch, random.key(seed))
        model = PersonalModel(self, posterior, batch, _own_cases(self, batch, seed), refer_share, refer_error, novelty_rate, seed)
        model.limits  # noqa: B018  # a share that is none is refused here and not with the first prediction
        return model

    @cached_property
    def received(self) -> Tree:
        """The strategy's numbers as a client has them."""
        return self.algorithm.down.round_trip(self.strategy.meta, None)

    @cached_property
    def baseline(self) -> Prepared:
        """What the strategy makes of a client without any sample, made ready to answer: what a personal model must beat."""
        key = random.key(0)
        alone = continual.adapt(self.algorithm, self.received, continual.nobody(self.schema), key)
        return prepare(self.algorithm, alone, random.fold(key, "predict"))

    def with_class(self, name: str) -> PersonalStrategy:
        """The strategy with a class that the federation never saw, the last of the schema's; see :mod:`metabayfl.new_class`.

        Raises:
            ConfigError: if the strategy has no conjugate classification head.
            SchemaError: if the class has no name or is known already.
        """
        strategy = new_class.with_class(self.strategy, name)
        return rebuild(strategy, self.algorithm.model._replace(outputs=self.algorithm.model.outputs + 1))


@dataclass(frozen=True)
class PersonalModel:
    """One client's posterior; :meth:`update` gives a new one and leaves this as it is."""

    source: PersonalStrategy
    posterior: Tree
    support: Batch  # encoded; stays with the client, so that an update is exact for every algorithm
    cases: Cases  # the support, each sample as predicted without it
    refer_share: float
    refer_error: float | None
    novelty_rate: float
    seed: int
    forgetting: Forgetting = None
    change: Change = NO_CHANGE

    @property
    def alarm(self) -> bool:
        """Whether the strategy without any of the client's samples explains recent updates better than this model did; then :meth:`restart`."""
        return change_point.rings(self.change)

    @property
    def retention(self) -> float:
        """``lambda`` in use: what a sample weighs relative to the next one; 1 where nothing fades."""
        return continual.retention(self.support)

    @property
    def schema(self) -> Schema:
        """What inputs must look like."""
        return self.source.schema

    @cached_property
    def prepared(self) -> Prepared:
        """The posterior made ready to answer: computed with the first prediction and kept."""
        return prepare(self.source.algorithm, self.posterior, random.fold(random.key(self.seed), "predict"))

    @cached_property
    def known(self) -> Known:
        """The cases with known answers that every guarantee comes from: the client's own and the strategy's table of other clients."""
        classes = self.schema.outputs if self.schema.kind == "classification" else 0
        return Known(self.cases, self.source.strategy.calibration, classes)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The total uncertainty above which a case is referred, and the epistemic one above which it is novel."""
        threshold = referral_for_share(self.known, self.refer_share) if self.refer_error is None else referral_for_error(self.known, self.refer_error)
        return threshold, novelty_limit(self.known, self.novelty_rate)

    @cached_property
    def _set_limits(self) -> Callable[[float, By], Tensor]:
        """Of sets and intervals by coverage; a model that answers often is asked for the same ones."""
        return lru_cache(maxsize=8)(partial(set_limits, self.known))

    @property
    def threshold(self) -> float:
        """The total uncertainty above which a case is referred."""
        return self.limits[0]

    def predict(
        self, x: Any, *, coverage: float = 0.9, by: By = "client", threshold: float | None = None, refer_share: float | None = None
    ) -> PersonalPrediction:
        """Predict raw inputs ``(n, ...)``.

        Args:
            x: raw inputs as the schema says.
            coverage: probability with which the truth shall be in its set or interval.
            by: ``client``: among all the client's cases; ``class``: among those of each true class (Mondrian).
            threshold: of total uncertainty, in place of the one chosen on known cases.
            refer_share: in place of a threshold, refer this share of these very inputs, the least certain ones.

        Raises:
            SchemaError: if inputs do not fit the schema.
            ConfigError: if the coverage or the share is none.
        """
        encoded = torch.from_numpy(self.schema.encode(x))
        with torch.inference_mode():  # cheaper than no_grad, which counts where a single row is asked for
            prediction = self.prepared.answer(self.prepared.constants, encoded)
        if refer_share is not None:
            threshold = threshold_for_share(score(prediction), refer_share)
        decision = Decision(self._set_limits(coverage, by), coverage, self.threshold if threshold is None else threshold, self.limits[1])
        return present(self.schema, prediction, decision)

    def update(self, x: Any, y: Any) -> PersonalModel:
        """The model with more samples, in the order in which they came: the same as personalizing on all of them together.

        With forgetting, earlier samples fade first. Before they are used, the new labels show how well this model predicted them, against the
        strategy without any sample: :attr:`alarm`.

        Raises:
            SchemaError: if inputs or targets do not fit the schema.
            DataError: if there is no sample, or a prediction is not finite.
        """
        new = encode(self.schema, x, y)
        change = continual.watch(self.change, self.prepared, self.source.baseline, new)
        both = Batch(*(torch.cat(pair) for pair in zip(self.support, new, strict=True)))
        algorithm, key = self.source.algorithm, random.key(self.seed)
        posterior, support = continual.grow(algorithm, self.source.received, self.posterior, both, len(new.mask), self.forgetting, key)
        return dataclasses.replace(self, posterior=posterior, support=support, cases=_own_cases(self.source, support, self.seed), change=change)

    def with_forgetting(self, forgetting: Forgetting = "evidence") -> PersonalModel:
        """The model whose past fades, from now on and back to its first sample; see ``docs/continual.md``.

        Args:
            forgetting: ``"evidence"``: as fast as predicts the client's own stream best; a retention ``lambda`` above 0 and at most 1: a sample
                that ``a`` later ones have followed weighs ``lambda^a``; None: nothing fades.

        Raises:
            ConfigError: for anything else, or an algorithm without a posterior in closed form.
        """
        return _again(self, self.source, self.support, forgetting)

    def watch(self, run_length: float) -> PersonalModel:
        """The model with a new change detector, that rings by mistake once in ``run_length`` cases on average, or less often.

        Raises:
            ConfigError: if ``run_length`` is not finite and at least 1.
        """
        return dataclasses.replace(self, change=change_point.begin(run_length))

    def restart(self, keep: int | None = None) -> PersonalModel:
        """The model of the latest samples alone, with a new change detector.

        Args:
            keep: how many; None, after an alarm, means those from the likeliest start of the change on.

        Raises:
            ConfigError: if there are not so many, or there was no alarm and ``keep`` is None.
        """
        kept = continual.since(self.change, len(self.support.mask), keep)
        recent = Batch(*(part[-kept:] for part in self.support))
        return _again(self, self.source, recent, self.forgetting).watch(self.change.run_length)

    def with_class(self, name: str) -> PersonalModel:
        """The model of the same samples that also knows a class of its own; its samples come with :meth:`update`.

        Raises:
            ConfigError: if the strategy has no conjugate classification head.
            SchemaError: if the class has no name or is known already.
        """
        return _again(self, self.source.with_class(name), self.support, self.forgetting)

    def save(self, path: str | Path) -> None:
        """Write the posterior, with all that predicting and updating need, in one file."""
        storage.write_bytes(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the file; the same model gives the same bytes."""
        value = {"posterior": self.posterior, "support": self.support._asdict(), "cases": self.cases._asdict()}
        about = {name: getattr(self, name) for name in _ABOUT}
        return posterior_to_bytes(value, self.source.strategy, {**about, "change": list(self.change)})


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
    support, known = value.get("support", {}), value.get("cases", {})
    groups = {"posterior", "support", "cases"}
    if value.keys() != groups or support.keys() != set(Batch._fields) or known.keys() != set(Cases._fields) or about.keys() != set(_ABOUT):
        raise ArtifactError(f"{where} is a posterior without its support, known cases or shares: save it with PersonalModel.save")
    source = source or rebuild(strategy, model, where)
    try:
        continual.retentions(source.algorithm, about["forgetting"])
        about["change"] = change_point.restore(about["change"])
    except (ConfigError, DataError) as error:
        raise ArtifactError(f"{where}: {error}") from error
    return PersonalModel(source, value["posterior"], Batch(**support), Cases(**known), **about)


def rebuild(strategy: Strategy, model: Model | None = None, where: str = "the strategy") -> PersonalStrategy:
    """A strategy with the algorithm and the schema that its specification describes.

    Raises:
        ArtifactError: if the specification names what this library lacks, or the numbers do not fit it.
    """
    return PersonalStrategy(strategy, *specification.rebuilt(strategy, model, where))


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


def _again(model: PersonalModel, source: PersonalStrategy, samples: Batch, forgetting: Forgetting) -> PersonalModel:
    """The model built anew from samples, with the same options and detector."""
    algorithm, key = source.algorithm, random.key(model.seed)
    continual.retentions(algorithm, forgetting)
    support = samples._replace(mask=torch.ones_like(samples.mask))
    posterior = continual.adapt(algorithm, source.received, support, key)
    if forgetting is not None:
        posterior, support = continual.grow(algorithm, source.received, posterior, support, 0, forgetting, key)
    cases = _own_cases(source, support, model.seed)
    return dataclasses.replace(model, source=source, posterior=posterior, support=support, cases=cases, forgetting=forgetting)


def _own_cases(source: PersonalStrategy, batch: Batch, seed: int) -> Cases:
    return cross_fit(source.algorithm, source.received, batch, random.key(seed))
