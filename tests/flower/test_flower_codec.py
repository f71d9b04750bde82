"""Records through Flower's records and back: the same bits, and nothing else is let in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from metabayfl.errors import FederationError
from metabayfl.flower import records
from metabayfl.flower.codec import PREFIX, from_content, to_content
from metabayfl.flower.records import Header, Record, record

HEADER = Header("e" * 64, "train", 7)
TYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def bits(value: torch.Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""


def message(**arrays: torch.Tensor) -> Record:
    return record(HEADER, {"clients": ["a", "ä/b"], "nested": {"x": [1, None, True]}}, dict(arrays), {"clients": 2})


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2**32 - 1))
def test_every_type_and_shape_comes_back_bit_for_bit(kind: torch.dtype, shape: list[int], seed: int) -> None:
    value = torch.from_numpy(np.random.default_rng(seed).integers(-(2**62), 2**62, shape))
    value = (value % 2 == 0) if kind == torch.bool else value.to(torch.float64).to(kind) if kind.is_floating_point else value.to(kind)
    sent = message(**{"0/update": value})
    back = from_content(recorddict_from_proto(recorddict_to_proto(to_content(sent))))
    assert back.header == sent.header
    assert back.body == sent.body
    assert back.counts == sent.counts
    assert back.arrays["0/update"].dtype == kind
    assert back.arrays["0/update"].shape == value.shape
    assert bits(back.arrays["0/update"]) == bits(value)


def test_signs_infinities_and_the_bits_of_nan_survive() -> None:
    odd = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan")])
    for value in (odd, odd.bfloat16(), odd.double(), odd.half()):
        assert bits(from_content(to_content(message(x=value))).arrays["x"]) == bits(value)


def test_there_is_one_record_of_each_kind_and_names_are_prefixed() -> None:
    content = to_content(message(x=torch.ones(2), y=torch.zeros(3)))
    assert len(content.array_records) == len(content.metric_records) == len(content.config_records) == 1
    assert list(content["arrays"]) == [f"{PREFIX}x", f"{PREFIX}y"]


def test_a_record_is_the_same_after_a_file() -> None:
    sent = message(**{"0/update": torch.arange(4, dtype=torch.uint8), "0/metrics/loss": torch.tensor(1.5)})
    back, about = records.from_bytes(records.to_bytes(sent, {"request": "d"}), "a file")
    assert about == {"request": "d"}
    assert records.digest(back) == records.digest(sent)
    assert records.digest(sent._replace(arrays={"x": torch.zeros(1)})) != records.digest(sent)


def altered(**changes: object) -> RecordDict:
    content = to_content(message(x=torch.ones(2)))
    for name, value in changes.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    return content


GOOD_WORDS = {**HEADER._asdict(), "body": "{}"}


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        altered(arrays=None),
        altered(more=ArrayRecord()),
        altered(arrays=MetricRecord({})),
        altered(words=ConfigRecord({})),
        altered(words=ConfigRecord({**GOOD_WORDS, "body": "{"})),
        altered(words=ConfigRecord({**GOOD_WORDS, "body": "[]"})),
        altered(words=ConfigRecord({**GOOD_WORDS, "body": '{"x": NaN}'})),
        altered(words=ConfigRecord({**GOOD_WORDS, "round": "7"})),
        altered(words=ConfigRecord({**GOOD_WORDS, "round": True})),
        altered(counts=MetricRecord({"clients": 1.5})),
        altered(arrays=ArrayRecord({"x": Array(np.ones(2))})),
        altered(arrays=ArrayRecord({PREFIX: Array(np.ones(2))})),
        altered(arrays=ArrayRecord({f"{PREFIX}a//b": Array(np.ones(2))})),
        altered(arrays=ArrayRecord({f"{PREFIX}x": Array("float32", (2,), "numpy.ndarray", b"")})),
        altered(arrays=ArrayRecord({f"{PREFIX}x": Array("float32", (2,), "torch", b"abc")})),
        altered(arrays=ArrayRecord({f"{PREFIX}x": Array(np.array([1 + 2j]))})),
        altered(arrays=ArrayRecord({f"{PREFIX}x": Array(np.array(["text"]))})),
        altered(arrays=ArrayRecord({f"{PREFIX}x": Array(np.ones(2, ">f4"))})),
        altered(arrays=ArrayRecord({f"{PREFIX}x": Array("float32", (3,), "numpy.ndarray", Array(np.ones(2, np.float32)).data)})),
        altered(arrays=ArrayRecord({f"{PREFIX}x": Array("bfloat16", (2,), "numpy.ndarray", Array(np.ones(2, np.float32)).data)})),
    ],
)
def test_anything_else_is_refused_in_a_sentence(content: RecordDict) -> None:
    with pytest.raises(FederationError, match=r"message"):
        from_content(content)


def test_objects_that_would_need_pickle_are_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    bad = Array("object", (1,), "numpy.ndarray", buffer.getvalue())
    with pytest.raises(FederationError, match="cannot be read"):
        from_content(altered(arrays=ArrayRecord({f"{PREFIX}x": bad})))
