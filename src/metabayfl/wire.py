"""The bytes of a tree: a nine-byte header and the leaves, nothing else.

Names and shapes never travel: both ends know the structure, so it only goes into the checksum, and bytes that were meant for another tree are
refused like damaged ones. Leaves stand in the order of their paths, so that the insertion order of the dicts plays no part.
"""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import tree
from metabayfl.errors import ArtifactError
from metabayfl.types import Tree

MAGIC, VERSION = b"MBF", 1
_START = struct.Struct("<3sBB")  # magic, version, codec
_CHECKSUM = struct.Struct("<I")  # crc32 of the start, the structure and the payload
HEADER_BYTES = _START.size + _CHECKSUM.size
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def ordered(value: Tree) -> dict[str, Tensor]:
    """Leaves by path, in the order in which they travel."""
    return dict(sorted(tree.flatten(value).items()))


def _structure(template: Tree) -> bytes:
    return "\n".join(f"{path} {leaf.dtype} {list(leaf.shape)}" for path, leaf in ordered(template).items()).encode()


def _checksum(start: bytes, template: Tree, payload: bytes) -> bytes:
    return _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(_structure(template), zlib.crc32(start))))


def seal(codec: int, template: Tree, payload: bytes) -> bytes:
    """Put the header before a payload that holds the leaves of a tree like ``template``."""
    start = _START.pack(MAGIC, VERSION, codec)
    return start + _checksum(start, template, payload) + payload


def unseal(data: bytes, codec: int, template: Tree, payload_bytes: int) -> bytes:
    """The payload, after every check that needs no look at the numbers.

    Raises:
        ArtifactError: if the length, the magic number, the version, the codec or the checksum is not what ``template`` asks for.
    """
    if len(data) != HEADER_BYTES + payload_bytes:
        raise ArtifactError(
            f"{len(data)} bytes arrived where the tree takes {HEADER_BYTES + payload_bytes}: cut short, or of another model; send again"
        )
    start, payload = data[: _START.size], data[HEADER_BYTES:]
    magic, version, sent = _START.unpack(start)
    if magic != MAGIC:
        raise ArtifactError(f"the bytes begin with {magic!r}, expected {MAGIC!r}: they are no message of metabayfl")
    if version != VERSION:
        raise ArtifactError(f"the message has version {version}, this library reads version {VERSION}: install the same metabayfl at both ends")
    if sent != codec:
        raise ArtifactError(f"the message was written by codec {sent}, expected {codec}: both ends must be set to the same compression")
    if data[_START.size : HEADER_BYTES] != _checksum(start, template, payload):
        raise ArtifactError("the checksum does not fit: the bytes were damaged, or the tree at the other end has other names, shapes or types")
    return payload


def raw_bytes(leaf: Tensor) -> bytes:
    """The numbers of a tensor as they are, little-endian."""
    words = leaf.detach().cpu().contiguous().view(_WORDS[leaf.element_size()]).numpy()
    return words.astype(words.dtype.newbyteorder("<")).tobytes()


def from_raw(data: bytes, like: Tensor) -> Tensor:
    """A tensor of the shape, type and device of ``like`` from :func:`raw_bytes`."""
    word = np.dtype(f"<{'u' if like.element_size() == 1 else 'i'}{like.element_size()}")
    words = np.frombuffer(data, dtype=word).astype(word.newbyteorder("=")).reshape(tuple(like.shape))
    numbers = torch.from_numpy(words)
    return (numbers != 0 if like.dtype == torch.bool else numbers.view(like.dtype)).to(like.device)


def digits_per_byte(base: int) -> int:
    """How many digits of ``base`` fit into a byte: 5 of base 3, 2 of base 15, 1 of base 255."""
    return int(math.log(256) / math.log(base))


def packed_bytes(count: int, base: int) -> int:
    """Length of :func:`pack` for ``count`` codes."""
    return -(-count // digits_per_byte(base))


def pack(codes: Tensor, base: int) -> bytes:
    """Integers between ``-(base - 1) / 2`` and ``(base - 1) / 2`` as digits of ``base``, several a byte, the first one lowest.

    Example:
        >>> pack(torch.tensor([-7, 7, 0]), 15).hex(), pack(torch.tensor([1, 0, -1, 0, 1]), 3).hex()
        ('d270', 'c2')
    """
    per, middle = digits_per_byte(base), base // 2
    digits = codes.detach().cpu().flatten().numpy().astype(np.int64) + middle
    digits = np.pad(digits, (0, -len(digits) % per), constant_values=middle).reshape(-1, per)
    return (digits @ base ** np.arange(per)).astype(np.uint8).tobytes()


def unpack(data: bytes, base: int, count: int) -> NDArray[np.int64]:
    """The inverse of :func:`pack`, shape ``(count,)``.

    Raises:
        ArtifactError: if a byte stands for no digits, or the digits that fill up the last byte are not zero codes.
    """
    per, middle = digits_per_byte(base), base // 2
    values = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    codes = (values[:, None] // base ** np.arange(per) % base - middle).reshape(-1)
    if (values >= base**per).any() or codes[count:].any():
        raise ArtifactError(f"the packed numbers are not {count} digits of base {base}: the message was altered; send it again")
    return codes[:count]
