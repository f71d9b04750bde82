"""Where a file is, and what to say when it is not there."""

from __future__ import annotations

import os
from pathlib import Path

from metabayfl.data.options import DataOptions
from metabayfl.errors import DataError

ROOT_VARIABLE = "METABAYFL_DATA"
_BESIDE = Path("..") / "shared" / "data"


def roots(options: DataOptions, base: Path) -> tuple[Path, ...]:
    """Folders that a relative path may be in, first come first: ``root``, or else ``$METABAYFL_DATA``, ``base``, ``base/../shared/data``."""
    if options.root:
        return (base / Path(options.root).expanduser(),)
    variable = os.environ.get(ROOT_VARIABLE)
    return (*((Path(variable),) if variable else ()), base, base / _BESIDE)


def find_all(options: DataOptions, base: Path) -> list[Path]:
    """The files that ``path`` names, in order; those of a pattern by name.

    Raises:
        DataError: names the file, the places tried and where to get it.
    """
    if not options.paths:
        raise DataError(f"source {options.source!r} needs a path: set path to a file, a list of files or a pattern such as 'sheet_*.webp'.")
    return [file for path in options.paths for file in _matches(path, options, base)]


def find(path: str, options: DataOptions, base: Path) -> Path:
    """One file or folder.

    Raises:
        DataError: as :func:`find_all`.
    """
    return _matches(path, options, base)[0]


def _matches(path: str, options: DataOptions, base: Path) -> list[Path]:
    name = Path(path).expanduser()
    for root in roots(options, base):
        folder = Path(name.anchor) if name.is_absolute() else root
        inside = str(name.relative_to(name.anchor))
        found = sorted(folder.glob(inside)) if "*" in path else [folder / inside]
        if found and found[0].exists():
            return found
    tried = ", ".join(str(root) for root in roots(options, base))
    where = f" Get it from {options.where}." if options.where else ""
    raise DataError(f"there is no {path!r}; looked in {tried}. Set path or root, or the environment variable {ROOT_VARIABLE}.{where}")
