"""What leaves a training run and what a client keeps: the strategy, and the personal posteriors made from it.

Both are safetensors files that prove themselves whole (:mod:`metabayfl.tree_file`); a posterior's names and holds the strategy that it was made from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metabayfl import storage, tree, tree_file
from metabayfl.compression import CODECS, quantise, restore
from metabayfl.errors import ArtifactError, unknown
from metabayfl.types import Tree

VERSION = 1
"""Version of what a strategy's and a posterior's file say; a reader refuses any other."""

_LEVELS = 127
_ABOUT = {"version", "spec", "schema", "provenance", "figures", "codec"}


@dataclass(frozen=True, eq=False)
class Strategy:
    """All that a client downloads: the numbers, how to rebuild the algorithm around them, and where they come from.

    Attributes:
        spec: rebuilds the algorithm: its name and arguments, the model's name and options. JSON.
        meta: the numbers.
        schema: how raw inputs become tensors (:class:`metabayfl.data.schema.Schema`, as JSON).
        provenance: the data's fingerprint, seeds, rounds, library versions. JSON.
        figures: what was measured on the validation clients; figures without a value are kept as None.
        codec: the codec that the strategy travels with, a name in :data:`~metabayfl.compression.CODECS`. With ``int8`` the file holds the codes
            and scales that would travel, a byte a number; with any other every number as it is.
        calibration: what the validation clients saw of cases with known answers (:func:`metabayfl.calibration.table`); ``{}`` for nothing.
    """

    spec: dict[str, Any]
    meta: Tree
    schema: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    codec: str = "exact"
    calibration: Tree = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the strategy, atomically; the same strategy gives the same bytes.

        Raises:
            ArtifactError: if a number is not finite, or the spec or schema has no JSON.
            StorageError: if the file could not be written whole.
        """
        storage.write_bytes(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return self._file[0]

    def digest(self) -> str:
        """The SHA-256 by which posteriors name this strategy; it is the same before saving and after loading."""
        return self._file[1]

    @cached_property
    def _file(self) -> tuple[bytes, str]:
        """Content and digest, made once: every posterior's file holds both."""
        stored = _stored(self)
        return tree_file.to_bytes(*stored, kind="strategy"), tree_file.digest(*stored, kind="strategy")

    def size(self) -> str:
        """How big the file is, in words.

        Example:
            >>> print(Strategy({}, {"z": torch.zeros(7000)}, {}, codec="int8").size())
            7,000 numbers in 7,420 bytes: 7,004 for the numbers, 416 for the description
        """
        total, (value, _) = len(self.to_bytes()), _stored(self)
        numbers = sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(value))
        return f"{tree.size(self.meta):,} numbers in {total:,} bytes: {numbers:,} for the numbers, {total - numbers:,} for the description"


def load_strategy(path: str | Path, template: Tree | None = None) -> Strategy:
    """Read what :meth:`Strategy.save` wrote.

    Args:
        path: the file.
        template: if given, the meta of the algorithm that is to use it: names, shapes and types must be exactly these.

    Raises:
        ArtifactError: if the file is missing, damaged, altered, of another version or kind, or does not fit ``template``.
    """
    return strategy_from_bytes(storage.read_bytes(path), template, where=str(path))


def strategy_from_bytes(data: bytes, template: Tree | None = None, *, where: str = "the strategy") -> Strategy:
    """The inverse of :meth:`Strategy.to_bytes`; ``where`` names the file in messages."""
    value, about = tree_file.from_bytes(data, kind="strategy", where=where)
    _require_fields(about, _ABOUT, where)
    names = ("meta", "scale") if about["codec"] == "int8" else ("meta",)
    *groups, calibration = _groups({"calibration": {}, **value}, (*names, "calibration"), where)
    meta = _decoded(groups[0], groups[1], where) if about["codec"] == "int8" else groups[0]
    for numbers in (meta, calibration):
        tree_file.require_finite(numbers, where)
    if template is not None:
        meta = tree_file.fit(meta, template, where)
    return Strategy(meta=meta, calibration=calibration, **{name: about[name] for name in _ABOUT - {"version"}})


def save_posterior(path: str | Path, posterior: Tree, strategy: Strategy, about: dict[str, Any]) -> None:
    """Write a personal posterior, atomically, with the strategy that it was made from, so that one file is enough to predict.

    Args:
        path: the file.
        posterior: what the algorithm's ``adapt`` gave, and anything else in tensors that the client keeps.
        strategy: what it was made from; the file holds it whole and names its digest.
        about: anything else that has JSON, such as a threshold.

    Raises:
        ArtifactError: if a number is not finite, or ``about`` has no JSON.
        StorageError: if the file could not be written whole.
    """
    storage.write_bytes(path, posterior_to_bytes(posterior, strategy, about))


def posterior_to_bytes(posterior: Tree, strategy: Strategy, about: dict[str, Any]) -> bytes:
    """The content of the file that :func:`save_posterior` writes."""
    tree_file.require_finite(posterior, "the posterior")
    origin = torch.frombuffer(bytearray(strategy.to_bytes()), dtype=torch.uint8)
    link = {"version": VERSION, "strategy": strategy.digest(), "about": about}
    return tree_file.to_bytes({"posterior": posterior, "strategy": origin}, link, kind="posterior")


