"""Codecs: the bytes, the rounding and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metabayfl import random, tree, wire
from metabayfl.compression import CODECS, LARGEST, bfloat16, exact, int4, int8, quantise, restore, ternary
from metabayfl.errors import ArtifactError
from metabayfl.types import Codec, Tree

KEY = random.key(3)
LOSSY = ["bfloat16", "int8", "int4", "ternary"]
STEPS = {"int8": 1 / 127, "int4": 1 / 7, "ternary": 1.0}


def strategy() -> Tree:
    """About 7,000 numbers in a dozen blocks of unlike sizes, as Meta-BayFL has them, and a counter."""
    shapes = {"free": (160, 12), "space": (2, 49), "channel": (2, 24, 32), "hash": (3, 1050), "mu": (10, 32), "kappa": (1,), "log_a": (10,)}
    leaves = {name: random.normal(random.fold(KEY, name), shape) * 10.0 ** -len(name) for name, shape in shapes.items()}
    return {"z": {name: leaves[name] for name in ("free", "space", "channel", "hash")}, "head": {"mu": leaves["mu"]}, "log_a": leaves["log_a"]} | {
        "kappa": leaves["kappa"],
        "count": torch.tensor(12345678901),
    }


def equal(a: Tree, b: Tree) -> bool:
    """The same paths in the same order, types and bits; minus zero is not zero."""
    left, right = tree.flatten(a), tree.flatten(b)
    same = [left[path].dtype == right[path].dtype and wire.raw_bytes(left[path]) == wire.raw_bytes(right[path]) for path in right if path in left]
    return list(left) == list(right) and all(same)


@pytest.fixture(params=sorted(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]()


@pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_round_trip_is_what_decoding_gives_to_the_bit(codec: Codec, key: Tensor | None, dtype: torch.dtype) -> None:
    value = tree.to(strategy(), dtype)
    seen = codec.round_trip(value, key)
    assert equal(seen, codec.decode(codec.encode(value, key), tree.zeros_like(value)))
    assert [leaf.dtype for leaf in tree.leaves(seen)] == [leaf.dtype for leaf in tree.leaves(value)]


finite = st.floats(-(2.0**126), 2.0**126, width=32)


@given(
    numbers=st.lists(finite, min_size=0, max_size=12),
    count=st.integers(-(2**63), 2**63 - 1),
    name=st.sampled_from(sorted(CODECS)),
    noisy=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_tree_survives(numbers: list[float], count: int, name: str, noisy: bool) -> None:
    value = {"b": torch.tensor(count), "a": {"x": torch.tensor(numbers, dtype=torch.float32), "flag": torch.tensor([True, False, count > 0])}}
    codec, key = CODECS[name](), KEY if noisy else None
    seen = codec.decode(codec.encode(value, key), value)
    assert equal(seen, codec.round_trip(value, key))
    assert torch.equal(seen["b"], value["b"])
    assert torch.equal(seen["a"]["flag"], value["a"]["flag"])
    if name == "exact":
        assert equal(seen, value)


@given(numbers=st.lists(finite, min_size=1, max_size=12), name=st.sampled_from(LOSSY))
@settings(max_examples=150, deadline=None)
def test_what_was_rounded_to_nearest_stays_as_it_is(numbers: list[float], name: str) -> None:
    once = CODECS[name]().round_trip({"x": torch.tensor(numbers, dtype=torch.float32)}, None)
    assert equal(once, CODECS[name]().round_trip(once, None))


@pytest.mark.parametrize("name", sorted(STEPS))
@pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "random"])
def test_error_is_at_most_half_a_step_and_at_random_one(name: str, key: Tensor | None) -> None:
    x = random.normal(KEY, (5000,))
    error = (CODECS[name]().round_trip({"x": x}, key)["x"] - x).abs().max()
    step = float(x.abs().max()) * STEPS[name] * (1 + 2**-14)
    assert error <= step * (0.5 if key is None else 1.0) + 1e-6


@pytest.mark.parametrize("name", LOSSY)
def test_random_rounding_is_unbiased(name: str) -> None:
    """The mean over 4,000 keys is within five standard errors of the number: |error| <= step, so its variance is at most step^2 / 4."""
    x = torch.tensor([1.0, -0.9, 0.5, 0.31, 0.1, 0.011, -0.003, 0.0, 1e-6], dtype=torch.float64)
    keys = random.keys(KEY, 4000)
    seen = torch.func.vmap(lambda key: CODECS[name]().round_trip({"x": x}, key)["x"])(keys)
    step = torch.full_like(x, STEPS[name]) if name in STEPS else x.abs() * 2.0**-7
    assert torch.all((seen.mean(0) - x).abs() <= 5 * step / 2 / math.sqrt(len(keys)) + 1e-7)
    assert len(torch.unique(seen[:, 3])) == 2


def test_rounding_to_nearest_is_not_random() -> None:
    x = {"x": random.normal(KEY, (100,))}
    assert equal(int8().round_trip(x, None), int8().round_trip(x, None))
    assert not equal(int8().round_trip(x, KEY), int8().round_trip(x, random.key(4)))


def test_leaves_draw_apart() -> None:
    x = random.normal(KEY, (200,))
    seen = int4().round_trip({"a": x, "b": x}, KEY)
    assert not torch.equal(seen["a"], seen["b"])


def test_vmapped_is_looped(codec: Codec) -> None:
    values = {"a": random.normal(KEY, (4, 3, 5), torch.float64), "n": torch.arange(4)}
    keys = random.keys(KEY, 4)
    for noise in (None, keys):
        dims = (0, None) if noise is None else (0, 0)
        batched = torch.func.vmap(codec.round_trip, in_dims=dims)(values, noise)
        for i in range(4):
            alone = codec.round_trip({"a": values["a"][i], "n": values["n"][i]}, None if noise is None else noise[i])
            assert torch.equal(batched["a"][i], alone["a"])
            assert torch.equal(batched["n"][i], alone["n"])


def test_bytes_of_a_strategy() -> None:
    value = strategy()
    count = tree.size(value) - 1
    assert 6900 < count < 7200
    bytes_of = {name: len(CODECS[name]().encode(value, KEY)) for name in CODECS}
    overhead = 9 + 8  # the header, and the counter as it is
    assert bytes_of["exact"] == overhead + 4 * count
    assert bytes_of["bfloat16"] == overhead + 2 * count
    assert bytes_of["int8"] == overhead + count + 7 * 4
    assert bytes_of["int8"] <= 7200
    assert bytes_of["int4"] <= overhead + count / 2 + 7 * 5
    assert bytes_of["ternary"] <= overhead + count / 5 + 7 * 5


def test_the_order_of_the_dicts_plays_no_part(codec: Codec) -> None:
    value = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([3.0, 0.5])}
    other = dict(reversed(value.items()))
    assert codec.encode(value, KEY) == codec.encode(other, KEY)
    assert list(codec.decode(codec.encode(value, KEY), other)) == ["b", "a"]


def test_a_number_alone_and_zeros_are_kept(codec: Codec) -> None:
    value = {"one": torch.tensor(0.125), "zero": torch.zeros(3), "none": torch.zeros(0, 2), "tiny": torch.tensor([1e-42])}
    seen = codec.round_trip(value, KEY)
    assert torch.allclose(seen["one"], value["one"], rtol=1e-4)
    assert torch.equal(seen["zero"], value["zero"])
    assert seen["none"].shape == (0, 2)
    assert float(seen["tiny"]) <= 1e-40  # the smallest step that bfloat16 has
    assert equal(seen, codec.decode(codec.encode(value, KEY), value))


def test_trees_without_fractions_travel_too(codec: Codec) -> None:
    for value in ({}, {"n": torch.tensor([1, 2])}):
        assert equal(codec.round_trip(value, KEY), value)
        assert equal(codec.decode(codec.encode(value, KEY), value), value)


def test_codes_by_hand() -> None:
    (codes, alone), scales = quantise([torch.tensor([7.0, -3.4, 0.5, -0.6]), torch.tensor(-14.0)], 7, None)
    assert (codes.tolist(), alone.tolist(), scales.tolist()) == ([7, -3, 0, -1], -7, [1.0, 2.0])
    assert restore(codes, scales[0]).tolist() == [7.0, -3.0, 0.0, -1.0]
    assert ternary().round_trip({"x": torch.tensor([2.0, 0.9, -1.1])}, None)["x"].tolist() == [2.0, 0.0, -2.0]
    assert bfloat16().round_trip({"x": torch.tensor([1.0 + 2**-9])}, None)["x"].tolist() == [1.0]


def test_the_input_is_not_changed(codec: Codec) -> None:
    value = strategy()
    codec.round_trip(value, KEY)
    codec.encode(value, KEY)
    assert equal(value, strategy())


SMALL = {"a": torch.tensor([0.5, -1.0, 0.25]), "n": torch.tensor(7)}


def test_every_flipped_bit_is_refused(codec: Codec) -> None:
    data = codec.encode(SMALL, None)
    for i in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[i // 8] ^= 1 << i % 8
        with pytest.raises(ArtifactError):
            codec.decode(bytes(damaged), SMALL)


def test_every_other_length_is_refused(codec: Codec) -> None:
    data = codec.encode(SMALL, None)
    for other in [*(data[:i] for i in range(len(data))), data + b"\0"]:
        with pytest.raises(ArtifactError, match="bytes arrived where the tree takes"):
            codec.decode(other, SMALL)


@pytest.mark.parametrize(
    "template",
    [
        {"b": SMALL["a"], "n": SMALL["n"]},
        {"a": SMALL["a"].unsqueeze(0), "n": SMALL["n"]},
        {"a": SMALL["n"].new_zeros(3).to(torch.float32), "n": {"n": SMALL["n"]}},
    ],
    ids=["name", "shape", "structure"],
)
def test_another_structure_of_the_same_size_is_refused(codec: Codec, template: Tree) -> None:
    with pytest.raises(ArtifactError, match="checksum"):
        codec.decode(codec.encode(SMALL, None), template)


def test_another_codec_or_version_is_refused() -> None:
    data = int8().encode({"x": torch.ones(4)}, None)
    with pytest.raises(ArtifactError, match="codec 2, expected 3"):
        int4().decode(data[:-2], {"x": torch.ones(4)})
    with pytest.raises(ArtifactError, match="version 9"):
        int8().decode(data[:3] + b"\x09" + data[4:], {"x": torch.ones(4)})
    with pytest.raises(ArtifactError, match="no message of metabayfl"):
        int8().decode(b"XYZ" + data[3:], {"x": torch.ones(4)})


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, LARGEST * 1.1])
def test_what_is_not_finite_is_not_sent(name: str, bad: float) -> None:
    with pytest.raises(ArtifactError, match="'head/w' holds NaN"):
        CODECS[name]().encode({"head": {"w": torch.tensor([0.0, bad])}}, None)
    assert not torch.isfinite(CODECS[name]().round_trip({"w": torch.tensor([0.0, math.nan])}, KEY)["w"]).all()


@pytest.mark.parametrize("name", LOSSY)
def test_the_largest_number_is_sent(name: str) -> None:
    value = {"w": torch.tensor([LARGEST, -LARGEST, 0.0])}
    seen = CODECS[name]().decode(CODECS[name]().encode(value, KEY), value)
    assert torch.allclose(seen["w"], value["w"], rtol=2**-7)


def sealed(codec: Callable[[], Codec], number: int, payload: bytes) -> None:
    template = {"x": torch.ones(3)}
    codec().decode(wire.seal(number, template, payload), template)


def test_a_message_with_a_right_checksum_and_impossible_numbers_is_refused() -> None:
    for scale in (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xbf"):  # NaN, infinity, -1
        with pytest.raises(ArtifactError, match="scale of a block"):
            sealed(int8, 2, scale + b"\x00\x00\x00")
    with pytest.raises(ArtifactError, match="not 3 digits of base 255"):
        sealed(int8, 2, b"\x00\x00\x80\x3f" + b"\xff\x00\x00")
    with pytest.raises(ArtifactError, match="not 3 digits of base 15"):
        sealed(int4, 3, b"\x00\x00\x80\x3f" + b"\x00\x00")  # the digit that fills up is not zero's
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        sealed(bfloat16, 1, b"\xc0\x7f" * 3)


def test_exact_keeps_what_is_not_finite() -> None:
    value = {"x": torch.tensor([math.inf, -math.inf, math.nan])}
    seen = exact().decode(exact().encode(value, None), value)
    assert torch.equal(seen["x"].view(torch.int32), value["x"].view(torch.int32))
