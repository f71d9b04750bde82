"""One client's file for `personalize` and `predict`, and the file of predictions that comes back."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from metabayfl import storage
from metabayfl.data.schema import Schema
from metabayfl.data.sources.extras import need
from metabayfl.errors import DataError
from metabayfl.presentation import PersonalPrediction


def labelled(path: Path, schema: Schema) -> tuple[Any, Any]:
    """Inputs and targets of a csv or parquet file with the schema's columns, or of an npz with ``x`` and ``y``.

    Raises:
        DataError: if the file is missing, of another kind, or lacks the target.
    """
    data = _read(path)
    names = ["y"] if isinstance(data, dict) else list(schema.targets)
    for name in names:
        if name not in data:
            raise DataError(f"{path} has no target {name!r}; it holds {', '.join(map(str, data))}")
    y = np.asarray(data["y"] if isinstance(data, dict) else data[names])
    return _inputs(data, path), y[:, 0] if schema.kind == "classification" and y.ndim > 1 else y


def unlabelled(path: Path) -> Any:
    """Inputs alone.

    Raises:
        DataError: as :func:`labelled`.
    """
    return _inputs(_read(path), path)


def _inputs(data: Any, path: Path) -> Any:
    if not isinstance(data, dict):
        return data
    if "x" not in data:
        raise DataError(f"{path} has no array 'x'; it holds {', '.join(data)}")
    return data["x"]


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:  # the first refuses what NumPy takes for something else
                return {name: arrays[name] for name in arrays.files}
        if path.suffix in (".csv", ".parquet"):
            pandas = need("pandas", "tables", f"a {path.suffix} file")
            return pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a whole {path.suffix} file: {error}") from error
    raise DataError(f"{path} ends in {path.suffix!r}, expected .csv, .parquet or .npz")


def write_predictions(path: Path, prediction: PersonalPrediction) -> int:
    """One line an input: label, probabilities and set or interval, uncertainties, and whether to refer; returns the number of lines."""
    columns: dict[str, Any] = {}
    if prediction.probabilities is not None:
        columns["label"] = prediction.label
        columns |= {f"p({name})": prediction.probabilities[:, at] for at, name in enumerate(prediction.classes)}
        columns |= {f"{part}_nats": getattr(prediction, part) for part in ("total", "aleatoric", "epistemic")}
        columns["set"] = [" | ".join(names) for names in prediction.sets or ()]
    else:
        for at, name in enumerate(prediction.classes):
            columns[name] = prediction.label[:, at]
            columns |= {f"{name} {end}": _bounds(prediction)[:, at, side] for side, end in enumerate(("low", "high"))}
            columns |= {f"{name} {part} variance": getattr(prediction, part)[:, at] for part in ("total", "aleatoric", "epistemic")}
    columns["novel"] = np.where(prediction.novel, "yes", "no")
    columns["decision"] = np.where(prediction.refer, "refer", "accept")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_texts(values) for values in columns.values()), strict=True))
    storage.write_text(path, text.getvalue())
    return len(prediction.refer)


def _bounds(prediction: PersonalPrediction) -> Any:
    return np.zeros((0, 0, 2)) if prediction.interval is None else prediction.interval


def _texts(values: Any) -> list[str]:
    return [f"{value:.6g}" if isinstance(value, float | np.floating) else str(value) for value in values]
