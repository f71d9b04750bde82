"""Images stored as big sheets of equal square tiles, with an npz of labels beside them; only the sheets that are needed are decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metabayfl.data.checks import need_column
from metabayfl.data.locate import find, find_all
from metabayfl.data.options import DataOptions
from metabayfl.data.pool import as_flag, kept_rows
from metabayfl.data.raw import Array, RawArrays, count
from metabayfl.data.sources.arrays import from_arrays
from metabayfl.data.sources.extras import need
from metabayfl.errors import DataError


def load_sheets(options: DataOptions, base: Path) -> RawArrays:
    """Tiles left to right, top to bottom, sheet after sheet by name; row i of ``meta`` is tile i.

    Raises:
        DataError: for a missing file or key, or another number of tiles than labels.
    """
    files = find_all(options, base)
    image = need("PIL.Image", "images", "source 'images'")
    ends = np.cumsum([_tiles(image, file, options.tile) for file in files])
    known = _meta(options, base)
    rows = kept_rows(known.get("flag"), len(known["label"]), options)
    if ends[-1] != len(known["label"]):
        raise DataError(f"{len(files)} sheets hold {ends[-1]} tiles of {options.tile} pixels, but {options.meta} has {len(known['label'])} labels.")
    x = _decode(image, files, ends, rows, options.tile)
    raw = from_arrays(
        x,
        known["label"][rows],
        known["client"][rows] if "client" in known else None,
        flag=known["flag"][rows] if "flag" in known else None,
        name=options.name or files[0].parent.name,
        kind=options.kind,
        layout="image",
        targets=options.targets or ("label",),
    )
    skipped = len(known["label"]) - count(raw)
    return raw._replace(notes=(f"{skipped} of {len(known['label'])} images not used",) if skipped else ())


def _meta(options: DataOptions, base: Path) -> dict[str, Array]:
    if not options.meta:
        raise DataError("source 'images' needs meta: an npz file with the labels of the tiles, in their order.")
    keys = {"label": (options.targets or ("label",))[0], "client": options.client, "flag": options.flag}
    with np.load(find(options.meta, options, base), allow_pickle=False) as archive:
        for what, key in keys.items():
            if key:
                need_column(key, archive.files, f"key for {what}", options.meta)
        found = {what: archive[key] for what, key in keys.items() if key}
    return {what: as_flag(values, options.flag) if what == "flag" else values for what, values in found.items()}


def _tiles(image: Any, file: Path, tile: int) -> int:
    """From the header alone."""
    with image.open(file) as sheet:
        width, height = sheet.size
    if not tile or width % tile or height % tile:
        raise DataError(f"{file.name} is {width} x {height} pixels, which is not a whole number of tiles of {tile} pixels. Set tile.")
    return int(width // tile * (height // tile))


def _decode(image: Any, files: list[Path], ends: Array, rows: Array, tile: int) -> Array:
    parts = []
    for file, end, start in zip(files, ends, np.concatenate([[0], ends[:-1]]), strict=True):
        wanted = rows[(rows >= start) & (rows < end)] - start
        if len(wanted):
            parts.append(_read(image, file, tile)[wanted])
    return np.concatenate(parts) if parts else np.zeros((0, 3, tile, tile), np.uint8)


def _read(image: Any, file: Path, tile: int) -> Array:
    """One sheet as ``(tiles, channels, tile, tile)`` uint8."""
    with image.open(file) as sheet:
        pixels = np.asarray(sheet if sheet.mode == "L" else sheet.convert("RGB"))
    down, across = pixels.shape[0] // tile, pixels.shape[1] // tile
    split = pixels.reshape(down, tile, across, tile, -1)
    return split.transpose(0, 2, 4, 1, 3).reshape(down * across, -1, tile, tile)
