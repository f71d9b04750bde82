"""One column of a data frame to numpy: numbers with NaN, or texts with ``None``."""

from __future__ import annotations

from typing import Any

import numpy as np

from metabayfl.data.options import DataOptions
from metabayfl.data.raw import Array, is_missing, label, ordered
from metabayfl.errors import DataError


def plain(series: Any) -> Array:
    """A column as numpy holds it: whole numbers stay whole; nullable ones become float64 with NaN, texts objects with ``None``."""
    kind = series.dtype.kind
    if kind in "iub" and not series.isna().any():
        return np.asarray(series.to_numpy())
    if kind in "iufb":
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.array([None if is_missing(value) else value for value in series.tolist()], dtype=object)


def missing(values: Array) -> Array:
    """Which rows have no value, ``(N,)``; any column of several."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values.reshape(len(values), -1)).any(1))
    return np.array([value is None for value in values]) if values.dtype == object else np.zeros(len(values), bool)


def number_column(series: Any, name: str) -> Array:
    """A column that has to be numbers, float64.

    Raises:
        DataError: if it holds text or dates.
    """
    if series.dtype.kind not in "iufb":
        raise DataError(f"column {name!r} holds {series.dtype} values, such as {next(iter(series.dropna()), None)!r}; expected numbers.")
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def feature_column(series: Any, name: str, options: DataOptions) -> Array:
    """An input column: float64, or objects for categories.

    Raises:
        DataError: for dates, lists, free text, and numbers with stray text between them.
    """
    kind = series.dtype.kind
    if kind in "mM":
        raise DataError(f"column {name!r} holds dates or times ({series.dtype}): turn it into numbers, such as days, or put it into exclude.")
    values = plain(series)
    if kind in "iufb" and name not in options.categorical:
        return values.astype(np.float64)
    present = [value for value in values.tolist() if not is_missing(value)]
    if present and all(isinstance(value, bool) for value in present) and name not in options.categorical:
        return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
    texts = np.array([label(value) for value in values.tolist()], dtype=object)
    _check_categories(texts, present, name, options)
    return texts


def _check_categories(texts: Array, present: list[Any], name: str, options: DataOptions) -> None:
    if any(not isinstance(value, str | bool | int | float | np.generic) for value in present):
        raise DataError(f"column {name!r} holds values of type {type(present[0]).__name__}: expected numbers or text. Put it into exclude.")
    names = ordered(text for text in texts if text is not None)
    strays = [text for text in names if not _is_number(text)]
    numbers = sum(_is_number(text) for text in texts if text is not None)
    if name not in options.categorical and 2 * numbers > len(present):
        shown = f"text between them, such as {strays[0]!r}" if strays else "all of them written as text"
        raise DataError(f"column {name!r} holds {numbers} numbers with {shown}: add it to na_values, convert the column, or list it in categorical.")
    if len(names) > options.max_categories:
        raise DataError(
            f"column {name!r} holds {len(names)} different texts, such as {names[0]!r}, more than max_categories = {options.max_categories}: "
            "put it into exclude, or raise max_categories."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
