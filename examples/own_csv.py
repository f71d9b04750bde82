"""A csv file with a client column: mixed columns, missing values, a number to predict.

The script writes ``flats.csv`` (rents in thirty towns), compares the common model with personal ones, and predicts rents in a town of which
fifteen are known. It is the same study that ``metabayfl compare`` runs from a TOML file.

Run it with ``python examples/own_csv.py``; it writes into the working directory, the study into ``runs/flats``. Needs the extra ``tables`` (pandas).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

import metabayfl
from metabayfl import study
from metabayfl.config import Config
from metabayfl.data import DataOptions
from metabayfl.engine.options import TrainOptions


def town(name: str, generator: np.random.Generator, flats: int = 35) -> pd.DataFrame:
    """Flats of one town, which has its own price level and its own price of a square metre."""
    area, year = generator.uniform(25, 120, flats), generator.integers(1900, 2025, flats).astype(float)
    heating = generator.choice(["gas", "district", "heat pump"], flats)
    level, metre = generator.normal(200, 80), generator.normal(9, 2)
    rent = level + metre * area + 60 * (heating == "heat pump") + 0.5 * (year - 1960) + generator.normal(0, 40, flats)
    year[generator.random(flats) < 0.1] = np.nan  # not everyone knows when the house was built
    return pd.DataFrame({"town": name, "area": area.round(), "year": year, "heating": heating, "rent": rent.round(2)})


def main() -> None:
    """Write the file, run the study, and use its strategy on a town that is not in it."""
    generator = np.random.default_rng(0)
    towns = [town(f"town-{i:02d}", generator) for i in range(31)]
    pd.concat(towns[:30]).to_csv("flats.csv", index=False)

    config = Config(
        name="flats",
        data=DataOptions(path="flats.csv", client="town", target="rent", validation_clients=5, heldout_clients=8, support=15),
        model={"name": "mlp", "hidden": [16, 8]},
        train=TrainOptions(rounds=20),
        algorithm={
            "fedavg": {"client_lr": 0.03},
            "meta_bayfl": {"generator": "full", "body_lr": 5e-3, "train": {"rounds": 100, "weighting": "uniform"}},
        },
    )
    out, names = Path("runs/flats"), ("fedavg", "meta_bayfl")
    for event in study.compare(config, names, (0,), out):
        if isinstance(event, study.Scored):
            print(f"{event.algorithm} is trained and judged")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    for name in names:
        figures = summary["algorithms"][name]["mean"]
        print(f"{name:10s} RMSE {figures['rmse']:6.1f}  NLL {figures['nll']:5.2f}  inside the 90 % interval {figures['coverage_90']:.2f}")

    known, unknown = towns[30][:15], towns[30][15:]
    own = metabayfl.load(out / "strategy.safetensors").personalize(known, known["rent"])
    prediction = own.predict(unknown)
    for (low, high), mean, true in zip(prediction.interval[:3, 0], prediction.label[:3, 0], unknown["rent"], strict=False):
        print(f"rent {true:7.2f}: predicted {mean:7.2f}, 90 % interval {low:7.2f} to {high:7.2f}")


if __name__ == "__main__":
    main()
