"""Arrays in memory, in one ``.npz`` file, or in a folder of ``.npy`` files that are read lazily."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from metabayfl.data.checks import need_column
from metabayfl.data.locate import find, find_all
from metabayfl.data.options import DataOptions
from metabayfl.data.pool import as_flag
from metabayfl.data.raw import Array, RawArrays, labels, target
from metabayfl.errors import DataError


def from_arrays(
    x: Any,
    y: Any,
    client: Any = None,
    *,
    flag: Any = None,
    name: str = "arrays",
    kind: str = "auto",
    layout: str = "auto",
    targets: tuple[str, ...] = ("y",),
) -> RawArrays:
    """Rows that are in memory already.

    Args:
        x: ``(N, d)`` vectors, ``(N, h, w)`` or ``(N, c, h, w)`` images; see ``layout``. A memory map stays one.
        y: ``(N,)`` classes of any type, or numbers ``(N,)`` or ``(N, R)``.
        client: ``(N,)`` ids of any type; None for synthetic partitions.
        flag: ``(N,)`` yes/no marks.
        name: of the federation.
        kind: ``classification``, ``regression`` or ``auto``.
        layout: see :class:`~metabayfl.data.options.DataOptions`.
        targets: names of the targets, one a column of ``y``.

    Raises:
        DataError: for lengths that differ, or targets that are missing.

    Example:
        >>> raw = from_arrays(np.zeros((4, 2)), ["a", "b", "a", "b"], [1, 1, 2, 2])
        >>> raw.y.labels, raw.client.names
        (('a', 'b'), ('1', '2'))
    """
    x, y = _array(x, f"{name}: x"), _array(y, f"{name}: y")
    x = x[:, None] if x.ndim == 1 else x
    lengths = {part: len(values) for part, values in (("x", x), ("y", y), ("client", client), ("flag", flag)) if values is not None}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{name}: lengths differ, {', '.join(f'{part} {length}' for part, length in lengths.items())}; expected one row each.")
    columns = targets if y.ndim == 1 or len(targets) == y.shape[1] else tuple(f"{targets[0]}{i}" for i in range(y.shape[1]))
    return RawArrays(
        name,
        x,
        target(y, kind, columns),
        None if client is None else labels(client),
        None if flag is None else as_flag(flag, "flag"),
        layout,
    )


def _array(values: Any, what: str) -> Array:
    try:
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} has rows of different shapes; expected one shape ({error}).") from error
    if array.ndim == 0:
        raise DataError(f"{what} is {array!r}; expected one row per sample.")
    return array


def load_npz(options: DataOptions, base: Path) -> RawArrays:
    """One ``.npz`` file; ``x``, ``target``, ``client`` and ``flag`` are its keys."""
    file = find_all(options, base)[0]
    keys = _keys(options)
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as archive:  # NumPy leaves a damaged file open
            for what, key in keys.items():
                need_column(key, archive.files, f"key for {what}", file.name)
            return _raw(file.stem, {what: archive[key] for what, key in keys.items()}, options)
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file.name} is not an npz file of plain arrays ({error}). Save it with numpy.savez_compressed.") from error


def load_npy(options: DataOptions, base: Path) -> RawArrays:
    """A folder; ``x``, ``target``, ``client`` and ``flag`` name ``.npy`` files in it. The inputs stay on disk until a client is read."""
    folder = find_all(options, base)[0]
    arrays = {}
    for what, key in _keys(options).items():
        file = find(str(folder.resolve() / f"{key.removesuffix('.npy')}.npy"), options, base)
        try:
            arrays[what] = np.load(file, mmap_mode="r" if what == "x" else None, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{file.name} is not an npy file of a plain array ({error}). Save it with numpy.save.") from error
    return _raw(folder.name, arrays, options)


def _keys(options: DataOptions) -> dict[str, str]:
    if len(options.targets) > 1:
        raise DataError(f"target = {list(options.targets)}: arrays have one target key; several regression targets are its columns.")
    given = {"x": options.x, "y": (options.targets or ("y",))[0], "client": options.client, "flag": options.flag}
    return {what: key for what, key in given.items() if key}


def _raw(name: str, arrays: dict[str, Any], options: DataOptions) -> RawArrays:
    return from_arrays(
        arrays["x"],
        arrays["y"],
        arrays.get("client"),
        flag=arrays.get("flag"),
        name=options.name or name,
        kind=options.kind,
        layout=options.layout,
        targets=options.targets or ("y",),
    )
