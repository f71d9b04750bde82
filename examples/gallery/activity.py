"""Activity recognition by person: what somebody is doing, from the phone at the waist and five labelled moments.

Thirty people walked, climbed stairs, sat, stood and lay down (UCI HAR, 81 statistics of each window of 2.56 s). A new person labels five moments. Six
activities do not fit into five moments: at least one was never shown, and there the model should doubt.

    python examples/gallery/activity.py --out gallery
"""

from __future__ import annotations

import dataclasses
import statistics

from drawing import Axes, dots, named, panel, save, trace
from running import Options, folder, spread, start, strategy_file, table, train

from metabayfl import study
from metabayfl.config import Config, read
from metabayfl.report.axes import Frame, percent, short
from metabayfl.report.svg import Markup, group

SEEDS, SIZES = (0, 1, 2), (1, 2, 5, 10, 20)
METHODS = {"meta_bayfl": "strategy + own moments", "fedavg": "common model", "local": "own moments alone"}
HEIGHTS = {"accuracy": "right", "nll": "NLL, nats; off the top: 2 or more", "auroc_unseen": "AUROC of the doubt, chance is 50 %"}
SHOWN = {"accuracy": ("right, %", 100, 1), "nll": ("NLL, nats", 1, 2), "auroc_unseen": ("never shown, AUROC %", 100, 1)}


def study_of() -> Config:
    """The ready study on the statistics in place of the signals, with a small perceptron: minutes become seconds."""
    ready = read("uci_har")
    data = dataclasses.replace(ready.data, path="uci_har/uci_har_feats81.npz", layout="vector", where=ready.data.where + ", 9 statistics a channel")
    rounds = {"fedavg": 40, "meta_bayfl": 200, "local": 1}
    tables = {name: {**ready.algorithm[name], "train": {**ready.algorithm[name].get("train", {}), "rounds": own}} for name, own in rounds.items()}
    tables["meta_bayfl"] |= {"generator": "full", "body_lr": 5e-3}
    return dataclasses.replace(ready, data=data, model={"name": "mlp", "hidden": [64, 32], "dropout": 0.3}, algorithm=tables)


def by_size(config: Config, options: Options) -> dict[str, dict[int, list[dict]]]:
    """By method and number of labelled moments, the figures of each seed's eight new people; their test moments stay the same."""
    seeds, where = (SEEDS[:1] if options.quick else SEEDS), folder(config, options)
    sizes = SIZES[2:4] if options.quick else SIZES
    asked = {n: [study.evaluate_strategy(strategy_file(config, options, n, seed), config, sizes, seed, where) for seed in seeds] for n in METHODS}
    return {name: {size: [one[str(size)] for one in found] for size in sizes} for name, found in asked.items()}


def chart(place: int, key: str, heading: str, found: dict[str, dict[int, list[dict]]]) -> Markup:
    """One figure against the number of labelled moments, the mean over seeds."""
    sizes, last = list(found["local"]), len(found["local"]) - 1
    means = {name: [statistics.fmean(one[key] for one in seeds) for seeds in by_size.values()] for name, by_size in found.items()}
    high, written = (2.0, short) if key == "nll" else (1.0, percent)
    axes = Axes(heading, "labelled moments of the new person", HEIGHTS[key], (0, last), (0, high), lambda at: str(sizes[int(at)]), written)
    left = 54 + 290 * place
    own, drawn = panel(Frame(left, 70, left + 226, 310), axes, last)
    lines = [trace(own, range(len(sizes)), values, f"s{at}") for at, values in enumerate(means.values())]
    return group(drawn, *lines, *(dots(own, range(len(sizes)), values, f"fill ring s{at}", 4) for at, values in enumerate(means.values())))


def main(options: Options) -> None:
    """Train, ask each method after 1 to 20 labelled moments, print, draw."""
    config = study_of()
    train(config, tuple(METHODS), SEEDS, options)
    found = by_size(config, options)
    for key, (words, factor, digits) in SHOWN.items():
        rows = [(METHODS[n], *(spread([factor * one[key] for one in seeds], digits) for seeds in sizes.values())) for n, sizes in found.items()]
        table(f"8 new people a seed: {words}, by labelled moments", ("", *map(str, found["local"])), rows)
    names = [named((54 + 290 * at, 376), METHODS[name], f"s{at}") for at, name in enumerate(METHODS)]
    headings = {"accuracy": "How often it is right", "nll": "How much the truth surprises it", "auroc_unseen": "Does it doubt what was never shown?"}
    charts = [chart(at, key, heading, found) for at, (key, heading) in enumerate(headings.items())]
    save(options.out / "activity.svg", 900, 400, "Accuracy, negative log likelihood and doubt by number of labelled moments", *charts, *names)


if __name__ == "__main__":
    start(main, __doc__)
