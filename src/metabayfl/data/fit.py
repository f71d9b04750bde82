"""The schema of a federation, from its training clients alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from metabayfl.data.channels import flat, resolve, view
from metabayfl.data.features import Feature, columns
from metabayfl.data.federation import Member
from metabayfl.data.normalisation import mean_and_scale
from metabayfl.data.raw import Array, FeatureInfo, Raw, RawArrays, RawTable, ordered
from metabayfl.data.schema import Schema
from metabayfl.errors import DataError


def fit_schema(raw: Raw, train: Sequence[Member], unseen: str) -> Schema:
    """Categories, classes, means and scales.

    Args:
        raw: the pool.
        train: training clients.
        unseen: ``column`` or ``error``, what happens to categories that no training client has.

    Raises:
        DataError: for a feature without a value, a target without variation, or a missing category where that is an error.
    """
    classes, targets, mean, scale = _fit_targets(raw, train)
    names = {"classes": classes, "targets": targets, "target_mean": mean, "target_scale": scale}
    if isinstance(raw, RawTable):
        features = fit_features(raw, train, unseen)
        width = sum(len(columns(feature)) for feature in features)
        return Schema(raw.y.kind, (width,), "table", features, **names)  # type: ignore[arg-type]  # the values are as _fit_targets says
    return _fit_arrays(raw, train, names)


def _fit_targets(raw: Raw, train: Sequence[Member]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
    y = raw.y
    if y.kind == "classification":
        found = np.unique(np.concatenate([y.values[member.rows] for member in train]))
        if len(found) < 2:
            raise DataError(f"target {y.names[0]}: the training clients have one class, {y.labels[found[0]]!r}; expected two or more.")
        return tuple(y.labels[code] for code in found), y.names, (), ()
    mean, scale, _ = mean_and_scale(_read(train, lambda rows: y.values[rows]))
    for name, value, spread in zip(y.names, mean, scale, strict=True):
        if not spread > 0 or not np.isfinite(spread):
            raise DataError(f"target {name}: every training row has {value:g}, or values too large to square; expected values that differ.")
    return (), y.names, tuple(mean.tolist()), tuple(scale.tolist())


def _read(train: Sequence[Member], read: Callable[[Array], Array]) -> Callable[[], Iterable[Array]]:
    return lambda: (read(member.rows) for member in train)


def _fit_arrays(raw: RawArrays, train: Sequence[Member], names: dict[str, tuple[object, ...]]) -> Schema:
    layout = resolve(raw.x.shape, raw.layout)
    mean, scale, _ = mean_and_scale(_read(train, lambda rows: flat(np.asarray(raw.x[rows]), layout)))
    if not np.isfinite(scale).all():
        raise DataError(f"channel {int(np.argmin(np.isfinite(scale)))} of the inputs has values too large to square: change its unit.")
    shape = view(raw.x[:1], layout).shape[1:]
    pixels = _range(raw, train) if layout in ("image", "channels_last") else ()
    fitted = {"layout": layout, "channel_mean": tuple(mean.tolist()), "channel_scale": tuple(scale.tolist()), "pixel_range": pixels}
    return Schema(raw.y.kind, shape, "array", **fitted, **names)  # type: ignore[arg-type]  # see fit_schema


def _range(raw: RawArrays, train: Sequence[Member]) -> tuple[float, float]:
    ends = [(float(x.min()), float(x.max())) for x in (raw.x[member.rows] for member in train)]
    return min(low for low, _ in ends), max(high for _, high in ends)


def fit_features(raw: RawTable, train: Sequence[Member], unseen: str) -> tuple[Feature, ...]:
    """Every column as the training clients have it."""
    numeric = [info.name for info in raw.features if info.kind == "numeric"]
    found: dict[str, Feature] = {}
    if numeric:
        mean, scale, number = mean_and_scale(_read(train, lambda rows: np.stack([raw.columns[name][rows] for name in numeric], axis=1)))
        rows = sum(len(member.rows) for member in train)
        found = {name: _numeric(name, m, s, n, rows) for name, m, s, n in zip(numeric, mean, scale, number, strict=True)}
    return tuple(found[info.name] if info.kind == "numeric" else _categorical(raw, info, train, unseen) for info in raw.features)


def _numeric(name: str, mean: float, scale: float, number: int, rows: int) -> Feature:
    if not number:
        raise DataError(f"feature {name!r} has no value in the training clients: put it into exclude.")
    if not np.isfinite(scale):
        raise DataError(f"feature {name!r} has values too large to square: change its unit, or put it into exclude.")
    return Feature(name, "numeric", mean=float(mean), scale=float(scale), fill=float(mean), indicator=bool(number < rows))


def _categorical(raw: RawTable, info: FeatureInfo, train: Sequence[Member], unseen: str) -> Feature:
    values = [value for member in train for value in raw.columns[info.name][member.rows]]
    missing = sum(value is None for value in values)
    if missing == len(values):
        raise DataError(f"feature {info.name!r} has no value in the training clients: put it into exclude.")
    if missing and unseen == "error":
        raise DataError(f"feature {info.name!r} is missing in {missing} training rows: set unseen = 'column' or drop_missing = true.")
    return Feature(info.name, "categorical", ordered(value for value in values if value is not None), unseen=unseen == "column")
