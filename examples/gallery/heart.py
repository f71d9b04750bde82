"""Heart disease by hospital: a diagnosis, and the patients whom a doctor should see.

Four hospitals, each with patients of its own kind. Every hospital in turn takes no part in training: it downloads the strategy, adapts on twenty of its
patients, and diagnoses the others. The least certain cases are referred to a doctor; what the model keeps is then right more often.

    python examples/gallery/heart.py --out gallery
"""

from __future__ import annotations

import dataclasses
import statistics

import pandas as pd
from drawing import Axes, dots, named, panel, save, trace, upright
from running import Options, data_file, figure, spread, start, strategy_file, table, train

import metabayfl
from metabayfl.config import Config, read
from metabayfl.report.axes import Frame, percent
from metabayfl.report.svg import text

SEEDS = (0, 1, 2)
NAMES = {"va": "VA Long Beach", "cleveland": "Cleveland", "hungarian": "Budapest", "switzerland": "Switzerland"}
METHODS = {"local": "own 20 patients alone", "fedavg": "common model", "meta_bayfl": "strategy + own 20 patients"}


def study_of(hospital: str) -> Config:
    """The ready study with another hospital held out; the smallest of the others says when to stop."""
    ready = read("heart_disease")
    watch = "va" if hospital == "switzerland" else "switzerland"
    shorter = {**ready.algorithm["meta_bayfl"], "train": {**ready.algorithm["meta_bayfl"]["train"], "rounds": 300}}
    data = dataclasses.replace(ready.data, heldout_ids=(hospital,), validation_ids=(watch,))
    return dataclasses.replace(ready, name=f"heart_{hospital}", data=data, algorithm={**ready.algorithm, "meta_bayfl": shorter})


def referral_row(name: str, entry: dict) -> tuple[str, ...]:
    """Accuracy on all patients, on the four fifths kept, and the rise, in percent and points."""
    rise = [100 * (one["accuracy_at_80_coverage"] - one["accuracy"]) for one in entry["per_seed"]]
    return name, figure(entry, "accuracy", 100), figure(entry, "accuracy_at_80_coverage", 100), spread(rise), figure(entry, "nll", 1, 3)


def in_practice(options: Options) -> None:
    """What the VA hospital itself would do, with its raw file: adapt, and refer what lies above the threshold that its own patients gave."""
    config = study_of("va")
    columns, chosen = list(config.data.names), list(config.data.features)
    patients = pd.read_csv(data_file(config, config.data.path[3]), names=columns, na_values=["?"]).dropna(subset=[*chosen, "num"])
    patients = patients.sample(frac=1, random_state=0).assign(ill=lambda row: (row["num"] > 0).astype(int).astype(str))
    own = metabayfl.load(strategy_file(config, options)).personalize(patients[chosen][:20], patients["ill"][:20], refer_share=0.2)
    prediction = own.predict(patients[chosen][20:])
    right, kept = prediction.label == patients["ill"][20:].to_numpy(), ~prediction.refer
    print(f"\nthe VA hospital with seed 0 of the strategy: {len(right)} patients after its first 20")
    print(f"  all of them                  {100 * right.mean():.1f} % right")
    print(f"  referred by its threshold    {prediction.referred} patients, {100 * prediction.refer.mean():.1f} %")
    print(f"  the others                   {100 * right[kept].mean():.1f} % right")


def curve_of(entry: dict) -> tuple[list[float], list[float]]:
    """Accuracy on what is kept by share referred up to a half, the mean over seeds."""
    curves = [one["referral"]["accuracy"][:11] for one in entry["kept"]]
    return entry["kept"][0]["referral"]["referred"][:11], [statistics.fmean(column) for column in zip(*curves, strict=True)]


def draw(methods: dict[str, dict], hospitals: dict[str, dict], options: Options) -> None:
    """Left: three methods on one hospital. Right: the strategy on each hospital."""
    axes = Axes("VA hospital held out", "share of patients referred to a doctor", "accuracy on the others", (0, 0.5), (0.6, 1), percent, percent)
    left, drawn = panel(Frame(54, 70, 400, 330), axes)
    right, also = panel(Frame(500, 70, 760, 330), axes._replace(heading="Each hospital held out in turn"))
    parts = [drawn, also, upright(left, 0.2, "20 % referred"), upright(right, 0.2, "20 %")]
    for at, (name, entry) in enumerate(methods.items()):
        x, y = curve_of(entry)
        css = f"s{2 - at}"
        parts += [trace(left, x, y, css), dots(left, x[4:5], y[4:5], f"fill ring {css}", 5), named((60 + 0, 372 + 18 * at), METHODS[name], css)]
    for at, (name, entry) in enumerate(hospitals.items()):
        x, y = curve_of(entry)
        css = f"s{(0, 3, 4, 5)[at]}"
        parts += [trace(right, x, y, css), dots(right, x[4:5], y[4:5], f"fill ring {css}", 5)]
        parts.append(text(766, right.at(0, y[-1])[1] + 4, NAMES[name], "name"))
    save(options.out / "heart.svg", 880, 430, "Accuracy on the patients kept against the share referred", *parts)


def main(options: Options) -> None:
    """Train for each hospital in turn, print, use, draw."""
    methods = train(study_of("va"), tuple(METHODS), SEEDS, options)
    others = [name for name in NAMES if name != "va" and not options.quick]
    hospitals = {"va": methods["meta_bayfl"], **{name: train(study_of(name), ("meta_bayfl",), SEEDS, options)["meta_bayfl"] for name in others}}
    header = ("", "accuracy %", "20 % referred", "rise, points", "NLL")
    table("VA hospital held out, mean ± sd over seeds", header, [referral_row(METHODS[name], entry) for name, entry in methods.items()])
    table("strategy + own 20 patients, each hospital held out", header, [referral_row(NAMES[name], entry) for name, entry in hospitals.items()])
    in_practice(options)
    draw(methods, hospitals, options)


if __name__ == "__main__":
    start(main, __doc__)
