"""Packed digits, raw numbers and the header."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabayfl import wire
from metabayfl.errors import ArtifactError


@given(base=st.sampled_from([3, 15, 255]), data=st.data())
@settings(max_examples=150, deadline=None)
def test_packed_codes_come_back(base: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(-(base // 2), base // 2), max_size=23))
    packed = wire.pack(torch.tensor(codes, dtype=torch.int8), base)
    assert len(packed) == wire.packed_bytes(len(codes), base) == -(-len(codes) // {3: 5, 15: 2, 255: 1}[base])
    assert wire.unpack(packed, base, len(codes)).tolist() == codes


def test_digits_by_hand() -> None:
    assert wire.pack(torch.tensor([-7, 7]), 15) == bytes([0 + 14 * 15])
    assert wire.pack(torch.tensor([1, 1, 1, 1, 1]), 3) == bytes([242])
    assert wire.pack(torch.tensor([-127, 0, 127]), 255) == bytes([0, 127, 254])
    assert wire.pack(torch.tensor([-7]), 15) == bytes([0 + 7 * 15])  # filled up with a zero code


@pytest.mark.parametrize("base, byte, count", [(3, 243, 5), (15, 225, 2), (255, 255, 1), (15, 0, 1), (3, 0, 4)])
def test_bytes_that_no_codes_give_are_refused(base: int, byte: int, count: int) -> None:
    with pytest.raises(ArtifactError, match=f"not {count} digits of base {base}"):
        wire.unpack(bytes([byte]), base, count)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_raw_numbers_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    leaf = (torch.arange(6)[: 0 if shape == (0,) else 6 if shape else 1] - 2).to(dtype).reshape(shape)
    data = wire.raw_bytes(leaf)
    assert len(data) == leaf.numel() * leaf.element_size()
    back = wire.from_raw(data, torch.zeros_like(leaf))
    assert back.dtype == dtype
    assert torch.equal(back, leaf)


def test_raw_numbers_are_little_endian_and_in_the_order_of_the_axes() -> None:
    assert wire.raw_bytes(torch.tensor([[1, 256], [-1, 0]], dtype=torch.int16).T).hex() == "0100ffff00010000"


def test_the_header_is_nine_bytes() -> None:
    value = {"a": torch.zeros(2)}
    data = wire.seal(7, value, b"payload")
    assert (len(data), data[:5]) == (wire.HEADER_BYTES + 7, b"MBF\x01\x07")
    assert wire.HEADER_BYTES == 9
    assert wire.unseal(data, 7, value, 7) == b"payload"
