"""What the messages of each phase hold, in bytes whose length is known before they are read.

A body is read against what the reader already knows (how many peers, how many numbers), so there is nothing to guess and nothing left over.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from metabayfl.errors import ArtifactError, ConfigError
from metabayfl.privacy.secure_aggregation.messages import DIGEST_BYTES, Header, Setup, checked, text
from metabayfl.privacy.secure_aggregation.primitives import KEY_BYTES, NONCE_BYTES, TAG_BYTES

PARCEL_BYTES = NONCE_BYTES + 2 * KEY_BYTES + TAG_BYTES
"""An encrypted pair of shares: of the mask key and of the self-mask's seed."""

_SETUP = struct.Struct(f"<HHBI{DIGEST_BYTES}s")
_PLACE = struct.Struct("<HH")


class Peer(NamedTuple):
    """One of a client's neighbours."""

    position: int
    name: str
    transport: bytes  # public key that shares are encrypted with
    mask: bytes  # public key that pair masks are made with


def setup_body(setup: Setup) -> bytes:
    """Request ``advertise``; session and round stand in the header."""
    return _SETUP.pack(setup.threshold, setup.degree, setup.bits, setup.length, setup.about)


def read_setup(header: Header, body: bytes) -> Setup:
    """The inverse of :func:`setup_body`."""
    _exactly(body, _SETUP.size)
    try:
        return checked(Setup(header.session, header.round, *_SETUP.unpack(body)))
    except ConfigError as error:
        raise ArtifactError(f"the server's invitation makes no sense, and was not answered: {error}") from error


def keys_body(transport: bytes, mask: bytes) -> bytes:
    """Reply ``advertise``: two public keys."""
    return transport + mask


def read_keys(body: bytes) -> tuple[bytes, bytes]:
    """The inverse of :func:`keys_body`."""
    _exactly(body, 2 * KEY_BYTES)
    return body[:KEY_BYTES], body[KEY_BYTES:]


def peers_body(count: int, position: int, peers: Sequence[Peer]) -> bytes:
    """Request ``share``: how many clients there are, which of them the receiver is, and its neighbours in ascending order."""
    entries = (bytes([len(peer.name.encode())]) + peer.name.encode() + peer.transport + peer.mask for peer in peers)
    return _PLACE.pack(count, position) + b"".join(entries)


def read_place(body: bytes) -> tuple[int, int]:
    """How many clients there are and which of them the receiver is."""
    if len(body) < _PLACE.size:
        raise ArtifactError(f"a list of peers in {len(body)} bytes was cut short: send it again")
    count, position = _PLACE.unpack_from(body)
    if position >= count:
        raise ArtifactError(f"client number {position} of {count} cannot be: the server must send the list again")
    return count, position


def read_peers(body: bytes, positions: Sequence[int]) -> tuple[Peer, ...]:
    """The peers in :func:`peers_body`, at the positions that the graph gives."""
    peers: list[Peer] = []
    at = _PLACE.size
    for position in positions:
        keys = at + 1 + (body[at] if at < len(body) else 0)
        entry = body[keys : keys + 2 * KEY_BYTES]
        if len(entry) < 2 * KEY_BYTES:
            raise ArtifactError(f"a list of {len(peers)} peers, expected {len(positions)}: the server must send the list again")
        peers.append(Peer(position, text(body[at + 1 : keys]), entry[:KEY_BYTES], entry[KEY_BYTES:]))
        at = keys + 2 * KEY_BYTES
    _exactly(body, at)
    return tuple(peers)


def shares_body(commitment: bytes, parcels: Sequence[bytes]) -> bytes:
    """Reply ``share``: what the rebuilt seed will be checked against, and a parcel for every peer in order."""
    return commitment + b"".join(parcels)


def read_shares(body: bytes, peers: int) -> tuple[bytes, tuple[bytes, ...]]:
    """The inverse of :func:`shares_body`."""
    _exactly(body, KEY_BYTES + peers * PARCEL_BYTES)
    return body[:KEY_BYTES], _cut(body[KEY_BYTES:], PARCEL_BYTES)


def parcels_body(parcels: Sequence[bytes | None]) -> bytes:
    """Request ``mask``: one parcel from each peer that shared, None for one that did not."""
    return _flags([parcel is not None for parcel in parcels]) + b"".join(parcel for parcel in parcels if parcel is not None)


def read_parcels(body: bytes, peers: int) -> tuple[bytes | None, ...]:
    """The inverse of :func:`parcels_body`."""
    present, rest = _read_flags(body, peers)
    _exactly(rest, sum(present) * PARCEL_BYTES)
    parcels = iter(_cut(rest, PARCEL_BYTES))
    return tuple(next(parcels) if there else None for there in present)


def survivors_body(alive: Sequence[bool]) -> bytes:
    """Request ``unmask``: of the peers that shared, which ones' masked vectors arrived."""
    return _flags(alive)


def read_survivors(body: bytes, peers: int) -> tuple[bool, ...]:
    """The inverse of :func:`survivors_body`."""
    alive, rest = _read_flags(body, peers)
    _exactly(rest, 0)
    return alive


def revealed_body(own: bytes, shares: Sequence[bytes | None]) -> bytes:
    """Reply ``unmask``: a share of one's own seed, and one share for each peer that shared; None where its parcel could not be opened."""
    return _flags([share is not None for share in shares]) + own + b"".join(share for share in shares if share is not None)


def read_revealed(body: bytes, peers: int) -> tuple[bytes, tuple[bytes | None, ...]]:
    """The inverse of :func:`revealed_body`."""
    given, rest = _read_flags(body, peers)
    _exactly(rest, (1 + sum(given)) * KEY_BYTES)
    shares = iter(_cut(rest[KEY_BYTES:], KEY_BYTES))
    return rest[:KEY_BYTES], tuple(next(shares) if there else None for there in given)


def _exactly(body: bytes, size: int) -> None:
    if len(body) != size:
        raise ArtifactError(f"the message holds {len(body)} bytes, expected {size}: it does not fit this round, and was not used")


def _cut(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[start : start + size] for start in range(0, len(data), size))


def _flags(values: Sequence[bool]) -> bytes:
    return sum(1 << i for i, value in enumerate(values) if value).to_bytes(-(-len(values) // 8), "little")


def _read_flags(body: bytes, count: int) -> tuple[tuple[bool, ...], bytes]:
    size = -(-count // 8)
    number = int.from_bytes(body[:size], "little")
    if len(body) < size or number >> count:
        raise ArtifactError(f"the message does not say yes or no to {count} peers: it does not fit this round, and was not used")
    return tuple(bool(number >> i & 1) for i in range(count)), body[size:]
