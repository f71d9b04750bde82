"""Every key of the protocol by its purpose; both ends and, for a client that dropped out, the server compute them here and nowhere else.

A round's name (session, number), the purpose and the parties go into each derivation, so no key serves two purposes, pairs or rounds.
"""

from __future__ import annotations

from typing import NamedTuple

from metabayfl.privacy.secure_aggregation.messages import Setup
from metabayfl.privacy.secure_aggregation.primitives import KEY_BYTES, context, derive


class ParcelKeys(NamedTuple):
    """Keys between two neighbours, one for each direction."""

    out: bytes
    back: bytes


def named(purpose: str, setup: Setup, *parties: str) -> bytes:
    """What a key is for in this round."""
    return context(purpose, setup.session, setup.round, *parties)


def pair_mask(agreed: bytes, setup: Setup, one: str, other: str) -> bytes:
    """The key of the mask that two neighbours share, from what their masking keys agree on; the same from either end."""
    return derive(agreed, named("pair mask", setup, *sorted((one, other))))


def self_mask(seed: bytes, setup: Setup, name: str) -> bytes:
    """The key of a client's own mask."""
    return derive(seed, named("self mask", setup, name))


def commitment(seed: bytes, setup: Setup, name: str) -> bytes:
    """What shows that a rebuilt seed is the right one, and does not show the seed."""
    return derive(seed, named("commitment", setup, name))


def parcels(agreed: bytes, setup: Setup, own: str, peer: str) -> ParcelKeys:
    """The keys under which ``own`` and ``peer`` send each other shares, from what their transport keys agree on."""
    both = derive(agreed, named("parcels", setup, *sorted((own, peer))), 2 * KEY_BYTES)
    first, second = both[:KEY_BYTES], both[KEY_BYTES:]
    return ParcelKeys(first, second) if own < peer else ParcelKeys(second, first)
