"""Codecs: how trees of numbers travel between server and clients."""

from __future__ import annotations

from safetensors.torch import load, save

from metabayfl import tree
from metabayfl.types import Codec, Key, Tree


def _identity(value: Tree, key: Key | None) -> Tree:
    return value


def _encode(value: Tree, key: Key | None) -> bytes:
    data: bytes = save({path: leaf.contiguous() for path, leaf in tree.flatten(value).items()})
    return data


def _decode(data: bytes, template: Tree) -> Tree:
    return tree.unflatten(load(data))


def exact() -> Codec:
    """Every number as it is."""
    return Codec("exact", _identity, _encode, _decode)
