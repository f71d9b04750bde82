"""Activity recognition by person: what somebody is doing, from the phone at the waist and five labelled moments.

Thirty people walked, climbed stairs, sat, stood and lay down (UCI HAR, nine channels of 128 steps). A new person labels five moments; the model is then
that person's own. Six activities do not fit into five moments: at least one was never shown, and the model should doubt there.

    python examples/gallery/activity.py --out gallery
"""

from __future__ import annotations

import dataclasses
import statistics

from drawing import Axes, dots, named, panel, save, trace
from running import Options, folder, spread, start, strategy_file, table, train

from metabayfl import study
from metabayfl.config import read
from metabayfl.report.axes import Frame, percent
from metabayfl.report.svg import line, text

SEEDS = (0, 1, 2)
SIZES = (1, 2, 5, 10, 20)
METHODS = {"local": "own moments alone", "fedavg": "common model", "fedavg_ft": "common model, fine-tuned", "meta_bayfl": "strategy + own moments"}
LOOKS = {"meta_bayfl": "s0", "fedavg": "s1", "local": "s2", "fedavg_ft": "s3"}
ROUNDS = {"fedavg": 60, "fedavg_ft": 60, "meta_bayfl": 200}


def main(options: Options) -> None:
    """Train, ask each method after 1 to 20 labelled moments, compare the eight new people one by one, draw."""
    ready = read("uci_har")
    tables = {name: {**ready.algorithm[name], "train": {**ready.algorithm[name].get("train", {}), "rounds": rounds}} for name, rounds in ROUNDS.items()}
    config = dataclasses.replace(ready, algorithm={**ready.algorithm, **tables})
    five = dataclasses.replace(config, name="uci_har_five", data=dataclasses.replace(config.data, support=SIZES[2]))
    found = train(five, tuple(METHODS), SEEDS, options)
    seeds = SEEDS[:1] if options.quick else SEEDS
    asked = SIZES[:2] if options.quick else SIZES
    by_size = {
        name: [study.evaluate_strategy(strategy_file(five, options, name, seed), config, asked, seed, folder(five, options)) for seed in seeds]
        for name in METHODS
    }
    print(found, by_size)


if __name__ == "__main__":
    start(main, __doc__)
