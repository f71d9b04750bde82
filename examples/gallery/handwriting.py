"""Handwriting by writer: digits of people who took no part in training, and the digits that the model asks about.

A hundred and eighty people wrote digits (FEMNIST). A new writer labels twenty; the model adapts to that hand, reads the others, and hands over those
that it is not sure of.

    python examples/gallery/handwriting.py --out gallery
"""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import NamedTuple

import numpy as np
from drawing import Axes, dots, panel, save
from PIL import Image
from running import Options, data_file, figure, start, strategy_file, table, train

import metabayfl
from metabayfl.config import Config, read
from metabayfl.data import build_federation
from metabayfl.report.axes import Frame, percent
from metabayfl.report.svg import Markup, element, group, line, rect, text

SEEDS = (0,)
METHODS = {"fedavg": "common model", "meta_bayfl": "strategy + own 20 digits"}
ROUNDS = {"fedavg": 30, "meta_bayfl": 120}


class Digit(NamedTuple):
    """One digit of a new writer and what that writer's own model says of it."""

    pixels: np.ndarray
    true: str
    said: str
    total: float
    referred: bool


def read_digits(config: Config, options: Options) -> list[Digit]:
    """Every held-out writer of seed 0 adapts on twenty digits of the raw file; the model reads the others."""
    held = np.load(data_file(config, config.data.paths[0]))
    strategy, found = metabayfl.load(strategy_file(config, options)), []
    for name in build_federation(config.data, seed=0).heldout.ids:
        rows = np.random.default_rng(0).permutation(np.flatnonzero(held["writer"].astype(str) == name))
        x, y = held["x"][rows], held["y"][rows]
        own = strategy.personalize(x[:20], y[:20], refer_share=0.1).predict(x[20:])
        found += [Digit(*row) for row in zip(x[20:], y[20:].astype(str), own.label, own.total, own.refer, strict=True)]
    return found


def tile(digit: Digit, left: float, top: float) -> Markup:
    """A digit as it was written, and below it the truth and the reading; wrong readings have a frame."""
    png = io.BytesIO()
    Image.fromarray(255 - digit.pixels).save(png, "png")
    href = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    image = element("image", x=left, y=top, width=52, height=52, href=href)
    words = digit.true if digit.true == digit.said else f"{digit.true}, read as {digit.said}"
    frame = [] if digit.true == digit.said else [rect(left - 1, top - 1, 54, 54, "frame s1")]
    return group(image, *frame, text(left + 26, top + 68, words, "note", "middle"))


def draw(common: np.ndarray, own: np.ndarray, digits: list[Digit], options: Options) -> None:
    """Left: each writer's accuracy with both models. Right: the digits with the highest uncertainty."""
    low = float(min(common.min(), own.min())) - 0.02
    axes = Axes("Each new writer", "accuracy of the common model", "accuracy of the writer's own model", (low, 1.0), (low, 1.0), percent, percent)
    left, drawn = panel(Frame(54, 70, 334, 350), axes, 4)
    diagonal = line(left.at(low, low), left.at(1, 1), "ideal")
    better = text(330, 340, "above the line: personalising helped", "note", "end")
    asked = sorted(digits, key=lambda digit: -digit.total)[:20]
    tiles = [tile(digit, 400 + 88 * (at % 5), 66 + 76 * (at // 5)) for at, digit in enumerate(asked)]
    heading = text(400, 36, "The twenty digits of which the models are least sure", "head")
    note = text(400, 390, "below each: what it is; framed: read wrongly", "note")
    save(
        options.out / "handwriting.svg", 850, 410, "Accuracy of new writers with a common and with their own model, and the least certain digits",
        drawn, diagonal, better, dots(left, common, own, "fill thinring s0", 3.5), heading, *tiles, note,
    )  # fmt: skip


def main(options: Options) -> None:
    """Train, compare, read the raw digits of the new writers, draw."""
    ready = read("femnist_digits")
    tables = {
        name: {**ready.algorithm[name], "train": {**ready.algorithm[name].get("train", {}), "rounds": rounds}} for name, rounds in ROUNDS.items()
    }
    config = dataclasses.replace(ready, algorithm={**ready.algorithm, **tables})
    found = train(config, tuple(METHODS), SEEDS, options)
    shown = (("accuracy", 100), ("accuracy_worst_decile", 100), ("nll", 1, 3), ("ece", 100), ("bytes_up", 1, 0))
    rows = [(METHODS[name], *(figure(found[name], *how) for how in shown)) for name in METHODS]
    table("40 new writers", ("", "accuracy %", "worst tenth %", "NLL", "ECE %", "bytes up a round"), rows)
    common, own = (np.concatenate([one["clients"]["accuracy"] for one in found[name]["kept"]]) for name in METHODS)
    print(f"\nread better by their own model: {(own > common).sum()} writers, worse: {(own < common).sum()}, as well: {(own == common).sum()}")
    digits = read_digits(config, options)
    right, kept = np.array([one.true == one.said for one in digits]), ~np.array([one.referred for one in digits])
    print(f"\nheld-out writers of seed 0: {len(digits):,} digits, {100 * right.mean():.1f} % read rightly")
    print(f"  referred to the writer   {(~kept).sum():,} digits, {100 * (~kept).mean():.1f} %")
    print(f"  the others               {100 * right[kept].mean():.1f} % read rightly")
    draw(common, own, digits, options)


if __name__ == "__main__":
    start(main, __doc__)