def load_posterior(path: str | Path, template: Tree | None = None, strategy: Strategy | None = None) -> tuple[Tree, Strategy, dict[str, Any]]:
    """Read the posterior, its strategy, and what :func:`save_posterior` was told about it.

    Args:
        path: the file.
        template: if given, names, shapes and types of the posterior must be exactly these.
        strategy: if given, a posterior that was made from any other is refused.

    Raises:
        ArtifactError: if the file is missing, damaged, altered, of another version or kind, belongs to another strategy or does not fit.
    """
    return posterior_from_bytes(storage.read_bytes(path), template, strategy, where=str(path))


def posterior_from_bytes(
    data: bytes, template: Tree | None = None, strategy: Strategy | None = None, *, where: str = "the posterior"
) -> tuple[Tree, Strategy, dict[str, Any]]:
    """The inverse of :func:`posterior_to_bytes`, with the checks of :func:`load_posterior`; ``where`` names the file in messages."""
    value, about = tree_file.from_bytes(data, kind="posterior", where=where)
    _require_fields(about, {"version", "strategy", "about"}, where)
    origin = _origin(value.pop("strategy", None), about["strategy"], where, strategy)
    (posterior,) = _groups(value, ("posterior",), where)
    tree_file.require_finite(posterior, where)
    if template is not None:
        posterior = tree_file.fit(posterior, template, where)
    return posterior, origin, about["about"]


def _origin(data: Any, link: str, where: str, expected: Strategy | None) -> Strategy:
    if not isinstance(data, Tensor) or data.dtype != torch.uint8:
        raise ArtifactError(f"{where} lacks the strategy that it was made from: get it again from where it came")
    content = data.numpy().tobytes()
    if expected is not None and expected.codec != "int8" and link == expected.digest() and content == expected.to_bytes():
        return expected  # the very file, and no rounding between it and these numbers: a server need not read it with every posterior
    origin = strategy_from_bytes(content, where=f"{where}, its strategy")
    if origin.digest() != link:
        raise ArtifactError(f"{where} holds another strategy than it names: get it again from where it came")
    if expected is not None and expected.digest() != link:
        one, other = link[:12], expected.digest()[:12]
        raise ArtifactError(f"{where} was made from the strategy {one}…, the one at hand is {other}…: use that one, or personalise again")
    return origin


def _stored(strategy: Strategy) -> tuple[Tree, dict[str, Any]]:
    """The tree and the description as they stand in the file."""
    if strategy.codec not in CODECS:
        raise unknown("codec", strategy.codec, CODECS)
    tree_file.require_finite(strategy.meta, "the strategy")
    about: dict[str, Any] = {"version": VERSION, "spec": strategy.spec, "schema": strategy.schema, "codec": strategy.codec}
    try:
        about |= {"provenance": storage.plain(strategy.provenance), "figures": storage.plain(strategy.figures)}
    except TypeError as error:
        raise ArtifactError(f"the strategy's provenance or figures: {error}") from error
    stored = _encoded(strategy.meta) if strategy.codec == "int8" else {"meta": strategy.meta}
    return {**stored, **({"calibration": strategy.calibration} if strategy.calibration else {})}, about


def _encoded(meta: Tree) -> Tree:
    """Codes and scales of the float32 leaves under one path each; other leaves as they are."""
    floats = {path: leaf for path, leaf in tree.flatten(meta).items() if leaf.dtype == torch.float32}
    codes, scales = quantise(list(floats.values()), _LEVELS, None)
    coded, paths = dict(zip(floats, codes, strict=True)), tree.paths(meta)
    stored = tree.map(lambda leaf: coded[path] if (path := next(paths)) in coded else leaf, meta)
    return {"meta": stored, "scale": tree.unflatten(dict(zip(floats, scales, strict=True)))}


def _decoded(meta: Tree, scale: Tree, where: str) -> Tree:
    scales = tree.flatten(scale)
    if not scales.keys() <= tree.flatten(meta).keys():
        raise ArtifactError(f"{where} has scales for numbers that it lacks: get it again from where it came")
    paths = tree.paths(meta)

    def decode(codes: Tensor) -> Tensor:
        path = next(paths)
        return _product(codes, scales[path], f"{where}, {path!r}") if path in scales else codes

    return tree.map(decode, meta)


def _product(codes: Tensor, scale: Tensor, where: str) -> Tensor:
    if codes.dtype != torch.int8 or scale.dtype != torch.float32 or scale.shape != () or bool((codes < -_LEVELS).any()) or not scale >= 0:
        raise ArtifactError(f"{where}: codes {codes.dtype} and scale {scale.dtype} {list(scale.shape)} are no int8 form: get it again")
    return restore(codes, scale)


def _groups(value: Tree, names: tuple[str, ...], where: str) -> list[Tree]:
    if set(value) != set(names) or not all(isinstance(item, dict) for item in value.values()):
        raise ArtifactError(f"{where} holds the groups {sorted(value)}, expected {sorted(names)}: get it again from where it came")
    return [value[name] for name in names]


def _require_fields(about: dict[str, Any], names: set[str], where: str) -> None:
    if about.get("version") != VERSION:
        raise ArtifactError(f"{where} has version {about.get('version')!r}, this library reads {VERSION}: install the metabayfl that wrote it")
    if about.keys() != names:
        raise ArtifactError(f"{where} says {sorted(about)}, expected {sorted(names)}: get it again from where it came")
    if "codec" in names and about["codec"] not in list(CODECS):
        raise ArtifactError(f"{where} was written with the codec {about['codec']!r}, this library has {sorted(CODECS)}: install the other version")
    for name in names - {"version", "codec", "strategy"}:
        if not isinstance(about[name], dict):
            raise ArtifactError(f"{where}: {name!r} is {about[name]!r}, expected a table: get it again from where it came")
