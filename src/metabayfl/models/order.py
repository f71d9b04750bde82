"""The order in memory of convolution kernels: the same numbers, another speed."""

from __future__ import annotations

from torch import Tensor

from metabayfl import tree
from metabayfl.types import Tree


def channels_last(params: Tree) -> Tree:
    """``params`` with the kernels of images ``(O, I, height, width)`` stored channels last, on a CPU.

    A convolution's output takes the order over, and pooling is much faster in it. Not for second derivatives under ``vmap``, which PyTorch 2.13
    refuses in this order.

    Example:
        >>> import torch
        >>> channels_last({"weight": torch.zeros(8, 4, 3, 3)})["weight"].stride()
        (36, 1, 12, 4)
    """
    return tree.map(_ordered, params)


def _ordered(leaf: Tensor) -> Tensor:
    if leaf.ndim != 4 or leaf.device.type != "cpu":
        return leaf
    outputs, inputs, height, width = leaf.shape
    # by way of a flat kernel: one of a single channel counts as contiguous in either order, and would keep the strides of the slow one
    return leaf.movedim(1, -1).flatten().view(outputs, height, width, inputs).movedim(-1, 1)
