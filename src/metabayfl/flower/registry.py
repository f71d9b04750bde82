"""Who takes part: every client's id, site, role and number of samples, as the server keeps them on its disk.

Cohorts are drawn over these ids and never over Flower's node ids, which are new each time. A client stays registered when its site is away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabayfl import storage
from metabayfl.data import Clients
from metabayfl.data.raw import Array, ordered
from metabayfl.errors import ArtifactError, FederationError
from metabayfl.flower.records import Record

LONGEST = 255
"""Bytes of a site's name, which stands in the messages of secure aggregation."""

ROLES = ("train", "validation", "heldout")


class Client(NamedTuple):
    """One client as its site enrolled it."""

    id: str
    site: str
    role: str
    samples: int  # training rows, or all rows of one that does not train


Registry = dict[str, Client]
"""Clients by id."""


def enrolled(reply: Record, name: str) -> tuple[str, list[Client]]:
    """The site and its clients from a reply to ``enrol``.

    Args:
        reply: the site's.
        name: as the server's own records have it, or empty where sites are not registered by name.

    Raises:
        FederationError: if the reply is not what it should be, or comes from a site that bears another's name.
    """
    site, rows = reply.body.get("site"), reply.body.get("clients")
    if not isinstance(site, str) or not site or not isinstance(rows, list) or not rows:
        raise FederationError("a site enrolled without a name or without clients: install the same metabayfl there")
    if len(site.encode()) > LONGEST:
        raise FederationError(f"a site's name takes {len(site.encode())} bytes, expected {LONGEST} at most: give it a shorter one")
    if name and site != name:
        raise FederationError(f"a site says that it is {site!r}, but its key was registered for {name!r}: start it with the name it was given")
    found = [_client(row, site) for row in rows]
    if len({client.id for client in found}) != len(found):
        raise FederationError(f"site {site!r} enrolled a client twice: give each its own name")
    return site, found


def _client(row: Any, site: str) -> Client:
    fits = isinstance(row, list) and len(row) == 3 and [type(part) for part in row] == [str, str, int]
    if not fits or not row[0] or row[1] not in ROLES or not 0 < row[2] < 2**40:
        raise FederationError(f"site {site!r} enrolled {row!r}, expected a name, a role and a number of samples: install the same metabayfl there")
    return Client(row[0], site, row[1], row[2])


def with_site(registry: Registry, site: str, clients: list[Client]) -> Registry:
    """The registry with a site's clients in place of those that it had.

    Raises:
        FederationError: if one of them is another site's: a client belongs to the site that enrolled it first.
    """
    for client in clients:
        owner = registry.get(client.id)
        if owner is not None and owner.site != site:
            raise FederationError(f"client {client.id!r} of site {site!r} is already at site {owner.site!r}: give each client a name of its own")
    others = {id: client for id, client in registry.items() if client.site != site}
    return others | {client.id: client for client in clients}


def training(registry: Registry) -> Clients:
    """The training clients in the order in which cohorts are drawn; none can be read here."""
    ids = ordered(id for id, client in registry.items() if client.role == "train")
    sizes = np.array([registry[id].samples for id in ids], dtype=np.int64)
    return Clients(ids, sizes, sizes, _elsewhere)


def _elsewhere(position: int) -> tuple[Array, Array]:
    raise FederationError(f"the rows of client {position} stay at its site: this sampler or measure needs them here, choose another")


def sites(registry: Registry, *roles: str) -> list[str]:
    """Names of the sites that have a client in one of the roles, or in any if none is named."""
    return sorted({client.site for client in registry.values() if not roles or client.role in roles})


def save(path: Path, registry: Registry) -> None:
    """Write the registry, atomically."""
    storage.write_json(path, [list(registry[id]) for id in sorted(registry)])


def load(path: Path) -> Registry:
    """The registry in a file, or an empty one where there is none.

    Raises:
        ArtifactError: if it is damaged.
    """
    if not path.exists():
        return {}
    try:
        return {client.id: client for client in (Client(*row) for row in storage.read_json(path))}
    except TypeError as error:
        raise ArtifactError(f"{path} is no registry of clients: delete it, and sites will enrol again") from error
