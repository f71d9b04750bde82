"""Every error that metabayfl raises on purpose.

::

    MetabayflError
    ├── ConfigError        an unknown name, key or value in a config or an argument
    ├── DataError          a file, table or array that cannot become a federation
    ├── SchemaError        inputs that do not fit the schema a strategy was trained on
    ├── ModelError         a network that cannot be vectorised or does not fit the data
    ├── ArtifactError      a strategy, posterior, checkpoint or message that is damaged, altered or of another version
    ├── QuorumError        too few clients are left for a round to count
    ├── FederationError    machines that cannot work together: a deadline, too few sites, a message that does not belong
    ├── PrivacyError       a release that would break the promised privacy: too little noise, or a spent budget
    ├── StorageError       a file that could not be written whole (full disk, no permission)
    └── DivergedError      a training whose numbers are no longer finite

Each message says what was given, what was expected and what to do. The command line turns them into one line and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MetabayflError(Exception):
    """Base of all errors of this library."""


class ConfigError(MetabayflError, ValueError):
    """An unknown name, key or value in a config or an argument."""


class DataError(MetabayflError, ValueError):
    """A file, table or array that cannot become a federation."""


class SchemaError(MetabayflError, ValueError):
    """Inputs that do not fit the schema that a strategy was trained on."""


class ModelError(MetabayflError, ValueError):
    """A network that cannot be vectorised or does not fit the data."""


class ArtifactError(MetabayflError, ValueError):
    """A strategy, posterior, checkpoint or message that is damaged, altered or of another version."""


class QuorumError(MetabayflError, RuntimeError):
    """Too few clients are left for a round to count."""


class StorageError(MetabayflError, OSError):
    """A file that could not be written whole."""


class FederationError(MetabayflError, RuntimeError):
    """Machines that cannot work together: a deadline that passed, too few sites, a message that does not belong."""


class PrivacyError(MetabayflError, RuntimeError):
    """A release that would break the promised privacy: too little noise, or a spent budget."""


class DivergedError(MetabayflError, ValueError):
    """A training whose numbers are no longer finite."""


def unknown(what: str, given: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a registry; near names come first.

    Example:
        >>> print(unknown("algorithm", "fedavgg", ["fedavg", "fedprox", "maml"]))
        unknown algorithm 'fedavgg': did you mean 'fedavg'? Known: fedavg, fedprox, maml.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    hint = f" did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return ConfigError(f"unknown {what} {given!r}:{hint} Known: {', '.join(names)}.")
