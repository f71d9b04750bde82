"""What stays in doubt, and what a few more samples would settle: both kinds of uncertainty of one client's model, over all inputs.

    python examples/gallery/uncertainty.py --out docs/images

Every client has two classes of points in the plane, at a boundary of its own direction. A strategy is learned from sixty clients; a new one builds
its model from 4, then from 40 labelled points.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from drawing import Axes, Panel, dots, panel, save
from numpy.typing import NDArray

from metabayfl import MetaBayesClassifier
from metabayfl.report.axes import Frame
from metabayfl.report.svg import Markup, element, group, text

Array = NDArray[np.float64]
CELLS, REACH, LEVELS = 44, 3.2, 20


def points(rng: np.random.Generator, angle: float, count: int) -> tuple[Array, NDArray[np.int64]]:
    """Points of two classes that overlap along a line through the origin."""
    y = rng.integers(0, 2, count)
    across = np.where(y == 1, 1.1, -1.1) + 0.8 * rng.normal(size=count)
    along = 1.1 * rng.normal(size=count)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([across, along]) @ turn.T, y


def learned(rng: np.random.Generator) -> MetaBayesClassifier:
    """A strategy from sixty clients, each with a direction of its own."""
    drawn = [points(rng, rng.uniform(0, 2 * np.pi), 40) for _ in range(60)]
    x, y = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    return MetaBayesClassifier(rounds=200).fit(x, y, groups=np.repeat(np.arange(60), 40))


def heat(shown: Panel, values: Array, css: str) -> Markup:
    """One square a cell, the stronger the nearer its value to the log of two, the most there can be; squares of one strength share a path."""
    levels = np.rint(LEVELS * values / np.log(2)).astype(int).clip(0, LEVELS)
    side, frame = (shown.frame.right - shown.frame.left) / CELLS, shown.frame
    paths = []
    for level in range(1, LEVELS + 1):
        rows, columns = np.nonzero(levels == level)
        corners = [(frame.left + side * column, frame.bottom - side * (row + 1)) for row, column in zip(rows, columns, strict=True)]
        d = "".join(f"M{x:g} {y:g}h{side:g}v{side:g}h-{side:g}z" for x, y in corners)
        paths.append(element("path", d=d, fill="var(--c)", fill_opacity=f"{level / LEVELS:g}", shape_rendering="crispEdges"))
    return group(*paths, css=css)


def row(model: MetaBayesClassifier, x: Array, y: NDArray[np.int64], top: float) -> tuple[list[Markup], dict[str, float]]:
    """Both kinds of uncertainty of the model of these points, side by side, and their means over the plane."""
    own = model.personalize(x, y)
    centres = (np.arange(CELLS) + 0.5) * 2 * REACH / CELLS - REACH
    plane = np.column_stack([grid.ravel() for grid in np.meshgrid(centres, centres)])
    found = own.predict_uncertainty(plane)
    parts = []
    for at, (name, meaning) in enumerate({"aleatoric": "stays: both classes occur here", "epistemic": "more samples would settle it"}.items()):
        frame = Frame(60 + at * 330, top, 60 + at * 330 + 264, top + 264)
        axes = Axes(f"{name}, {len(y)} samples", "", "", (-REACH, REACH), (-REACH, REACH))
        shown, drawn = panel(frame, axes)
        marks = [dots(shown, x[y == label, 0], x[y == label, 1], css) for label, css in ((0, "hollow s1"), (1, "fill s1"))]
        parts += [drawn, heat(shown, found[name].reshape(CELLS, CELLS), "s0"), *marks, text(frame.left, frame.bottom + 36, meaning, "note")]
    return parts, {name: float(found[name].mean()) for name in ("aleatoric", "epistemic")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gallery"))
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    model = learned(rng)
    x, y = points(rng, 0.6, 40)
    drawn: list[Markup] = []
    for at, count in enumerate((4, 40)):
        parts, means = row(model, x[:count], y[:count], 60 + at * 365)
        drawn += parts
        print(f"{count:2d} samples: aleatoric {means['aleatoric']:.2f} nats, epistemic {means['epistemic']:.2f} nats, mean over the plane")
    save(out / "uncertainty.svg", 680, 735, "Aleatoric and epistemic uncertainty over the plane, for 4 and for 40 samples", *drawn)


if __name__ == "__main__":
    main()
