"""Tables: csv and parquet files, or a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metabayfl.data.checks import need_column, no_duplicates
from metabayfl.data.locate import find_all
from metabayfl.data.options import DataOptions
from metabayfl.data.pool import as_flag
from metabayfl.data.raw import Array, FeatureInfo, Labels, RawTable, Target, labels, target
from metabayfl.data.sources.columns import feature_column, missing, number_column, plain
from metabayfl.data.sources.extras import need
from metabayfl.errors import DataError


def load_csv(options: DataOptions, base: Path) -> RawTable:
    """Lines of text; see ``separator``, ``names``, ``na_values``, ``client_per_file``."""
    files = find_all(options, base)
    pandas = need("pandas", "tables", "source 'csv'")
    return _from_files(files, [_read_csv(pandas, file, options) for file in files], options)


def load_parquet(options: DataOptions, base: Path) -> RawTable:
    """Parquet files; where ``features`` are listed only the columns that are needed are read."""
    files = find_all(options, base)
    pandas = need("pandas", "tables", "source 'parquet'")
    parquet = need("pyarrow.parquet", "tables", "source 'parquet'")
    return _from_files(files, [_read_parquet(pandas, parquet, file, options) for file in files], options)


def _read_csv(pandas: Any, file: Path, options: DataOptions) -> Any:
    how = {"sep": r"\s+" if options.separator == "whitespace" else options.separator}
    try:
        first = [str(name) for name in pandas.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False, **how).iloc[0]]
        if not options.names:
            no_duplicates(first, file.name)  # pandas would rename the second one silently
        elif len(options.names) != len(first):
            raise DataError(f"{file.name} has {len(first)} columns, but names lists {len(options.names)}.")
        header = {"header": None, "names": list(options.names)} if options.names else {"header": 0, "index_col": False}
        return pandas.read_csv(file, na_values=list(options.na_values), low_memory=False, **header, **how)
    except (ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file.name} is not a table of text with the separator {options.separator!r}: {error}") from error


def _read_parquet(pandas: Any, parquet: Any, file: Path, options: DataOptions) -> Any:
    try:
        names = parquet.read_schema(file).names
        no_duplicates(names, file.name)
        wanted = {*options.features, *options.targets, options.client, options.flag, options.sort_by, options.target_countdown}
        return pandas.read_parquet(file, columns=[name for name in names if name in wanted] if options.features else None)
    except (ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file.name} is not a parquet file: {error}") from error


def _from_files(files: Sequence[Path], frames: Sequence[Any], options: DataOptions) -> RawTable:
    for file, frame in zip(files, frames, strict=True):
        if list(frame.columns) != list(frames[0].columns):
            raise DataError(f"{file.name} has the columns {', '.join(frame.columns)}, {files[0].name} has {', '.join(frames[0].columns)}.")
    whole = frames[0] if len(frames) == 1 else need("pandas", "tables", "a table").concat(frames, ignore_index=True)
    return from_frame(whole, options, options.name or files[0].stem, _file_clients(files, frames, options))


def _file_clients(files: Sequence[Path], frames: Sequence[Any], options: DataOptions) -> Labels | None:
    if not options.client_per_file:
        return None
    names = options.client_names or tuple(file.stem for file in files)
    if len(set(names)) != len(files):
        raise DataError(f"{len(files)} files with a client each need {len(files)} different client_names, given {', '.join(names)}.")
    return labels(np.repeat(np.array(names, dtype=object), [len(frame) for frame in frames]))


def from_frame(frame: Any, options: DataOptions, name: str, client: Labels | None = None) -> RawTable:
    """A data frame's rows with the roles that the options give its columns.

    Args:
        frame: a pandas data frame, or a mapping from column name to values.
        options: ``client``, ``target``, ``features``, ``exclude`` and so on.
        name: for messages and reports.
        client: of each row, where no column says so.

    Raises:
        DataError: for columns that are missing, double, of dates or free text, or no target.
    """
    frame = _frame(frame, name)
    known = [str(column) for column in frame.columns]
    no_duplicates(known, name)
    frame = frame.set_axis(known, axis=1)
    client = client if client is not None or not options.client else _client(frame, options.client, known, name)
    order = _order(frame, options, known, name)
    given, title = _target_values(frame, options, client, known, name)
    infos, columns = _features(frame, options, known, name)
    keep = _complete(columns, given)[order] if options.drop_missing else np.ones(len(order), bool)
    rows = order[keep]
    return RawTable(
        name,
        {column: values[rows] for column, values in columns.items()},
        infos,
        _target(given[rows], title, options),
        None if client is None else Labels(client.codes[rows], client.names),
        as_flag(plain(frame[options.flag])[rows], options.flag) if options.flag else None,
        () if keep.all() else (f"dropped {int(np.sum(~keep))} of {len(keep)} rows with a missing value",),
    )


def _frame(data: Any, name: str) -> Any:
    if isinstance(data, Mapping):
        return need("pandas", "tables", "a table").DataFrame(dict(data))
    if not hasattr(data, "columns") or not hasattr(data, "set_axis"):
        raise DataError(f"{name}: given a {type(data).__name__}, expected a pandas data frame, a mapping of columns, or from_arrays(x, y, client).")
    return data


def _client(frame: Any, column: str, known: list[str], name: str) -> Labels:
    need_column(column, known, "client column", name)
    return labels(plain(frame[column]))


def _order(frame: Any, options: DataOptions, known: list[str], name: str) -> Array:
    """Row order; stable, so that equal values stay as in the file."""
    if options.flag:
        need_column(options.flag, known, "flag column", name)
    if not options.sort_by:
        return np.arange(len(frame))
    need_column(options.sort_by, known, "column to sort by", name)
    values = number_column(frame[options.sort_by], options.sort_by)
    if np.isnan(values).any():
        raise DataError(f"sort_by column {options.sort_by!r} is missing in {int(np.isnan(values).sum())} of {len(values)} rows.")
    return np.argsort(values, kind="stable")


def _target_values(frame: Any, options: DataOptions, client: Labels | None, known: list[str], name: str) -> tuple[Array, tuple[str, ...]]:
    if options.target_countdown:
        return _countdown(frame, options, client, known, name), (f"{options.target_countdown} remaining",)
    if not options.targets:
        raise DataError(f"{name}: no target given. Set target to one of its columns: {', '.join(known)}.")
    for column in options.targets:
        need_column(column, known, "target column", name)
    if len(options.targets) == 1:
        return plain(frame[options.targets[0]]), options.targets
    return np.stack([number_column(frame[column], column) for column in options.targets], axis=1), options.targets


def _countdown(frame: Any, options: DataOptions, client: Labels | None, known: list[str], name: str) -> Array:
    column = options.target_countdown
    need_column(column, known, "countdown column", name)
    if client is None or (client.codes < 0).any():
        raise DataError(f"{name}: target_countdown = {column!r} needs the client of every row: set client.")
    values = number_column(frame[column], column)
    last = np.full(len(client.names), -np.inf)
    np.maximum.at(last, client.codes, values)
    left = last[client.codes] - values
    return left if options.target_cap is None else np.minimum(left, options.target_cap)


def _target(given: Array, title: tuple[str, ...], options: DataOptions) -> Target:
    if options.positive_above is None:
        return target(given, "regression" if options.target_countdown else options.kind, title)
    values = target(given, "regression", title).values[:, 0]
    return target((values > options.positive_above).astype(np.int64), "classification", title)


def _features(frame: Any, options: DataOptions, known: list[str], name: str) -> tuple[tuple[FeatureInfo, ...], dict[str, Array]]:
    for column in (*options.features, *options.exclude, *options.categorical):
        need_column(column, known, "column", name)
    roles = {**dict.fromkeys(options.exclude, "excluded"), options.flag: "the flag", options.client: "the client"}
    roles |= dict.fromkeys(options.targets, "the target")
    for column in options.features:
        if column in roles:
            raise DataError(f"{name}: column {column!r} is {roles[column]} and cannot be a feature. Take it out of features.")
    chosen = [column for column in (options.features or known) if column not in roles]
    if not chosen:
        raise DataError(f"{name}: no feature is left besides client and target. Its columns: {', '.join(known)}.")
    columns = {column: feature_column(frame[column], column, options) for column in chosen}
    return tuple(FeatureInfo(column, "categorical" if values.dtype == object else "numeric") for column, values in columns.items()), columns


def _complete(columns: dict[str, Array], given: Array) -> Array:
    bad = missing(given)
    for values in columns.values():
        bad = bad | missing(values)
    return ~bad
