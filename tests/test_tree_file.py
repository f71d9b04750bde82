"""Files of trees: exact, deterministic, and refused when anything in them is not as it was written."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from metabayfl import tree, tree_file
from metabayfl.errors import ArtifactError
from metabayfl.types import Tree

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool]


def numbers() -> Tree:
    leaves: Tree = {str(dtype).split(".")[1]: torch.tensor([[0, 1, 1]]).to(dtype) for dtype in DTYPES}
    return {"z": leaves, "a": {"count": torch.tensor(2**62), "none": torch.zeros(0, 3)}, "empty": {}, "inf": torch.tensor([torch.inf, torch.nan])}


ABOUT = {"rounds": 3, "names": ["é", "b"], "nested": {"z": None, "a": 0.1}}


def same(a: Tree, b: Tree) -> bool:
    """The same names in the same order, empty groups too, and the same types and bits."""
    left, right = tree.flatten(a), tree.flatten(b)
    shape: Callable[[Tree], Any] = lambda value: [(name, shape(item)) if isinstance(item, dict) else name for name, item in value.items()]  # noqa: E731
    bits: Callable[[Tensor], bytes] = lambda leaf: leaf.contiguous().view(torch.uint8).numpy().tobytes() if leaf.ndim else str(leaf).encode()  # noqa: E731
    return shape(a) == shape(b) and all(left[path].dtype == right[path].dtype and bits(left[path]) == bits(right[path]) for path in left)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    tree_file.save_tree(tmp_path / "a", numbers(), ABOUT)
    for template in (None, numbers()):
        value, about = tree_file.load_tree(tmp_path / "a", template)
        assert same(value, numbers())
        assert about == ABOUT


def test_the_same_tree_gives_the_same_bytes() -> None:
    data = {tree_file.to_bytes(numbers(), dict(reversed(ABOUT.items()))) for _ in range(20)}
    assert data == {tree_file.to_bytes(numbers(), ABOUT)}
    assert tree_file.to_bytes(*tree_file.from_bytes(data.pop())) == tree_file.to_bytes(numbers(), ABOUT)


def test_views_and_shared_memory_are_saved() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    value = {"t": x.T, "row": x[0], "same": x, "again": x, "wide": torch.ones(1).expand(4)}
    loaded, _ = tree_file.from_bytes(tree_file.to_bytes(value, {}))
    assert all(torch.equal(loaded[name], leaf) for name, leaf in value.items())
    loaded["t"].add_(1)  # what was loaded is the reader's own


SMALL: Tree = {"w": {"a": torch.tensor([0.5, -2.0])}, "n": torch.tensor(3)}


def test_every_flipped_bit_is_refused() -> None:
    data = tree_file.to_bytes(SMALL, {"k": 1})
    for i in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[i // 8] ^= 1 << i % 8
        with pytest.raises(ArtifactError):
            tree_file.from_bytes(bytes(damaged))


def test_every_truncation_is_refused() -> None:
    data = tree_file.to_bytes(SMALL, {"k": 1})
    for part in [*(data[:i] for i in range(len(data))), data + b"\0"]:
        with pytest.raises(ArtifactError):
            tree_file.from_bytes(part)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip file", b"\x80\x04\x95 a pickle....", b"\xff" * 64, safetensors.torch.save(SMALL["w"])])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="no file of metabayfl"):
        tree_file.from_bytes(data)


def rewritten(change: Callable[[dict[str, Any]], None], tensors: dict[str, Tensor] | None = None) -> bytes:
    """A file whose description was changed, with a digest that fits: what somebody who means harm would write."""
    data = tree_file.to_bytes(SMALL, {"k": 1})
    (length,) = struct.unpack_from("<Q", data)
    document = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["metabayfl"])
    del document["sha256"]
    change(document)
    tensors = tree.flatten(SMALL) if tensors is None else tensors
    document.setdefault("sha256", tree_file._digest(document, tensors))
    return safetensors.torch.save(tensors, {"metabayfl": json.dumps(document)})


def test_a_rewritten_file_that_is_right_is_read() -> None:
    assert same(tree_file.from_bytes(rewritten(lambda document: None))[0], SMALL)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda document: document.update(format=2), "format 2, this library reads 1"),
        (lambda document: document.pop("format"), "no description"),
        (lambda document: document.update(extra=1), "damaged description"),
        (lambda document: document.update(tree="w/a"), "damaged description"),
        (lambda document: document.update(about=[]), "damaged description"),
        (lambda document: document.update(sha256="0" * 64), "altered"),
        (lambda document: document.update(kind="posterior"), "is a 'posterior', expected a 'tree'"),
        (lambda document: document.update(tree=["w/a"]), "lists other tensors"),
        (lambda document: document.update(tree=["w/a", "n", "m"]), "lists other tensors"),
        (lambda document: document.update(tree=["w/a", "n", "w/a"]), "lists other tensors"),
        (lambda document: document.update(tree=["w/a", "n", "n/"]), "both as a tensor and as a group"),
        (lambda document: document.update(tree=["n", "w/", "w/a"]), ""),
    ],
)
def test_descriptions_that_cannot_be(change: Callable[[dict[str, Any]], None], message: str) -> None:
    if not message:  # a group that is announced and then filled is odd, and harmless
        assert same(tree_file.from_bytes(rewritten(change))[0], {"n": SMALL["n"], "w": SMALL["w"]})
        return
    with pytest.raises(ArtifactError, match=message):
        tree_file.from_bytes(rewritten(change))


def test_a_leaf_below_a_leaf_is_refused() -> None:
    tensors = {"w": torch.ones(1), "w/a": torch.ones(1)}
    with pytest.raises(ArtifactError, match="both as a tensor and as a group"):
        tree_file.from_bytes(rewritten(lambda document: document.update(tree=["w", "w/a"]), tensors))


@pytest.mark.parametrize(
    "template, message",
    [
        ({"w": {"a": torch.zeros(2)}}, r"lacks nothing and has \['n'\]"),
        ({**SMALL, "v": torch.zeros(1)}, r"lacks \['v'\]"),
        ({"w": {"a": torch.zeros(3)}, "n": SMALL["n"]}, r"'w/a' is torch.float32 \[2\], expected torch.float32 \[3\]"),
        ({"w": {"a": torch.zeros(2).double()}, "n": SMALL["n"]}, r"expected torch.float64 \[2\]"),
    ],
)
def test_what_does_not_fit_the_template_is_refused(template: Tree, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        tree_file.from_bytes(tree_file.to_bytes(SMALL, {}), template, where="x.safetensors")


def test_the_template_decides_the_order() -> None:
    value, _ = tree_file.from_bytes(tree_file.to_bytes(SMALL, {}), {"n": SMALL["n"], "w": SMALL["w"]})
    assert list(value) == ["n", "w"]


@pytest.mark.parametrize("value", [{"a/b": torch.ones(1)}, {"": torch.ones(1)}, {"__metadata__": torch.ones(1)}, {"a": 1.0}, {3: torch.ones(1)}])
def test_trees_that_could_not_be_read_again_are_refused(value: Tree) -> None:
    with pytest.raises(ArtifactError, match=r"cannot stand in a file|expected a tensor"):
        tree_file.to_bytes(value, {})


@pytest.mark.parametrize("about", [{"a": float("nan")}, {"a": object()}, {"a": {(1, 2): 3}}])
def test_descriptions_without_json_are_refused(about: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="has no JSON"):
        tree_file.to_bytes(SMALL, about)


def test_not_finite_numbers_are_named() -> None:
    with pytest.raises(ArtifactError, match=r"x holds NaN or infinite numbers in \['w/a'\]"):
        tree_file.require_finite({"w": {"a": torch.tensor([1.0, torch.nan])}, "n": torch.tensor(1)}, "x")
