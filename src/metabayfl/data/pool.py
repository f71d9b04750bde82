"""Which rows of a source are used at all."""

from __future__ import annotations

import numpy as np

from metabayfl.data.options import DataOptions
from metabayfl.data.raw import Array
from metabayfl.errors import ConfigError, DataError


def kept_rows(flag: Array | None, rows: int, options: DataOptions) -> Array:
    """Positions of the rows that the flag and ``max_rows`` leave, int64.

    Example:
        >>> kept_rows(np.array([True, False, False, False]), 4, DataOptions(flag="test", flag_use="exclude", max_rows=2)).tolist()
        [1, 2]
    """
    if flag is None or options.flag_use == "heldout":
        if flag is not None and options.partition != "natural":
            raise ConfigError("data.flag_use = 'heldout' is for natural clients: with synthetic ones set it to 'exclude' or 'only'")
        kept = np.arange(rows)
    else:
        kept = np.flatnonzero(flag if options.flag_use == "only" else ~flag)
    return kept[: options.max_rows] if options.max_rows else kept


def as_flag(values: object, name: str) -> Array:
    """A yes/no mark per row.

    Raises:
        DataError: for anything but true, false, 1 and 0.
    """
    array = np.asarray(values)
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"flag {name!r} holds {array.dtype} values, expected true/false or 1/0.") from error
    if array.ndim != 1 or not np.isin(numbers, (0.0, 1.0)).all():
        raise DataError(f"flag {name!r} of shape {array.shape} holds other values than true/false or 1/0 in one column.")
    flag: Array = numbers == 1.0
    return flag
