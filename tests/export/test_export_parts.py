"""The parts of an export without the converter: inputs, outputs, folding, the adaptation as one function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from edge_models import CLASSES, NUMBERS, images, personal, raw_rows, signals, split, table, untrained
from scipy import special

from metabayfl import tree
from metabayfl.calibration import counts
from metabayfl.calibration import table as calibration_table
from metabayfl.data.schema import Schema
from metabayfl.errors import SchemaError
from metabayfl.export import inputs, outputs
from metabayfl.export.adapting import Shares, adapt
from metabayfl.export.checking import codes
from metabayfl.export.folding import folded, unfolded
from metabayfl.personal import PersonalStrategy, encode
from metabayfl.types import Batch

MLP = {"name": "mlp", "hidden": (6, 4)}
ROWS = [
    {"age": 30.0, "view": "side", "constant": 3.0, "label": "a", "dose mg/l": 1e6 + 1},
    {"age": np.nan, "view": "back", "constant": np.nan, "label": "c", "dose mg/l": np.nan},
    {"age": 30.0, "view": "", "constant": 9e9, "label": "b", "dose mg/l": 1e6},
    {"age": 30.0, "view": "side", "constant": 3.0, "label": "d", "dose mg/l": 1e6},
    {"age": 5000.0, "view": "side", "constant": 3.0, "label": "a", "dose mg/l": 1e6},
    {"age": np.inf, "view": "side", "constant": 3.0, "label": "a", "dose mg/l": 1e6},
    {"age": 30.0, "view": "side", "constant": -np.inf, "label": "a", "dose mg/l": 1e6},
]
PICTURES = [
    np.zeros((12, 12)),
    np.full((12, 12), 255.0),
    np.full((12, 12), 1021.0),
    np.full((12, 12), -766.0),
    np.full((12, 12), 0.5),
    np.eye(12),
    np.eye(12) * 2,
    np.full((12, 12), np.nan),
]


def accepted(schema: Schema, row: Any) -> Any:
    """What the schema makes of one row, or None where it refuses it."""
    try:
        return schema.encode(row)[0]
    except SchemaError:
        return None


def compare(schema: Schema, raw: dict[str, Any], alone: list[Any]) -> None:
    x, valid = inputs.encode(schema, codes(inputs.features(schema), raw))
    expected = [accepted(schema, row) for row in alone]
    assert valid.tolist() == [row is not None for row in expected]
    for ours, theirs in zip(x, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-6, atol=1e-7)


def test_a_table_is_encoded_and_judged_row_by_row_as_the_schema_does() -> None:
    raw = {name: np.array([row[name] for row in ROWS], dtype=object if isinstance(ROWS[0][name], str) else np.float64) for name in ROWS[0]}
    compare(table(CLASSES), raw, [{name: [value or None] if value == "" else [value] for name, value in row.items()} for row in ROWS])


def test_images_are_encoded_and_judged_row_by_row_as_the_schema_does() -> None:
    raw = np.stack(PICTURES).astype(np.float32)
    compare(images(CLASSES), {"x": raw}, [row[None] for row in raw])


def test_channels_last_and_signals_keep_the_raw_layout() -> None:
    rng = np.random.default_rng(0)
    for schema, raw in (
        (images(CLASSES, 3), rng.integers(0, 256, (5, 12, 12, 3)).astype(np.float32)),
        (signals(NUMBERS), (rng.normal(size=(5, 3, 16)) * [[[1], [1], [40]]]).astype(np.float32)),
    ):
        assert inputs.features(schema)[0].shape == raw.shape[1:]
        compare(schema, {"x": raw}, [row[None] for row in raw])


def test_the_quantile_is_scipys() -> None:
    dof, mass = np.concatenate([np.linspace(2.0, 60, 500), np.logspace(1, 9, 100), [np.inf]]), (0.3, 0.9, 0.9999)
    found = outputs.half_width(torch.from_numpy(dof).unsqueeze(-1).expand(-1, 3), mass).numpy()
    for own, one in zip(found.T, mass, strict=True):
        np.testing.assert_allclose(own[:-1], special.stdtrit(dof[:-1], 0.5 + one / 2), rtol=1e-9)
        assert own[-1] == pytest.approx(special.ndtri(0.5 + one / 2), rel=1e-9)


def test_an_output_never_has_an_inputs_name() -> None:
    assert [item.name for item in outputs.outputs(table(CLASSES))][:2] == ["label_", "probabilities"]


def test_folding_computes_constants_and_merges_equal_steps() -> None:
    weight = torch.tensor([2.0, 3.0])

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scale = torch.exp(weight).mul_(2.0)
        return torch.func.vmap(lambda row: row * scale)(x), (x * scale).sum(-1) + torch.sin(x).sum(-1) + torch.sin(x).sum(-1)

    graph = folded(unfolded(function, (torch.zeros(3, 2),)))
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert names.count("aten.sin.default") == 1
    assert names.count("aten.mul.Tensor") == 1
    assert "aten.exp.default" not in names
    for rows in (1, 2, 5):
        x = torch.arange(2.0 * rows).view(rows, 2)
        torch.testing.assert_close(graph(x), function(x))


@pytest.mark.parametrize("target", [CLASSES, NUMBERS], ids=["classification", "regression"])
@pytest.mark.parametrize("samples", [1, 2, 3, 12])
def test_the_adaptation_as_a_function_is_personalize(target: dict[str, Any], samples: int) -> None:
    source = untrained(table(target), MLP, generator="full")
    x, y = split(source, raw_rows(source, samples, seed=7))
    model = source.personalize(x, y)
    with torch.no_grad():
        found = adapt(source, encode(source.schema, x, y), Shares(), 0)
    torch.testing.assert_close(found.ready.constants, model.prepared.constants, rtol=0, atol=0)
    assert (float(found.threshold), float(found.novelty)) == pytest.approx(model.limits, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_the_limits_lean_on_the_strategys_table_of_other_clients(share: float) -> None:
    source = untrained(table(CLASSES), MLP, generator="full")
    sums = [counts(personal(source, samples).cases, 3) for samples in (8, 9, 11)]
    known = replace(source, strategy=replace(source.strategy, calibration=calibration_table(tree.map(lambda *parts: sum(parts), *sums))))
    x, y = split(known, raw_rows(known, 7))
    model = known.personalize(x, y, refer_share=share, novelty_rate=0.3)
    with torch.no_grad():
        found = adapt(known, encode(known.schema, x, y), Shares(share, 0.3), 0)
    assert (float(found.threshold), float(found.novelty)) == pytest.approx(model.limits, rel=1e-5)
    assert np.isfinite(float(found.novelty))


def test_rows_that_are_masked_are_as_if_they_were_not_there() -> None:
    source = untrained(table(CLASSES), MLP, generator="full")
    batch = encode(source.schema, *split(source, raw_rows(source, 12)))
    keep = torch.ones(12)
    keep[[0, 3, 11]] = 0.0
    with torch.no_grad():
        masked = adapt(source, batch._replace(mask=keep), Shares(), 0)
        without = adapt(source, Batch(*(part[keep > 0] for part in batch)), Shares(), 0)
    torch.testing.assert_close(masked.ready.constants, without.ready.constants)
    torch.testing.assert_close(masked[1:], without[1:])


def test_a_subset_of_a_posterior_is_the_posterior_of_the_subset() -> None:
    source: PersonalStrategy = untrained(table(NUMBERS), MLP, generator="full")
    batch, key = encode(source.schema, *split(source, raw_rows(source, 9))), torch.tensor(0)
    keep = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1, 0])
    whole = source.algorithm.adapt(source.strategy.meta, batch, key)
    assert source.algorithm.subset is not None
    part = source.algorithm.subset(whole, keep)
    alone = source.algorithm.adapt(source.strategy.meta, Batch(*(value[keep > 0] for value in batch)), key)
    torch.testing.assert_close(tree.leaves(part["statistics"]), tree.leaves(alone["statistics"]))
    torch.testing.assert_close(part["evidence"], alone["evidence"])
