"""The personalising itself as a file: the same posterior as in Python, with onnxruntime alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_models import CLASSES, EdgePair, raw_rows, split, table, untrained

from metabayfl import tree
from metabayfl.errors import ModelError
from metabayfl.export import on_device
from metabayfl.export.adapter import export_strategy

ALONE = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "metabayfl", "onnx", "onnxscript", "scipy"):
            raise ImportError(f"{name} is not on this device")

sys.meta_path.insert(0, Blocked())
import numpy as np
import onnxruntime

adapt_file, predict_file, support_file, rows_file = sys.argv[1:]
read = lambda path: dict(np.load(path, allow_pickle=False))
adapt, predict = onnxruntime.InferenceSession(adapt_file), onnxruntime.InferenceSession(predict_file)
names = [item.name for item in adapt.get_outputs()]
posterior = dict(zip(names, adapt.run(names, read(support_file))))
del posterior["valid"]
rows = read(rows_file)
out = predict.run(None, {**posterior, **rows})
print(json.dumps({item.name: value.tolist() for item, value in zip(predict.get_outputs(), out)}))
"""


def run(file: Path, feed: dict[str, Any]) -> dict[str, Any]:
    opened = on_device.session(str(file))
    return dict(zip([item.name for item in opened.get_outputs()], opened.run(None, feed), strict=True))


def adapted(pair: EdgePair, samples: int, share: float) -> tuple[dict[str, Any], Any]:
    """The file's posterior and the library's model of the same samples."""
    support = raw_rows(pair.source, samples, seed=11)
    found = run(pair.adapt, support)
    assert found.pop("valid").all()
    return found, pair.source.personalize(*split(pair.source, support), refer_share=share)


def compare(pair: EdgePair, samples: int, share: float) -> None:
    found, model = adapted(pair, samples, share)
    assert (found["threshold"], found["novelty"]) == pytest.approx(model.limits, rel=1e-4)
    expected = tree.flatten(model.prepared.constants)
    for name in found.keys() - {"threshold", "novelty"}:
        values = expected[name].numpy()
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5 * max(1.0, float(np.abs(values).max())))
    raw = {name: values for name, values in raw_rows(pair.source, 1000, seed=12).items() if name not in pair.source.schema.targets}
    answers, (x, _) = run(pair.predict, {**found, **raw}), split(pair.source, {**raw, **dict.fromkeys(pair.source.schema.targets, np.zeros(1000))})
    takes = answers["valid"]
    assert takes.sum() > 900
    theirs = model.predict({name: values[takes] for name, values in x.items()} if isinstance(x, dict) else x[takes])
    unit = np.asarray(pair.source.schema.target_scale) if model.schema.kind == "regression" else 1.0
    main = (answers["mean"], theirs.label) if model.schema.kind == "regression" else (answers["probabilities"], theirs.probabilities)
    np.testing.assert_allclose(main[0][takes] / unit, main[1] / unit, atol=1e-5, rtol=1e-5)
    for part in ("total", "aleatoric", "epistemic"):
        np.testing.assert_allclose(answers[part][takes] / unit**2, getattr(theirs, part) / unit**2, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 2, 4, 20])
def test_adapting_on_images_is_personalize(image_pair: EdgePair, samples: int) -> None:
    compare(image_pair, samples, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 2, 4, 20])
def test_adapting_in_regression_is_personalize(number_pair: EdgePair, samples: int) -> None:
    compare(number_pair, samples, 0.3)


@pytest.mark.slow
def test_samples_that_the_schema_refuses_are_left_out(number_pair: EdgePair) -> None:
    support = raw_rows(number_pair.source, 9, seed=11)
    fewer = {name: np.delete(values, [2, 5], 0) for name, values in support.items()}
    support["label"][2], support["low"][5] = "unheard of", np.nan
    found, expected = run(number_pair.adapt, support), run(number_pair.adapt, fewer)
    assert found.pop("valid").tolist() == [at not in (2, 5) for at in range(9)]
    assert expected.pop("valid").all()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_device_without_torch_and_metabayfl_adapts_and_predicts(image_pair: EdgePair, tmp_path: Path) -> None:
    support, rows = raw_rows(image_pair.source, 8, seed=1), raw_rows(image_pair.source, 5, seed=2)
    del rows["state"]
    np.savez(tmp_path / "support.npz", x=support["x"], state=support["state"].astype(str))
    np.savez(tmp_path / "rows.npz", **rows)
    words = [image_pair.adapt, image_pair.predict, tmp_path / "support.npz", tmp_path / "rows.npz"]
    done = subprocess.run([sys.executable, "-c", ALONE, *map(str, words)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), image_pair.source.personalize(support["x"], support["state"]).predict(rows["x"])
    assert found["label"] == expected.label.tolist()
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-5)


@pytest.mark.slow
def test_both_files_say_where_they_come_from(image_pair: EdgePair) -> None:
    said = [on_device.about(on_device.session(str(file))) for file in (image_pair.adapt, image_pair.predict)]
    assert [about["kind"] for about in said] == ["adapter", "predictor of a posterior"]
    assert {about["strategy"] for about in said} == {image_pair.source.strategy.digest()}
    given = [item["name"] for item in said[0]["outputs"] if item["kind"] == "posterior"]
    assert given == [item["name"] for item in said[1]["inputs"] if item["kind"] == "posterior"]
    assert said[0]["refer_share"] == 0.2


def test_an_algorithm_that_trains_is_named(tmp_path: Path) -> None:
    source = untrained(table(CLASSES), {"name": "mlp"}, "fedavg_ft")
    with pytest.raises(ModelError, match="'fedavg_ft' has no posterior in closed form"):
        export_strategy(source, tmp_path)
    assert list(tmp_path.iterdir()) == []
