"""``metabayfl export`` and ``metabayfl bench``: one file from a posterior, what it costs, and refusals of one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from metabayfl.export import on_device
from metabayfl.personal import PersonalStrategy
from tiny import digits, run, strategy

Capture = pytest.CaptureFixture[str]
Run = Callable[..., str]


@pytest.mark.slow
def test_a_posterior_becomes_a_file_that_can_be_measured(
    digits_strategy: PersonalStrategy, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior, out = tmp_path / "posterior.safetensors", tmp_path / "posterior.onnx"
    digits_strategy.personalize(*digits()).save(posterior)
    assert run("export", "--posterior", posterior, "--to", "onnx", "--int8") == 0
    said = capsys.readouterr().out
    assert f"{out}: {out.stat().st_size / 1000:.1f} KB, checked on 64 rows: at most " in said
    assert on_device.about(on_device.session(str(out)))["int8"] is True
    assert run("bench", "--onnx", out) == 0
    said = capsys.readouterr().out
    assert f"{out}: {out.stat().st_size / 1000:.1f} KB · one row: median " in said
    monkeypatch.setattr(on_device, "RUNS", 3)
    found = on_device.measured(str(out), 1)
    assert 0 < found["median_ms"] <= found["p99_ms"]
    assert 0 < found["before_mb"] <= found["peak_mb"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either --posterior FILE or --strategy FILE"),
        (("--posterior", "a", "--strategy", "b"), "give either --posterior FILE or --strategy FILE"),
        (("--posterior", "none.safetensors"), "there is no file none.safetensors"),
        (("--strategy", "none.safetensors"), "there is no file none.safetensors"),
        (("--posterior", "a", "--to", "tflite"), "unknown format 'tflite': expected one of onnx"),
        (("--strategy", "a", "--refer-share", "2"), "'--refer-share'"),
    ],
)
def test_bad_words_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Run, words: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused("export", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_strategy_in_place_of_a_posterior_is_told_apart(digits_study: Path, refused: Run) -> None:
    assert "posterior" in refused("export", "--posterior", strategy(digits_study))


def test_bench_refuses_what_is_not_ours(tmp_path: Path, refused: Run) -> None:
    assert "there is no file" in refused("bench", "--onnx", tmp_path / "none.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\x08\x07" + bytes(range(200)))
    assert "is no whole ONNX file" in refused("bench", "--onnx", damaged)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", value[:1], value[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "other.onnx")
    assert "metabayfl did not write it" in refused("bench", "--onnx", tmp_path / "other.onnx")
