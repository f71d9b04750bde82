"""Parkinson's disease by patient: a symptom score from the voice, with intervals.

Forty-two patients recorded their voice at home for half a year. A new patient's model adapts on twenty recordings with a known score and gives the
score of the others, with an interval that should hold nine values in ten.

    python examples/gallery/parkinsons.py --out gallery
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from drawing import Axes, band, dots, named, panel, save, trace
from running import Options, data_file, folder, spread, start, strategy_file, table, train

import metabayfl
from metabayfl import study
from metabayfl.config import Config, read
from metabayfl.data import build_federation
from metabayfl.report.axes import Frame
from metabayfl.report.svg import Markup, group, text

SEEDS = (0, 1, 2)
METHODS = {"fedavg": "common model", "local": "own 20 recordings alone", "meta_bayfl": "strategy + own 20 recordings"}


def row(name: str, figures: list[dict]) -> tuple[str, ...]:
    """Error, share of scores inside the 90 % interval, and CRPS, over seeds."""
    inside = spread([100 * one["coverage_90"] for one in figures])
    return name, spread([one["rmse"] for one in figures], 2), inside, spread([one["crps"] for one in figures], 2)


def forecast(config: Config, options: Options) -> list[dict]:
    """The harder question with the same strategies: adapt on the first twenty recordings in time, predict all later ones."""
    later = dataclasses.replace(config, data=dataclasses.replace(config.data, support_order="first"))
    seeds = SEEDS[:1] if options.quick else SEEDS
    found = [study.evaluate_strategy(strategy_file(config, options, seed=seed), later, None, seed, folder(config, options)) for seed in seeds]
    return [one["all"] for one in found]


def follow(config: Config, options: Options) -> list[tuple[float, str, pd.DataFrame, pd.DataFrame]]:
    """Every held-out patient of seed 0: error, name, what the model adapted on, and what it then said of the other recordings."""
    everyone = pd.read_csv(data_file(config, config.data.paths[0])).astype({"subject#": str})
    strategy, found = metabayfl.load(strategy_file(config, options)), []
    for name in build_federation(config.data, seed=0).heldout.ids:
        own = everyone[everyone["subject#"] == name]
        known = own.sample(20, random_state=0)
        rest = own.drop(known.index).sort_values("test_time")
        prediction = strategy.personalize(known, known["total_UPDRS"]).predict(rest)
        said = rest.assign(mean=prediction.label[:, 0], low=prediction.interval[:, 0, 0], high=prediction.interval[:, 0, 1])
        error = float(np.sqrt(((said["mean"] - said["total_UPDRS"]) ** 2).mean()))
        found.append((error, name, known, said))
    return sorted(found, key=lambda patient: patient[0])


def patient_panel(place: int, title: str, known: pd.DataFrame, said: pd.DataFrame) -> Markup:
    """One patient over half a year: interval, true scores, and the recordings with a known score."""
    middle = (said["total_UPDRS"].min() + said["total_UPDRS"].max()) / 2
    axes = Axes(title, "days since recruitment", "total UPDRS", (0, 220), (middle - 10, middle + 10))
    left = 54 + 290 * place
    own, drawn = panel(Frame(left, 70, left + 232, 300), axes, 4)
    interval = band(own, said["test_time"], said["low"], said["high"], "s0")
    true = dots(own, said["test_time"], said["total_UPDRS"], "fill s1", 1.8)
    return group(
        drawn,
        interval,
        trace(own, said["test_time"], said["mean"], "s0"),
        true,
        dots(own, known["test_time"], known["total_UPDRS"], "hollow s1", 3.5),
    )


def main(options: Options) -> None:
    """Train, compare, forecast, follow each held-out patient, draw three of them."""
    ready = read("parkinsons")
    config = dataclasses.replace(ready, data=dataclasses.replace(ready.data, sort_by="test_time"))
    found = train(config, tuple(METHODS), SEEDS, options)
    rows = [row(METHODS[name], found[name]["per_seed"]) for name in METHODS]
    rows.append(row("the same, first 20 in time", forecast(config, options)))
    table("10 held-out patients a seed, mean ± sd over seeds", ("", "RMSE, points", "in the 90 % interval, %", "CRPS"), rows)
    size, up = strategy_file(config, options).stat().st_size, found["meta_bayfl"]["mean"]["bytes_up"]
    print(f"\nwhat a client downloads: {size:,} bytes; what it sends back a round: {up:,.0f}")
    patients = follow(config, options)
    chosen = {"best": patients[0], "median": patients[len(patients) // 2], "worst": patients[-1]}
    table("held-out patients of seed 0", ("", "patient", "RMSE"), [(word, name, f"{error:.2f}") for word, (error, name, _, _) in chosen.items()])
    panels = [patient_panel(at, f"Patient {name}: {word} of 10", known, said) for at, (word, (_, name, known, said)) in enumerate(chosen.items())]
    key = [
        named((54, 376), "predicted score, with the 90 % interval", "s0"),
        text(420, 380, "dots: true scores; rings: the 20 that the model knew", "label"),
    ]
    save(options.out / "parkinsons.svg", 900, 400, "Predicted and true symptom scores of three new patients over half a year", *panels, *key)


if __name__ == "__main__":
    start(main, __doc__)
