"""Which sites are there: assembled at the start, and looked for again before every round, since sites join, leave and come back."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import TypeVar

from metabayfl.errors import FederationError
from metabayfl.flower import registry as registries
from metabayfl.flower.acceptance import check_reply
from metabayfl.flower.network import Ask, Patience, Replies, Transport, exchange
from metabayfl.flower.records import Record
from metabayfl.flower.registry import Registry

T = TypeVar("T")

log = logging.getLogger(__name__)

AGAIN = 60.0
"""Seconds after which a site that could not be used is asked again: somebody may have mended its data."""

NEWCOMER = 60.0
"""Seconds that a site that appears between rounds has to enrol, so that it delays nobody for longer."""


def assemble(transport: Transport, request: Record, read: Callable[[str, Record], T], need: int, patience: Patience) -> dict[int, T]:
    """Ask every site that connects until enough have given a reply that can be used.

    Args:
        transport: what carries records.
        request: the same for all.
        read: a site's registered name and its reply to what is wanted of it; raises :class:`FederationError` for one that cannot be used.
        need: how many sites.
        patience: how long to wait.

    Returns:
        What was read, by address.

    Raises:
        FederationError: if too few came in time; says who came and why the others could not be used.
    """
    found, wrong, asked = dict[int, T](), dict[int, str](), dict[int, float]()
    end = transport.now() + patience.join
    while True:
        now = transport.now()
        fresh = [node for node in transport.nodes() if node not in found and now >= asked.get(node, now - AGAIN) + AGAIN]
        if fresh and now < end:
            good, bad = _ask(transport, request, read, fresh, dataclasses.replace(patience, reply=min(patience.reply, end - now)))
            found, wrong = found | good, {node: reason for node, reason in {**wrong, **bad}.items() if node not in good}
            asked |= dict.fromkeys(fresh, transport.now())
        if len(found) >= need:
            return found
        if now >= end:
            raise FederationError(_too_few(len(found), need, patience, wrong))
        transport.sleep(patience.poll)


def _ask(
    transport: Transport, request: Record, read: Callable[[str, Record], T], nodes: list[int], patience: Patience
) -> tuple[dict[int, T], dict[int, str]]:
    """What was read of some sites, and why not of the others."""
    names = {str(node): node for node in nodes}

    def places() -> dict[str, int]:
        connected = transport.nodes()
        return {name: node for name, node in names.items() if node in connected}

    replies = exchange(transport, dict.fromkeys(names, request), places, patience, lambda answered: True)
    registered = transport.nodes()
    good, bad = dict[int, T](), {names[name]: reason for name, reason in replies.failed.items()}
    for name, reply in replies.records.items():
        node = names[name]
        try:
            check_reply(reply, request.header)
            good[node] = read(registered.get(node, ""), reply)
        except FederationError as error:
            bad[node] = str(error)
            log.warning("site %s cannot take part: %s", registered.get(node) or node, error)
    return good, bad


def _too_few(came: int, need: int, patience: Patience, wrong: dict[int, str]) -> str:
    why = "; ".join(sorted(set(wrong.values())))
    return f"{came} of {need} sites could be used within {patience.join:g} s{f': {why}' if why else ''}; start the others, or ask for fewer sites"


class Members:
    """The enrolled sites of one run, and where they are."""

    def __init__(self, transport: Transport, request: Record, registry: Registry) -> None:
        self.transport = transport
        self.registry = registry
        self._request = request  # to enrol
        self._sites: dict[int, str] = {}
        self._asked: dict[int, float] = {}

    def places(self) -> dict[str, int]:
        """Addresses of the enrolled sites that are connected now."""
        return {self._sites[node]: node for node in self.transport.nodes() if node in self._sites}

    def exchange(self, ask: Ask, patience: Patience) -> Replies:
        """Send requests to sites by name and gather their replies."""
        return exchange(self.transport, ask.requests, self.places, patience, ask.enough)

    def assemble(self, need: int, patience: Patience) -> None:
        """Enrol sites until there are enough.

        Raises:
            FederationError: as :func:`assemble`.
        """
        self._sites |= assemble(self.transport, self._request, self._enrol, need, patience)

    def refresh(self, patience: Patience) -> None:
        """Enrol whoever has appeared since; one that cannot be used is left alone for a while."""
        now = self.transport.now()
        fresh = [node for node in self.transport.nodes() if node not in self._sites and now >= self._asked.get(node, now - AGAIN) + AGAIN]
        if fresh:
            good, _ = _ask(self.transport, self._request, self._enrol, fresh, dataclasses.replace(patience, reply=min(NEWCOMER, patience.reply)))
            self._sites |= good
            self._asked |= dict.fromkeys(fresh, self.transport.now())

    def _enrol(self, name: str, reply: Record) -> str:
        site, clients = registries.enrolled(reply, name)
        if site in self._sites.values():
            log.warning("site %s has come again at another address: it was restarted, or two sites bear one name", site)
            self._sites = {node: other for node, other in self._sites.items() if other != site}
        self.registry = registries.with_site(self.registry, site, clients)
        return site
