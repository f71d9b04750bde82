"""Nested dicts of tensors: the one container for parameters, strategies, posteriors and server states.

Order is the insertion order of the dicts; functions of several trees take the first one's structure and refuse another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from metabayfl.types import Tree

SEPARATOR = "/"


def map(fn: Callable[..., Tensor], *trees: Tree) -> Tree:
    """Apply ``fn`` to the leaves of trees of one structure.

    Raises:
        ValueError: if the keys of the trees differ.

    Example:
        >>> map(lambda a, b: a + b, {"w": torch.ones(2)}, {"w": torch.ones(2)})
        {'w': tensor([2., 2.])}
    """
    first = trees[0]
    for other in trees[1:]:
        if other.keys() != first.keys():
            raise ValueError(f"trees differ: keys {sorted(first)} against {sorted(other)}")
    out: Tree = {}
    for name, value in first.items():
        rest = [other[name] for other in trees]
        out[name] = map(fn, *rest) if isinstance(value, dict) else fn(*rest)
    return out


def flatten(tree: Tree, prefix: str = "") -> dict[str, Tensor]:
    """Leaves by path.

    Example:
        >>> list(flatten({"a": {"b": torch.zeros(1)}, "c": torch.zeros(1)}))
        ['a/b', 'c']
    """
    out: dict[str, Tensor] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            out.update(flatten(value, path + SEPARATOR))
        else:
            out[path] = value
    return out


def unflatten(leaves: dict[str, Tensor]) -> Tree:
    """The inverse of :func:`flatten`."""
    out: Tree = {}
    for path, value in leaves.items():
        *parents, name = path.split(SEPARATOR)
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return out


def leaves(tree: Tree) -> list[Tensor]:
    """Leaves in order."""
    return list(flatten(tree).values())


def like(tree: Tree, values: list[Tensor] | tuple[Tensor, ...]) -> Tree:
    """A tree of the structure of ``tree`` with these leaves."""
    return unflatten(dict(zip(flatten(tree), values, strict=True)))


def zeros_like(tree: Tree) -> Tree:
    """Zeros in the shape of ``tree``."""
    return map(torch.zeros_like, tree)


def add(a: Tree, b: Tree) -> Tree:
    """``a + b``."""
    return map(torch.add, a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """``a - b``."""
    return map(torch.sub, a, b)


def scale(tree: Tree, factor: Tensor | float) -> Tree:
    """``factor * tree``."""
    return map(lambda leaf: leaf * factor, tree)


def step(tree: Tree, direction: Tree, rate: Tensor | float) -> Tree:
    """``tree - rate * direction``: one descent step with one rate."""
    if isinstance(rate, Tensor):
        return map(lambda leaf, slope: leaf - rate * slope, tree, direction)
    return map(lambda leaf, slope: torch.sub(leaf, slope, alpha=rate), tree, direction)  # one pass over the numbers instead of two


def where(condition: Tensor, a: Tree, b: Tree) -> Tree:
    """``a`` where the scalar ``condition`` holds, else ``b``; both stay in the graph of ``torch.func``."""
    return map(lambda left, right: torch.where(condition, left, right), a, b)


def dot(a: Tree, b: Tree) -> Tensor:
    """The inner product over all leaves, shape ``()``."""
    return torch.stack([torch.sum(left * right) for left, right in zip(leaves(a), leaves(b), strict=True)]).sum()


def norm(tree: Tree) -> Tensor:
    """The Euclidean norm over all leaves, shape ``()``."""
    return dot(tree, tree).sqrt()


def size(tree: Tree) -> int:
    """How many numbers the tree holds."""
    return sum(leaf.numel() for leaf in leaves(tree))


def to(tree: Tree, target: torch.dtype | torch.device | str) -> Tree:
    """Floating-point leaves in another type, or all leaves on another device."""
    if isinstance(target, torch.dtype):
        return map(lambda leaf: leaf.to(target) if leaf.is_floating_point() else leaf, tree)
    return map(lambda leaf: leaf.to(target), tree)


def paths(tree: Tree) -> Iterator[str]:
    """Leaf paths in order."""
    yield from flatten(tree)
