"""The schema of a federation, from its training clients alone.

Rows never have to be in one place. Everyone who holds some tells a :class:`Survey` of them, and :class:`Deviations` about the means that follow from
all surveys; both add up, and the schema follows from the two sums (:mod:`metabayfl.data.normalisation`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from metabayfl.data.channels import flat, resolve, view
from metabayfl.data.features import Feature, columns
from metabayfl.data.federation import Member
from metabayfl.data.normalisation import Statistics, add, centre, mean_and_scale, statistics
from metabayfl.data.raw import Array, FeatureInfo, Raw, RawArrays, RawTable, ordered
from metabayfl.data.schema import Schema
from metabayfl.errors import DataError
from metabayfl.types import Kind


class Survey(NamedTuple):
    """What some rows tell of themselves."""

    rows: int
    kind: Kind
    classes: tuple[str, ...]  # that some row has; empty for regression
    targets: tuple[str, ...]
    features: tuple[FeatureInfo, ...]  # of a table; empty for arrays
    categories: dict[str, tuple[str, ...]]  # of each categorical feature
    missing: dict[str, int]  # rows without a category, of each categorical feature
    layout: str  # of arrays; empty for a table
    shape: tuple[int, ...]  # of one row with its channels first; empty for a table
    pixels: tuple[float, ...]  # smallest and largest value of images, else empty
    x: Statistics  # numeric features or channels, about zero
    y: Statistics  # regression targets, about zero


class Deviations(NamedTuple):
    """The second round: sums about the means of the first."""

    x: Statistics
    y: Statistics


class Centres(NamedTuple):
    """Means of the first round."""

    x: Array  # (F,) numeric features or channels
    y: Array  # (R,) regression targets


def fit_schema(raw: Raw, train: Sequence[Member], unseen: str) -> Schema:
    """Categories, classes, means and scales.

    Args:
        raw: the pool.
        train: training clients.
        unseen: ``column`` or ``error``, what happens to categories that no training client has.

    Raises:
        DataError: for a feature without a value, a target without variation, or a missing category where that is an error.
    """
    total = merge(survey(raw, member.rows) for member in train)
    about = centres(total)
    return schema_of(total, about, add_deviations(deviations(raw, member.rows, about) for member in train), unseen)


def survey(raw: Raw, rows: Array) -> Survey:
    """The first round over some rows of the pool."""
    y = raw.y
    classes = tuple(y.labels[code] for code in np.unique(y.values[rows])) if y.kind == "classification" else ()
    facts = _table_facts(raw, rows) if isinstance(raw, RawTable) else _array_facts(raw, rows)
    return Survey(len(rows), y.kind, classes, y.names, *facts, statistics(_inputs(raw, rows)), statistics(_outputs(raw, rows)))


_Facts = tuple[tuple[FeatureInfo, ...], dict[str, tuple[str, ...]], dict[str, int], str, tuple[int, ...], tuple[float, ...]]


def _table_facts(raw: RawTable, rows: Array) -> _Facts:
    values = {info.name: raw.columns[info.name][rows] for info in raw.features if info.kind == "categorical"}
    categories = {name: ordered(value for value in column if value is not None) for name, column in values.items()}
    return raw.features, categories, {name: sum(value is None for value in column) for name, column in values.items()}, "", (), ()


def _array_facts(raw: RawArrays, rows: Array) -> _Facts:
    layout = resolve(raw.x.shape, raw.layout)
    x = raw.x[rows]
    pixels = (float(x.min()), float(x.max())) if layout in ("image", "channels_last") else ()
    return (), {}, {}, layout, view(raw.x[:1], layout).shape[1:], pixels


def _inputs(raw: Raw, rows: Array) -> Array:
    if isinstance(raw, RawArrays):
        return flat(np.asarray(raw.x[rows]), resolve(raw.x.shape, raw.layout))
    numeric = [raw.columns[info.name][rows] for info in raw.features if info.kind == "numeric"]
    return np.stack(numeric, axis=1) if numeric else np.zeros((len(rows), 0))


def _outputs(raw: Raw, rows: Array) -> Array:
    return raw.y.values[rows] if raw.y.kind == "regression" else np.zeros((len(rows), 0))


def deviations(raw: Raw, rows: Array, about: Centres) -> Deviations:
    """The second round over some rows of the pool."""
    return Deviations(statistics(_inputs(raw, rows), about.x), statistics(_outputs(raw, rows), about.y))


def add_deviations(parts: Iterable[Deviations]) -> Deviations:
    """The sum over those who hold rows."""
    return functools.reduce(lambda a, b: Deviations(add((a.x, b.x)), add((a.y, b.y))), parts)


def merge(parts: Iterable[Survey]) -> Survey:
    """The survey of everybody's rows.

    Raises:
        DataError: if they are of different kinds; says in what they differ.
    """
    return functools.reduce(_both, parts)


_ALIKE = ("kind", "targets", "features", "layout", "shape")


def _both(a: Survey, b: Survey) -> Survey:
    for name in _ALIKE:
        if getattr(a, name) != getattr(b, name):
            raise DataError(
                f"clients differ in the {name} of their data: {getattr(a, name)} against {getattr(b, name)}; say it in the config's [data]"
            )
    return a._replace(
        rows=a.rows + b.rows,
        classes=ordered((*a.classes, *b.classes)),
        categories={name: ordered((*own, *b.categories[name])) for name, own in a.categories.items()},
        missing={name: own + b.missing[name] for name, own in a.missing.items()},
        pixels=(min(a.pixels[0], b.pixels[0]), max(a.pixels[1], b.pixels[1])) if a.pixels else (),
        x=add((a.x, b.x)),
        y=add((a.y, b.y)),
    )


def centres(total: Survey) -> Centres:
    """What the second round is about."""
    return Centres(centre(total.x), centre(total.y))


def schema_of(total: Survey, about: Centres, second: Deviations, unseen: str) -> Schema:
    """The schema that follows from the sums of both rounds; ``unseen`` as for :func:`fit_schema`."""
    mean, scale = mean_and_scale(about.x, second.x)
    names = _targets(total, about, second)
    if total.features:
        features = _features(total, mean, scale, unseen)
        width = sum(len(columns(feature)) for feature in features)
        return Schema(total.kind, (width,), "table", features, **names)  # type: ignore[arg-type]  # the values are as _targets says
    if not np.isfinite(scale).all():
        raise DataError(f"channel {int(np.argmin(np.isfinite(scale)))} of the inputs has values too large to square: change its unit.")
    fitted = {"layout": total.layout, "channel_mean": tuple(mean.tolist()), "channel_scale": tuple(scale.tolist()), "pixel_range": total.pixels}
    return Schema(total.kind, total.shape, "array", **fitted, **names)  # type: ignore[arg-type]  # see above


def _targets(total: Survey, about: Centres, second: Deviations) -> dict[str, tuple[object, ...]]:
    if total.kind == "classification":
        if len(total.classes) < 2:
            raise DataError(f"target {total.targets[0]}: the training clients have one class, {total.classes[0]!r}; expected two or more.")
        return {"classes": total.classes, "targets": total.targets}
    mean, scale = mean_and_scale(about.y, second.y)
    for name, value, spread in zip(total.targets, mean, scale, strict=True):
        if not spread > 0 or not np.isfinite(spread):
            raise DataError(f"target {name}: every training row has {value:g}, or values too large to square; expected values that differ.")
    return {"targets": total.targets, "target_mean": tuple(mean.tolist()), "target_scale": tuple(scale.tolist())}


def _features(total: Survey, mean: Array, scale: Array, unseen: str) -> tuple[Feature, ...]:
    """Every column as the training clients have it."""
    numeric = [info.name for info in total.features if info.kind == "numeric"]
    found = {name: _numeric(name, m, s, n, total.rows) for name, m, s, n in zip(numeric, mean, scale, total.x.number, strict=True)}
    return tuple(found[info.name] if info.kind == "numeric" else _categorical(total, info.name, unseen) for info in total.features)


def _numeric(name: str, mean: float, scale: float, number: int, rows: int) -> Feature:
    if not number:
        raise DataError(f"feature {name!r} has no value in the training clients: put it into exclude.")
    if not np.isfinite(scale):
        raise DataError(f"feature {name!r} has values too large to square: change its unit, or put it into exclude.")
    return Feature(name, "numeric", mean=float(mean), scale=float(scale), fill=float(mean), indicator=bool(number < rows))


def _categorical(total: Survey, name: str, unseen: str) -> Feature:
    missing = total.missing[name]
    if missing == total.rows:
        raise DataError(f"feature {name!r} has no value in the training clients: put it into exclude.")
    if missing and unseen == "error":
        raise DataError(f"feature {name!r} is missing in {missing} training rows: set unseen = 'column' or drop_missing = true.")
    return Feature(name, "categorical", total.categories[name], unseen=unseen == "column")
