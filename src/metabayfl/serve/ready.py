"""Models of recent clients, ready to answer; the least recently used is dropped."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from metabayfl.personal import PersonalModel


class Held(NamedTuple):
    """A model and the version of the posterior that it is."""

    version: int
    model: PersonalModel


class Ready:
    """By client. Versions only grow, so that a slow reader never puts an old model over a new one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, Held] = OrderedDict()

    def get(self, client: str) -> Held | None:
        """The client's model, if it is here."""
        held = self._held.get(client)
        if held is not None:
            self._held.move_to_end(client)
        return held

    def put(self, client: str, held: Held) -> Held:
        """Keep a model unless a newer one is here; the newer of the two."""
        old = self._held.get(client)
        newest = held if old is None or old.version <= held.version else old
        self._held[client] = newest
        self._held.move_to_end(client)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        return newest

    def drop(self, client: str) -> None:
        """Forget a client's model: the store has another."""
        self._held.pop(client, None)
