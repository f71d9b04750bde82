"""Hugging Face data sets, with the partitioners of flwr-datasets or with this library's own partitions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metabayfl.data.checks import need_column
from metabayfl.data.options import DataOptions
from metabayfl.data.pool import as_flag
from metabayfl.data.raw import Array, Labels, Raw, labels
from metabayfl.data.sources.arrays import from_arrays
from metabayfl.data.sources.extras import need
from metabayfl.data.sources.tables import from_frame
from metabayfl.errors import DataError

_EXTRA = "huggingface"


def load_huggingface(options: DataOptions, base: Path) -> Raw:
    """The data set ``path`` of the Hub, or a folder that ``datasets.save_to_disk`` wrote; ``partitioner`` makes the clients if it is given.

    Raises:
        DataError: if flwr-datasets is not installed, or the data set is not there.
    """
    if len(options.paths) != 1:
        raise DataError("source 'huggingface' needs path: one name on the Hub, such as 'flwrlabs/femnist', or a folder of save_to_disk.")
    path = options.paths[0]
    datasets = need("datasets", _EXTRA, "source 'huggingface'")
    try:
        folder = base / path
        dataset = datasets.load_from_disk(str(folder)) if folder.is_dir() else datasets.load_dataset(path, split=options.hf_split)
    except (OSError, ValueError) as error:
        where = f" Get it from {options.where}." if options.where else ""
        raise DataError(f"the Hugging Face data set {path!r} could not be loaded: {error}.{where}") from error
    if isinstance(dataset, dict):
        need_column(options.hf_split, list(dataset), "split", path)
        dataset = dataset[options.hf_split]
    return from_huggingface(dataset, options, options.partitioner or None)


def from_huggingface(dataset: Any, options: DataOptions, partitioner: Any = None) -> Raw:
    """Rows of a data set in memory or on disk.

    Args:
        dataset: a ``datasets.Dataset``.
        options: ``x`` names a column of images or lists, else the columns are a table; ``target``, ``client`` and ``flag`` name columns.
        partitioner: an object of ``flwr_datasets.partitioner``, or its class's name (with ``partitioner_args``); it decides the clients.

    Returns:
        Raw rows; pass them on as ``build_federation(options, seed, data=...)``.
    """
    if isinstance(partitioner, str):
        partitioner = _named(partitioner, options.partitioner_args)
    parts = [dataset] if partitioner is None else _parts(dataset, partitioner)
    client = None if partitioner is None else _clients(parts, partitioner)
    names = list(dataset.column_names)
    title = options.name or (options.paths[0] if options.paths else "huggingface")
    if options.x in names:
        return _arrays(parts, options, names, title, client)
    pandas = need("pandas", "tables", "a Hugging Face table")
    frame = pandas.DataFrame({name: _column(parts, name) for name in names})
    return from_frame(frame, options, title, client)


def _named(name: str, arguments: Mapping[str, Any]) -> Any:
    module = need("flwr_datasets.partitioner", _EXTRA, f"partitioner {name!r}")
    need_column(name, [item for item in dir(module) if item.endswith("Partitioner")], "partitioner", "flwr_datasets")
    return getattr(module, name)(**arguments)


def _parts(dataset: Any, partitioner: Any) -> list[Any]:
    """One data set per client. A partitioner takes its data set once and for all, so one that has it keeps it."""
    if not partitioner.is_dataset_assigned():
        partitioner.dataset = dataset
    return [partitioner.load_partition(i) for i in range(partitioner.num_partitions)]


def _clients(parts: list[Any], partitioner: Any) -> Labels:
    """Natural ids where the partitioner knows them, else numbers."""
    natural = getattr(partitioner, "partition_id_to_natural_id", None) or {}
    names = [natural.get(i, i) for i in range(len(parts))]
    return labels([name for name, part in zip(names, parts, strict=True) for _ in range(len(part))])


def _column(parts: list[Any], name: str) -> list[Any]:
    return [value for part in parts for value in part[name]]


def _arrays(parts: list[Any], options: DataOptions, names: list[str], title: str, client: Labels | None) -> Raw:
    wanted = options.targets or ("label",)
    for what, column in (("target", wanted[0]), ("client", options.client), ("flag", options.flag)):
        if column:
            need_column(column, names, f"{what} column", title)
    given = _column(parts, options.x)
    pixels = [_pixels(value) for value in given]
    shapes = sorted({value.shape for value in pixels})
    if len(shapes) != 1:
        raise DataError(f"{title}: column {options.x!r} has inputs of the shapes {', '.join(map(str, shapes))}; expected one shape. Resize them.")
    own = labels(_column(parts, options.client)) if client is None and options.client else client
    # A colour image of pillow has its channels last, whatever its size; only for plain lists does the shape have to tell.
    layout = "channels_last" if options.layout == "auto" and hasattr(given[0], "convert") and pixels[0].ndim == 3 else options.layout
    raw = from_arrays(np.stack(pixels), _column(parts, wanted[0]), name=title, kind=options.kind, layout=layout, targets=wanted)
    return raw._replace(client=own, flag=as_flag(_column(parts, options.flag), options.flag) if options.flag else None)


def _pixels(value: Any) -> Array:
    """An image or a list of numbers; a palette would be codes and not colours."""
    return np.asarray(value.convert("RGB") if getattr(value, "mode", "") in ("P", "RGBA", "CMYK") else value)
