"""One tree and what there is to say about it, in one safetensors file that proves itself whole.

The numbers are tensors under their paths, in their own types. Everything else is one JSON text in the file's metadata, with a SHA-256 over that text
and all tensors, so a file that was altered in any place is refused. Nothing in it is ever executed. The same tree gives the same bytes: there is
one metadata key alone, because safetensors writes several in no fixed order, and no time stamp. The digest shows damage, not who wrote the file.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metabayfl import storage, tree, wire
from metabayfl.errors import ArtifactError
from metabayfl.types import Tree

FORMAT = 1
"""Version of the layout; a reader refuses any other."""

_KEY = "metabayfl"
_LENGTH = struct.Struct("<Q")
_FIELDS = {"format", "kind", "about", "tree", "sha256"}


def save_tree(path: str | Path, value: Tree, about: dict[str, Any], *, kind: str = "tree") -> None:
    """Write a tree, atomically.

    Args:
        path: the file; it is replaced if there is one.
        value: tensors of any type; their types and the order of the dicts are kept.
        about: anything that has JSON.
        kind: what the file is, such as ``strategy``; loading asks for the same word.

    Raises:
        ArtifactError: if the tree or ``about`` cannot be written so that it could be read again.
        StorageError: if the file could not be written whole.
    """
    storage.write_bytes(path, to_bytes(value, about, kind=kind))


def load_tree(path: str | Path, template: Tree | None = None, *, kind: str = "tree") -> tuple[Tree, dict[str, Any]]:
    """Read the tree and what :func:`save_tree` was told about it.

    Args:
        path: the file.
        template: if given, names, shapes and types must be exactly these.
        kind: what the file must be.

    Raises:
        ArtifactError: if the file is missing, damaged, altered, of another version or kind, or does not fit ``template``.
    """
    return from_bytes(storage.read_bytes(path), template, kind=kind, where=str(path))


def to_bytes(value: Tree, about: dict[str, Any], *, kind: str = "tree") -> bytes:
    """The content of the file that :func:`save_tree` writes."""
    paths = list(_paths(value))
    tensors = {path: leaf.detach().cpu().contiguous().clone() for path, leaf in tree.flatten(value).items()}
    document = {"format": FORMAT, "kind": kind, "about": about, "tree": paths}
    document["sha256"] = _digest(document, tensors)
    data: bytes = safetensors.torch.save(tensors, {_KEY: _json(document)})
    return data


def digest(value: Tree, about: dict[str, Any], *, kind: str = "tree") -> str:
    """The SHA-256, in hexadecimal, that stands in the file; another file can name it to point here.

    Example:
        >>> digest({"w": torch.zeros(2)}, {"rounds": 3}) == digest({"w": torch.zeros(2)}, {"rounds": 4})
        False
    """
    return _digest({"format": FORMAT, "kind": kind, "about": about, "tree": list(_paths(value))}, tree.flatten(value))


def from_bytes(data: bytes, template: Tree | None = None, *, kind: str = "tree", where: str = "the file") -> tuple[Tree, dict[str, Any]]:
    """The inverse of :func:`to_bytes`; ``where`` names the file in messages."""
    document = _document(data, where)
    if document["format"] != FORMAT:
        raise ArtifactError(f"{where} has format {document['format']!r}, this library reads {FORMAT}: install the metabayfl that wrote it")
    if document["kind"] != kind:
        raise ArtifactError(f"{where} is a {document['kind']!r}, expected a {kind!r}: choose the other file")
    tensors = _tensors(data, where)
    sha256 = document.pop("sha256")
    if sha256 != _digest(document, tensors):
        raise ArtifactError(f"{where} was altered after it was written: its digest does not fit; get it again from where it came")
    value = _grow(document["tree"], tensors, where)
    if template is not None:
        value = fit(value, template, where)
    return value, document["about"]


def fit(value: Tree, template: Tree, where: str) -> Tree:
    """``value`` in the order of ``template``.

    Raises:
        ArtifactError: if names, shapes or types differ; the message says which.
    """
    found, expected = tree.flatten(value), tree.flatten(template)
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise ArtifactError(f"{where} does not fit this algorithm and model: it lacks {missing or 'nothing'} and has {extra or 'nothing'} in excess")
    for path, leaf in expected.items():
        other = found[path]
        if other.shape != leaf.shape or other.dtype != leaf.dtype:
            given, wanted = f"{other.dtype} {list(other.shape)}", f"{leaf.dtype} {list(leaf.shape)}"
            raise ArtifactError(f"{where} does not fit this algorithm and model: {path!r} is {given}, expected {wanted}")
    paths = tree.paths(template)
    return tree.map(lambda leaf: found[next(paths)], template)


def require_finite(value: Tree, where: str) -> None:
    """Refuse NaN and infinity, by path."""
    bad = [path for path, leaf in tree.flatten(value).items() if not torch.isfinite(leaf).all()]
    if bad:
        raise ArtifactError(f"{where} holds NaN or infinite numbers in {bad}: the training diverged; train again with a lower rate")


def _paths(value: Tree, prefix: str = "") -> Iterator[str]:
    """Leaf paths in order, and empty dicts as paths that end in a slash."""
    for name, item in value.items():
        if not isinstance(name, str) or not name or tree.SEPARATOR in name or name == "__metadata__":
            raise ArtifactError(f"the name {name!r} under {prefix!r} cannot stand in a file: use a plain word without {tree.SEPARATOR!r}")
        if not isinstance(item, (dict, Tensor)):
            raise ArtifactError(f"{prefix + name!r} is of type {type(item).__name__}, expected a tensor or a dict of tensors")
        if isinstance(item, dict) and item:
            yield from _paths(item, prefix + name + tree.SEPARATOR)
        else:
            yield prefix + name + (tree.SEPARATOR if isinstance(item, dict) else "")


def _grow(paths: list[str], tensors: dict[str, Tensor], where: str) -> Tree:
    """The inverse of :func:`_paths`."""
    out: Tree = {}
    if sorted(path for path in paths if not path.endswith(tree.SEPARATOR)) != sorted(tensors):
        raise ArtifactError(f"{where} lists other tensors than it holds: get it again from where it came")
    for path in paths:
        *parents, name = path.removesuffix(tree.SEPARATOR).split(tree.SEPARATOR)
        node: Any = out
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name in node:
            raise ArtifactError(f"{where} lists {path!r} both as a tensor and as a group: get it again from where it came")
        node[name] = {} if path.endswith(tree.SEPARATOR) else tensors[path]
    return out


def _json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, ASCII alone."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"the description of the numbers has no JSON: {error}; give finite numbers, strings, lists and dicts") from error


def _digest(document: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    state = hashlib.sha256(_json(document).encode())
    for path, leaf in sorted(tensors.items()):
        state.update(f"\n{path} {leaf.dtype} {list(leaf.shape)}\n".encode())
        state.update(wire.raw_bytes(leaf))
    return state.hexdigest()


def _document(data: bytes, where: str) -> dict[str, Any]:
    """The JSON text in the metadata, read before any tensor is."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        header = storage.parse_json(data[_LENGTH.size : _LENGTH.size + length].decode())
        document = storage.parse_json(header["__metadata__"][_KEY])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{where} is no file of metabayfl, or it was cut short or damaged: get it again from where it came") from error
    if not isinstance(document, dict) or "format" not in document:
        raise ArtifactError(f"{where} has no description of its content: get it again from where it came")
    if document["format"] == FORMAT and not (document.keys() == _FIELDS and _is_text_list(document["tree"]) and isinstance(document["about"], dict)):
        raise ArtifactError(f"{where} has a damaged description of its content: get it again from where it came")
    return document


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _tensors(data: bytes, where: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{where} was cut short or damaged ({error}): get it again from where it came") from error
    return tensors
