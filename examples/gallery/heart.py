"""Heart disease by hospital: a diagnosis, and the patients whom a doctor should see.

Four hospitals, each with patients of its own kind. Every hospital in turn takes no part in training: it downloads the strategy, adapts on twenty of
its patients, and diagnoses the others. The least certain cases are referred to a doctor; what the model keeps is then right more often.

    python examples/gallery/heart.py --out gallery
"""

from __future__ import annotations

import dataclasses
import statistics

import pandas as pd
from drawing import Axes, Panel, dots, named, panel, save, trace, upright
from running import Options, data_file, figure, spread, start, strategy_file, table, train

import metabayfl
from metabayfl.config import Config, read
from metabayfl.report.axes import Frame, percent
from metabayfl.report.axes import spread as apart
from metabayfl.report.svg import Markup, Point, text

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
    """What the VA hospital itself would do, with its raw file: adapt, diagnose, and refer the least certain."""
    config = study_of("va")
    columns, chosen = list(config.data.names), list(config.data.features)
    patients = pd.read_csv(data_file(config, config.data.paths[3]), names=columns, na_values=["?"]).dropna(subset=[*chosen, "num"])
    patients = patients.sample(frac=1, random_state=0).assign(ill=lambda row: (row["num"] > 0).astype(int).astype(str))
    known, new = patients[:20], patients[20:]
    own = metabayfl.load(strategy_file(config, options)).personalize(known[chosen], known["ill"])
    prediction, truth = own.predict(new[chosen], refer_share=0.2), new["ill"].to_numpy()
    right, by_threshold = prediction.label == truth, own.predict(new[chosen]).refer
    rows = [("calling everybody ill", "0", f"{100 * (new['ill'] == '1').mean():.1f}"), ("its own model", "0", f"{100 * right.mean():.1f}")]
    for words, referred in (("... threshold from known patients", by_threshold), ("... the least certain fifth of the new ones", prediction.refer)):
        rows.append((words, f"{referred.sum()}", f"{100 * right[~referred].mean():.1f}"))
    inside = 100 * statistics.fmean(name in names for name, names in zip(truth, prediction.sets, strict=True))
    single = 100 * statistics.fmean(len(names) == 1 for names in prediction.sets)
    table(f"the VA hospital, seed 0: {len(new)} patients after its first 20", ("", "referred", "right among the others, %"), rows)
    print(f"prediction sets of 90 %: {inside:.1f} % hold the truth, {single:.1f} % hold one diagnosis alone")


def curve_of(entry: dict) -> tuple[list[float], list[float]]:
    """Accuracy on what is kept by share referred up to a half, the mean over seeds."""
    curves = [one["referral"]["accuracy"][:11] for one in entry["kept"]]
    return entry["kept"][0]["referral"]["referred"][:11], [statistics.fmean(column) for column in zip(*curves, strict=True)]


def draw(methods: dict[str, dict], hospitals: dict[str, dict], options: Options) -> None:
    """Left: three methods on one hospital. Right: the strategy on each hospital."""
    axes = Axes("VA hospital held out", "share of patients referred to a doctor", "accuracy on the others", (0, 0.5), (0.6, 1), percent, percent)
    left, drawn = panel(Frame(54, 70, 400, 330), axes)
    right, also = panel(Frame(500, 70, 760, 330), axes._replace(heading="Strategy, each hospital held out in turn"))
    parts = [drawn, also, upright(left, 0.2, "20 % referred"), upright(right, 0.2, "20 %")]
    for at, (name, entry) in enumerate(methods.items()):
        parts += [*marked(left, entry, f"s{2 - at}"), named((54 + 250 * at, 392), METHODS[name], f"s{2 - at}")]
    ends = [right.at(0, curve_of(entry)[1][-1])[1] + 4 for entry in hospitals.values()]
    for css, (name, entry), height in zip(("s0", "s3", "s4", "s5"), hospitals.items(), apart(ends, 15, 70, 330), strict=False):
        parts += [*marked(right, entry, css), text(768, height, NAMES[name], "name")]
    save(options.out / "heart.svg", 880, 415, "Accuracy on the patients kept against the share referred", *parts)


def marked(where: Panel, entry: dict, css: str) -> list[Markup]:
    """A curve with its accuracy at nothing referred and at a fifth."""
    x, y = curve_of(entry)
    ends = [text(*shifted(where.at(x[at], y[at])), f"{100 * y[at]:.0f}", "name", "end") for at in (0, 4) if css == "s0"]
    return [trace(where, x, y, css), dots(where, [x[0], x[4]], [y[0], y[4]], f"fill ring {css}", 4.5), *ends]


def shifted(place: Point) -> Point:
    """Above a dot, for its number."""
    return place[0] + 8, place[1] - 10


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
