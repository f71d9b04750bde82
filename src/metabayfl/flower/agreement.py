"""How sites and server come to one schema without a row leaving its site.

Each site sends sums over its training rows, once: per numeric column the number of values and their sum, then the sums of deviations and of squared
deviations from the federation's mean; the names of categories and classes; of images the smallest and largest value. That is what a mean and a scale
need, and all that the server learns beyond the clients' names and numbers of rows. A run that is given a schema asks for none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metabayfl.data import Schema
from metabayfl.data.fit import Centres, Deviations, Survey, add_deviations, centres, merge, schema_of
from metabayfl.data.normalisation import Statistics
from metabayfl.data.raw import Array, FeatureInfo
from metabayfl.errors import DataError, FederationError

Arrays = dict[str, Tensor]

_SIDES = ("x", "y")
_FACTS = ("rows", "kind", "classes", "targets", "features", "categories", "missing", "layout", "shape", "pixels")


def survey_message(own: Survey) -> tuple[dict[str, Any], Arrays]:
    """What a site tells of its training rows in the first round, as words and arrays."""
    body = {name: getattr(own, name) for name in _FACTS} | {"features": [list(info) for info in own.features]}
    return body, {f"{side}/{name}": torch.from_numpy(getattr(getattr(own, side), name)) for side in _SIDES for name in ("number", "total")}


def read_survey(body: dict[str, Any], arrays: Arrays) -> Survey:
    """The inverse of :func:`survey_message`.

    Raises:
        FederationError: for anything else.
    """
    try:
        given: dict[str, Any] = {name: _tuples(body[name]) for name in _FACTS}
        given["features"] = tuple(FeatureInfo(*item) for item in given["features"])
        found = Survey(**given | {side: _statistics(arrays, side, ("number", "total")) for side in _SIDES})
        _check_survey(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FederationError(f"a site's survey cannot be read ({error!r}): install the same metabayfl at every site") from error
    return found


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _check_survey(found: Survey) -> None:
    numeric = sum(info.kind == "numeric" for info in found.features)
    widths = (numeric if found.features else int(found.shape[0]), len(found.targets) if found.kind == "regression" else 0)
    if (len(found.x.total), len(found.y.total)) != widths or found.rows < 1 or found.kind not in ("classification", "regression"):
        raise ValueError(f"{len(found.x.total)} and {len(found.y.total)} sums over {found.rows} rows, expected {widths}")
    names = {info.name for info in found.features if info.kind == "categorical"}
    if found.categories.keys() != names or found.missing.keys() != names:
        raise ValueError(f"categories of {sorted(found.categories)}, expected {sorted(names)}")


def centre_message(about: Centres) -> Arrays:
    """What the server sends before the second round."""
    return {side: torch.from_numpy(getattr(about, side)) for side in _SIDES}


def read_centres(arrays: Arrays) -> Centres:
    """The inverse of :func:`centre_message`."""
    return Centres(*(_vector(arrays, side) for side in _SIDES))


def deviation_message(own: Deviations) -> Arrays:
    """What a site tells in the second round."""
    return {f"{side}/{name}": torch.from_numpy(value) for side in _SIDES for name, value in getattr(own, side)._asdict().items()}


def read_deviations(arrays: Arrays, about: Centres) -> Deviations:
    """The inverse of :func:`deviation_message`, for columns as many as ``about`` has.

    Raises:
        FederationError: for anything else.
    """
    found = Deviations(*(_statistics(arrays, side, Statistics._fields) for side in _SIDES))
    if [len(found.x.total), len(found.y.total)] != [len(about.x), len(about.y)]:
        raise FederationError(f"a site's deviations are of {len(found.x.total)} columns, expected {len(about.x)}")
    return found


def _statistics(arrays: Arrays, side: str, names: Sequence[str]) -> Statistics:
    """Sums of one side; those that did not travel are zero."""
    given = {name: _vector(arrays, f"{side}/{name}") for name in names}
    if len({len(value) for value in given.values()}) != 1 or (given["number"] < 0).any():
        raise FederationError(f"a site's sums of {side} are of different lengths, or of a negative number of values")
    return Statistics(**{name: given.get(name, given["total"] * 0.0) for name in Statistics._fields})


def _vector(arrays: Arrays, name: str) -> Array:
    value = arrays.get(name)
    expected = torch.int64 if name.endswith("number") else torch.float64
    if value is None or value.ndim != 1 or value.dtype != expected:
        raise FederationError(f"the sums {name!r} are missing or of another form: install the same metabayfl at every site")
    vector: Array = value.numpy()
    return vector


def agree(surveys: dict[str, Survey]) -> Centres:
    """What the second round is about, from the sites' surveys by name.

    Raises:
        FederationError: if the sites' data are of different kinds; names the site and the difference.
    """
    names = sorted(surveys)
    for name in names[1:]:
        try:
            merge([surveys[names[0]], surveys[name]])
        except DataError as error:
            raise FederationError(f"the sites {names[0]!r} and {name!r} do not fit together: {error}") from error
    return centres(merge(surveys[name] for name in names))


def agreed_schema(surveys: dict[str, Survey], about: Centres, seconds: dict[str, Deviations], unseen: str) -> Schema:
    """The schema of the sites that answered both rounds, in the order of their names.

    Raises:
        FederationError: if no schema can follow, as where every row has one class.
    """
    names = sorted(seconds)
    try:
        return schema_of(merge(surveys[name] for name in names), about, add_deviations(seconds[name] for name in names), unseen)
    except DataError as error:
        raise FederationError(f"the sites' data give no schema: {error}") from error
