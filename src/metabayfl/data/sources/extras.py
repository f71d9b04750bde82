"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from metabayfl.errors import DataError


def need(module: str, extra: str, what: str) -> Any:
    """An optional module.

    Raises:
        DataError: says which extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{what} needs {module.partition('.')[0]}: install it with  pip install 'metabayfl[{extra}]'  ({error}).") from error
