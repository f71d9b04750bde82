"""What every message of the protocol begins with: which session, round, phase, direction and client it belongs to.

A message that is not exactly the one that is due is an :class:`~metabayfl.errors.ArtifactError` that names the field: nothing foreign, replayed or
late is ever used.
"""

from __future__ import annotations

import struct
import zlib
from typing import Literal, NamedTuple, TypeAlias

from metabayfl.errors import ArtifactError, ConfigError
from metabayfl.privacy.secure_aggregation import packing

Phase: TypeAlias = Literal["advertise", "share", "mask", "unmask"]
PHASES: tuple[Phase, ...] = ("advertise", "share", "mask", "unmask")
"""In this order; each is one request of the server to every client that is still there, and their replies."""

Way: TypeAlias = Literal["request", "reply"]
_WAYS: tuple[Way, ...] = ("request", "reply")

SESSION_BYTES, DIGEST_BYTES = 16, 32

_MAGIC, _VERSION = b"MSA", 1
_START = struct.Struct(f"<3sBBB{SESSION_BYTES}sIB")  # magic, version, phase, way, session, round, length of the client's name
_CHECKSUM = struct.Struct("<I")
_LARGEST_NAME = 255


class Setup(NamedTuple):
    """What all in a round agree on."""

    session: bytes  # 16 random bytes, another for every run
    round: int  # counts up within the session
    threshold: int  # t: shares that rebuild a secret, and the fewest clients in a sum
    degree: int  # k: neighbours of a client
    bits: int  # b: numbers are integers modulo 2^b
    length: int  # L: numbers in a client's vector
    about: bytes = bytes(DIGEST_BYTES)  # digest of what the numbers mean, so that both ends decode alike


class Header(NamedTuple):
    """What a message is."""

    phase: Phase
    way: Way
    session: bytes
    round: int
    client: str  # who receives the request, or sends the reply


def seal(header: Header, body: bytes) -> bytes:
    """A message."""
    name = header.client.encode()
    start = _START.pack(_MAGIC, _VERSION, PHASES.index(header.phase), _WAYS.index(header.way), header.session, header.round, len(name))
    data = start + name + body
    return data + _CHECKSUM.pack(zlib.crc32(data))


def unseal(data: bytes) -> tuple[Header, bytes]:
    """Header and body.

    Raises:
        ArtifactError: if the bytes are no message of this protocol's version, or damaged. Nothing says yet whether the message is in place: that is
            for :func:`expect`.
    """
    if len(data) < _START.size + _CHECKSUM.size:
        raise ArtifactError(f"{len(data)} bytes are too few for a message of secure aggregation: it was cut short; send it again")
    magic, version, phase, way, session, number, length = _START.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise ArtifactError(
            f"a message of kind {magic!r} version {version}, expected {_MAGIC!r} version {_VERSION}: install one metabayfl at both ends"
        )
    if _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0] != zlib.crc32(data[: -_CHECKSUM.size]):
        raise ArtifactError("the checksum does not fit: the message was damaged or cut short on its way; send it again")
    end = _START.size + length
    if phase >= len(PHASES) or way >= len(_WAYS) or end + _CHECKSUM.size > len(data):
        raise ArtifactError(f"phase {phase}, way {way}, a name of {length} bytes in {len(data)}: no such message exists; leave its sender out")
    return Header(PHASES[phase], _WAYS[way], session, number, text(data[_START.size : end])), data[end : -_CHECKSUM.size]


def expect(data: bytes, wanted: Header) -> bytes:
    """The body of a message that is exactly this one.

    Raises:
        ArtifactError: if it is damaged, or of another session, round, phase, direction or client: foreign, replayed or late.
    """
    found, body = unseal(data)
    for field, given, expected in zip(Header._fields, found, wanted, strict=True):
        if given != expected:
            shown = [item.hex() if isinstance(item, bytes) else repr(item) for item in (given, expected)]
            raise ArtifactError(f"the message has {field} {shown[0]}, expected {shown[1]}: it is foreign, replayed or late, and was not used")
    return body


def checked(setup: Setup) -> Setup:
    """``setup``, if it makes sense.

    Raises:
        ConfigError: says which number does not.
    """
    fits = len(setup.session) == SESSION_BYTES and 0 <= setup.round < 2**32 and 1 <= setup.bits <= packing.WORD and 1 <= setup.length < 2**32
    if not fits or len(setup.about) != DIGEST_BYTES or not 2 <= setup.threshold <= setup.degree + 1 <= 2**16 - 1:
        raise ConfigError(f"{setup}: expected 16 bytes, 2 <= threshold <= degree + 1 < 65536, 1 to 64 bits and 1 to 2^32 - 1 numbers")
    return setup


def check_name(name: str) -> str:
    """``name``, if it can stand in a message."""
    if not 1 <= len(name.encode()) <= _LARGEST_NAME:
        raise ConfigError(f"the client's name {name[:40]!r} takes {len(name.encode())} bytes: expected 1 to {_LARGEST_NAME}")
    return name


def text(data: bytes) -> str:
    """A client's name."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"a client's name is no UTF-8 text ({error}): leave the message's sender out") from error
