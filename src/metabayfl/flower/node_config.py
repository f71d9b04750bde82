"""A site as the few words with which its node in Flower is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from metabayfl.errors import ConfigError

_NEEDED, _TEXTS, _SWITCHES = ("site", "data", "folder"), ("client-column",), ("secure-only",)


class Site(NamedTuple):
    """One site: its name, its file and the folder for what it keeps."""

    name: str
    data: Path
    folder: Path
    client_column: str = ""  # whose row it is; without one the whole file is one client, named as the site
    secure_only: bool = False  # whether it refuses plans in which the server would see its message


def to_node(site: Site) -> dict[str, str | bool]:
    """What the node's config says of a site.

    Example:
        >>> to_node(Site("basel", Path("rows.csv"), Path("kept"), secure_only=True))
        {'site': 'basel', 'data': 'rows.csv', 'folder': 'kept', 'client-column': '', 'secure-only': True}
    """
    words = (site.name, str(site.data), str(site.folder), site.client_column, site.secure_only)
    return dict(zip((*_NEEDED, *_TEXTS, *_SWITCHES), words, strict=True))


def from_node(config: Mapping[str, object]) -> Site:
    """The inverse of :func:`to_node`; what is no path and no name may be missing.

    Raises:
        ConfigError: for a key that is missing or of another type.
    """
    texts = {name: config.get(name, "") for name in (*_NEEDED, *_TEXTS)}
    secure_only = config.get("secure-only", False)
    wrong = [name for name, given in texts.items() if not isinstance(given, str) or (name in _NEEDED and not given)]
    if wrong or not isinstance(secure_only, bool):
        name = next(iter(wrong), "secure-only")
        expected = "a text" if wrong else "true or false"
        raise ConfigError(
            f"the node's config has {name} = {config.get(name)!r}, expected {expected}: "
            'start the site with --node-config \'site="..." data="..." folder="..."\''
        )
    return Site(str(texts["site"]), Path(str(texts["data"])), Path(str(texts["folder"])), str(texts["client-column"]), secure_only)
