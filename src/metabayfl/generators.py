"""Generators: how a client grows a whole network body from a seed and a few thousand numbers.

``theta(z) = theta0(seed) + G_seed(z)``. The start ``theta0`` and every constant of ``G`` (hashes, signs, spatial maps) follow from the seed, so
that they cost no bytes, and ``z = 0`` gives ``theta0``. ``theta`` depends on ``z`` alone: under ``vmap`` over clients it is computed once and stays
unbatched, so that a cohort's body runs as one ordinary large batch.

The blocks of ``z`` have names, for the server to give each its own rate: ``full``, ``free``, ``space``, ``channel``, ``input``, ``feature`` and
``hash``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import random, tree
from metabayfl.errors import ConfigError, ModelError
from metabayfl.types import Key, Model, Tree


class Generator(NamedTuple):
    """A body as a pure function of its numbers ``z``."""

    name: str
    init: Callable[[Key], Tree]  # z, all zeros: the body starts at theta0(seed) whatever the key
    body: Callable[[Tree], Tree]  # z -> the body's parameters, in the type and on the device of z


class _Part(NamedTuple):
    """A way to move one weight matrix: some blocks of ``z`` and the offset that they make, in the shape of the matrix."""

    blocks: Tree
    offset: Callable[[Tree], Tensor]


def theta0(model: Model, seed: int) -> Tree:
    """The body that the seed stands for."""
    body: Tree = model.init(random.key(seed))["body"]
    return body


def full(model: Model, *, seed: int = 0) -> Generator:
    """Every weight is free: the reference, of 6 to 9 times the bytes."""
    start = theta0(model, seed)
    return Generator("full", lambda key: {"full": tree.zeros_like(start)}, lambda z: tree.map(_moved, start, z["full"]))


def hashed(model: Model, *, seed: int = 0, size: int = 5000) -> Generator:
    """Weight ``i`` moves by ``z[hash(i)] * sign(i) * unit(i)``: a count sketch of the whole body, for any architecture.

    ``i`` counts the weights leaf after leaf in the order of the tree; ``unit`` is ``1 / sqrt(fan in)`` for matrices and kernels and 0.1 for
    vectors, so that one rate suits all layers.

    Args:
        model: the network.
        seed: of the start, the hashes and the signs.
        size: ``D``, how many numbers; with as many as there are weights each weight has its own.

    Raises:
        ConfigError: if ``size`` is below 1.

    References:
        Charikar, Chen, Farach-Colton 2002, "Finding frequent items in data streams", section 3.
    """
    start = theta0(model, seed)
    leaves = tree.leaves(start)
    units = torch.cat([torch.full((leaf.numel(),), _unit(leaf)) for leaf in leaves])
    part = _hash(random.key(seed), units, size)

    def body(z: Tree) -> Tree:
        pieces = torch.split(part.offset(z), [leaf.numel() for leaf in leaves])
        return tree.like(start, [_moved(leaf, piece.view(leaf.shape)) for leaf, piece in zip(leaves, pieces, strict=True)])

    return Generator("hashed", lambda key: tree.map(torch.clone, part.blocks), body)


def separable(model: Model, *, seed: int = 0, rank: int = 2) -> Generator:
    """All but the widest layer free; its weight moves by ``sum_r S_r (space) x K_r (channel -> feature) / sqrt(space)``.

    Both factors are an offset over a seeded start: ``S`` over spatial maps whose first is constant (average pooling), ``K`` over zero.

    A body without positions (``model.dense`` is None or has one position per channel) gives ``S`` nothing to separate: there the largest matrix
    moves by the low-rank product ``sum_r A_r (feature) x B_r (input) / sqrt(inputs)`` instead. And where the compact form would hold no fewer
    numbers than the layer itself, the layer is left free: compact costs nothing, never more.

    Args:
        model: the network.
        seed: of the start and of the spatial maps.
        rank: ``r``, terms of the sum.

    Raises:
        ConfigError: if ``rank`` is below 1.
        ModelError: if ``model.dense`` does not fit the body.
    """
    return _compact("separable", model, seed, rank, 0)


def mixed(model: Model, *, seed: int = 0, rank: int = 2, size: int = 2000) -> Generator:
    """:func:`separable` plus :func:`hashed` with ``size`` numbers on the widest layer: what the product cannot say, the sketch can.

    Args:
        model: the network.
        seed: of the start and of all constants.
        rank: terms of the separable sum.
        size: numbers of the sketch.

    Raises:
        ConfigError: if ``rank`` or ``size`` is below 1.
        ModelError: if ``model.dense`` does not fit the body.
    """
    if size < 1:
        raise ConfigError(f"generator size {size}: expected at least 1 number; use the generator 'separable' for none.")
    return _compact("mixed", model, seed, rank, size)


GENERATORS: dict[str, Callable[..., Generator]] = {"full": full, "hashed": hashed, "separable": separable, "mixed": mixed}
"""Builders by name."""


def count_sketch(key: Key, count: int, size: int) -> tuple[Tensor, Tensor]:
    """The bucket ``(count,)`` int64 and the sign ``(count,)`` float32 of each of ``count`` coordinates.

    Example:
        >>> bucket, sign = count_sketch(random.key(0), 1000, 7)
        >>> sorted(set(bucket.tolist())), sorted(set(sign.tolist()))
        ([0, 1, 2, 3, 4, 5, 6], [-1.0, 1.0])
    """
    bucket = random.bits(random.fold(key, "bucket"), (count,)) % size
    sign = (random.bits(random.fold(key, "sign"), (count,)) & 1) * 2.0 - 1.0
    return (torch.arange(count) if size >= count else bucket), sign


def _moved(start: Tensor, offset: Tensor) -> Tensor:
    return start.to(offset) + offset


def _unit(leaf: Tensor) -> float:
    return 1.0 / math.sqrt(math.prod(leaf.shape[1:])) if leaf.ndim > 1 else 0.1


def _hash(key: Key, units: Tensor, size: int) -> _Part:
    if size < 1:
        raise ConfigError(f"generator size {size}: expected at least 1 number.")
    bucket, sign = count_sketch(random.fold(key, "hash"), len(units), size)
    scale = sign * units

    def offset(z: Tree) -> Tensor:
        return torch.index_select(z["hash"], 0, bucket.to(z["hash"].device)) * scale.to(z["hash"])

    return _Part({"hash": torch.zeros(min(size, len(units)))}, offset)


def _spatial(key: Key, outputs: int, channels: int, space: int, rank: int) -> _Part:
    maps = random.normal(random.fold(key, "space"), (rank, space))
    maps[0] = 1.0

    def offset(z: Tree) -> Tensor:
        product = torch.einsum("rs,rcm->mcs", maps.to(z["space"]) + z["space"], z["channel"])
        return product.reshape(outputs, channels * space) / math.sqrt(space)

    return _Part({"space": torch.zeros(rank, space), "channel": torch.zeros(rank, channels, outputs)}, offset)


def _low_rank(key: Key, shape: torch.Size, rank: int) -> _Part:
    outputs, inputs = shape[0], math.prod(shape[1:])
    start = random.normal(random.fold(key, "input"), (rank, inputs))

    def offset(z: Tree) -> Tensor:
        product = torch.einsum("rm,ri->mi", z["feature"], start.to(z["input"]) + z["input"])
        return product.view(shape) / math.sqrt(inputs)

    return _Part({"input": torch.zeros(rank, inputs), "feature": torch.zeros(rank, outputs)}, offset)


def _with_hash(part: _Part, key: Key, weight: Tensor, size: int) -> _Part:
    sketch = _hash(key, torch.full((weight.numel(),), _unit(weight)), size)
    return _Part({**part.blocks, **sketch.blocks}, lambda z: part.offset(z) + sketch.offset(z).view(weight.shape))


def _widest(model: Model, start: Tree) -> tuple[str, int, int] | None:
    """Path, channels and positions of the layer to compress: ``model.dense`` if it has positions, else the largest matrix with one position."""
    leaves = tree.flatten(start)
    if model.dense is not None and model.dense.space > 1:
        path, inputs = f"{model.dense.name}{tree.SEPARATOR}weight", model.dense.channels * model.dense.space
        if path not in leaves or leaves[path].ndim != 2 or leaves[path].shape[1] != inputs:
            found = tuple(leaves[path].shape) if path in leaves else "no such weight"
            raise ModelError(
                f"model {model.name!r} names {path!r} with {inputs} inputs as its dense layer, but its body has {found}: "
                "correct Model.dense, or set it to None."
            )
        return path, model.dense.channels, model.dense.space
    sizes = {path: leaf.numel() for path, leaf in leaves.items() if leaf.ndim > 1}
    return (max(sizes, key=lambda path: sizes[path]), 1, 1) if sizes else None


def _part_for(model: Model, start: Tree, key: Key, rank: int, size: int) -> tuple[str | None, _Part]:
    """Which weight moves in compact form and how; nothing does where that would save nothing."""
    found = _widest(model, start)
    if found is not None:
        path, channels, space = found
        weight = tree.flatten(start)[path]
        part = _spatial(key, len(weight), channels, space, rank) if space > 1 else _low_rank(key, weight.shape, rank)
        part = _with_hash(part, key, weight, size) if size else part
        if tree.size(part.blocks) < weight.numel():
            return path, part
    return None, _Part({}, lambda z: torch.zeros(()))


def _compact(name: str, model: Model, seed: int, rank: int, size: int) -> Generator:
    if rank < 1:
        raise ConfigError(f"generator rank {rank}: expected at least 1 term.")
    start = theta0(model, seed)
    target, part = _part_for(model, start, random.key(seed), rank, size)
    free = tree.unflatten({path: leaf for path, leaf in tree.flatten(start).items() if path != target})

    def init(key: Key) -> Tree:
        return {**({"free": tree.zeros_like(free)} if free else {}), **tree.map(torch.clone, part.blocks)}

    def body(z: Tree) -> Tree:
        offsets = tree.flatten(z.get("free", {}))
        if target is not None:
            offsets[target] = part.offset(z)
        return tree.unflatten({path: _moved(leaf, offsets[path]) for path, leaf in tree.flatten(start).items()})

    return Generator(name, init, body)
