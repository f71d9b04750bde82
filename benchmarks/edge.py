"""What a strategy costs on a device: run by hand, ``python benchmarks/edge.py STRATEGY CONFIG``.

Rows of the config's data, drawn with a fixed seed: 20 to adapt on, 1,000 others to be asked about. Every line is one exported file: its size, the
time of one call (one row, or the 20 samples) in a process of its own that has onnxruntime alone, on one core, and its parity: how far its answers
are from the library's on the 1,000 rows, probabilities and nats as they are, regressions relative to the target's scale.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabayfl import config as configs
from metabayfl import load
from metabayfl.data import raw as rows
from metabayfl.data.sources import load as load_data
from metabayfl.export import on_device
from metabayfl.export.adapter import export_strategy
from metabayfl.export.bench import cost
from metabayfl.export.predictor import export_predictor
from metabayfl.personal import PersonalPrediction, PersonalStrategy

SUPPORT, ASKED = 20, 1000


class Client(NamedTuple):
    """Raw rows as a file takes them, and as the library does."""

    support: dict[str, Any]
    asked: dict[str, Any]
    x: Any
    y: Any
    others: Any


def client(source: PersonalStrategy, data: rows.Raw) -> Client:
    """Rows of the data as if they were one client's."""
    chosen = np.random.default_rng(0).permutation(rows.count(data))[: SUPPORT + ASKED]
    first, rest = chosen[:SUPPORT], chosen[SUPPORT:]
    target = data.y.values[first]
    y = np.array(data.y.labels, dtype=object)[target] if data.y.kind == "classification" else target.reshape(SUPPORT, -1)
    own = dict(zip(source.schema.targets, y[None] if y.ndim == 1 else y.T, strict=True))
    x, others = rows.take(data, first), rows.take(data, rest)
    return Client({**columns(x), **own}, columns(others), x, y, others)


def columns(x: Any) -> dict[str, Any]:
    """What a file takes; a missing category is an empty text."""
    if not isinstance(x, dict):
        return {"x": np.asarray(x, np.float32)}
    return {name: np.array([value or "" for value in values], dtype=object) if values.dtype == object else values for name, values in x.items()}


def run(path: Path, feed: dict[str, Any]) -> dict[str, Any]:
    opened = on_device.session(str(path))
    return dict(zip([item.name for item in opened.get_outputs()], opened.run(None, feed), strict=True))


def parity(source: PersonalStrategy, found: dict[str, Any], expected: PersonalPrediction) -> tuple[float, float]:
    """Largest deviation, and the share of rows with another label."""
    unit = np.asarray(source.schema.target_scale) if source.schema.kind == "regression" else np.ones(1)
    pairs = [(found[part], getattr(expected, part), unit**2) for part in ("total", "aleatoric", "epistemic")]
    classes = source.schema.kind == "classification"
    pairs.append((found["probabilities"], expected.probabilities, unit) if classes else (found["mean"], expected.label, unit))
    worst = max(float(np.abs((ours - theirs) / (scale if np.ndim(ours) > 1 else 1.0)).max()) for ours, theirs, scale in pairs)
    changed = float(np.mean(found["label"] != expected.label)) if classes else 0.0
    return worst, changed


def lines(source: PersonalStrategy, own: Client, folder: Path) -> Iterator[str]:
    """A row of the table for every file."""
    model = source.personalize(own.x, own.y)
    expected = model.predict(own.others)
    for int8 in (False, True):
        precision = "int8" if int8 else "fp32"
        alone = export_predictor(model, folder / f"{precision}.onnx", int8=int8).path
        yield line("personal predictor", precision, alone, *parity(source, run(alone, own.asked), expected))
        pair = export_strategy(source, folder / precision, int8=int8)
        posterior = run(pair.adapt.path, own.support)
        del posterior["valid"]
        answers = run(pair.predict.path, {**posterior, **own.asked})
        yield line("adaptation", precision, pair.adapt.path, *parity(source, answers, expected))
        yield line("predictor of its posterior", precision, pair.predict.path, *parity(source, answers, expected))


def line(name: str, precision: str, path: Path, deviation: float, changed: float) -> str:
    found = cost(path)
    times = f"{found.cpu_ms:.2f} | {found.median_ms:.2f} | {found.p99_ms:.2f}"
    return f"| {name} | {precision} | {found.rows} | {found.size / 1000:.1f} | {times} | {found.own_mb:.0f} | {deviation:.1e} | {100 * changed:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("strategy", type=Path)
    parser.add_argument("config", help="whose data are asked about")
    given = parser.parse_args()
    source, config = load(given.strategy), configs.read(given.config)
    print(
        "| file | weights | rows a call | KB | processor, ms | median, ms | p99, ms | memory, MB | deviation | other label, % |\n" + "|---" * 10 + "|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for text in lines(source, client(source, load_data(config.data, Path.cwd())), Path(folder)):
            print(text, flush=True)


if __name__ == "__main__":
    main()
