"""Interest rates of loans by state: a negative control, where personalising does not pay, and how one sees that.

Fifty states, which set the price of a loan in nearly the same way. A model of a state's own can then only lose: it sees ten loans where the common
model saw thousands. What a method is worth shows in whether it knows that.

    python examples/gallery/loans.py --out gallery
"""

from __future__ import annotations

import statistics

from drawing import Panel, dots, level, save
from running import Options, figure, folder, spread, start, strategy_file, table, train

from metabayfl import study
from metabayfl.config import read
from metabayfl.report.axes import Axis, Frame, draw_axes, linear, short, vertical
from metabayfl.report.svg import line, text

SEEDS = (0, 1, 2)
METHODS = {
    "fedavg": "common model",
    "meta_bayfl": "strategy + own 10 loans",
    "fedavg_ft": "common model, fine-tuned",
    "local": "own 10 loans alone",
}
SIZES = (1, 5, 10)


def differences(found: dict[str, dict], name: str) -> list[float]:
    """RMSE of each held-out state with a method minus with the common model, all seeds."""
    pairs = zip(found[name]["kept"], found["fedavg"]["kept"], strict=True)
    return [mine - common for own, all_ in pairs for mine, common in zip(own["clients"]["rmse"], all_["clients"]["rmse"], strict=True)]


def verdict(values: list[float]) -> tuple[str, ...]:
    """Mean difference, twice its standard error over states, and how many states gain."""
    error = 2 * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    word = "pays" if mean + error < 0 else "hurts" if mean - error > 0 else "no difference"
    return f"{mean:+.2f} ± {error:.2f}", f"{sum(value < 0 for value in values)} of {len(values)}", word


def main(options: Options) -> None:
    """Train, compare state by state, and ask how much more own samples help."""
    config = read("loans")
    found = train(config, tuple(METHODS), SEEDS, options)
    rows = [(METHODS[name], figure(found[name], "rmse", 1, 2), figure(found[name], "coverage_90", 100)) for name in METHODS]
    table("10 held-out states a seed, mean ± sd over seeds", ("", "RMSE, % points", "in the 90 % interval, %"), rows)
    gaps = {name: differences(found, name) for name in METHODS if name != "fedavg"}
    table(
        "RMSE minus the common model's, state by state",
        ("", "mean ± 2 se", "states that gain", ""),
        [(METHODS[n], *verdict(v)) for n, v in gaps.items()],
    )

    seeds = SEEDS[:1] if options.quick else SEEDS
    sized = [study.evaluate_strategy(strategy_file(config, options, seed=seed), config, SIZES, seed, folder(config, options)) for seed in seeds]
    asked = [(f"own loans: {size}", spread([one[str(size)]["rmse"] for one in sized], 2)) for size in SIZES]
    table("does the strategy get better with more of a state's own loans?", ("", "RMSE, % points"), asked)
    draw(gaps, options)


def draw(gaps: dict[str, list[float]], options: Options) -> None:
    """One column of dots a method, a dot a held-out state, ordered; the bar is the mean."""
    everyone = [value for values in gaps.values() for value in values]
    frame = Frame(60, 76, 630, 350)
    y = vertical((min(-0.5, *everyone), max(1.0, *everyone)), frame)
    own = Panel(frame, Axis(linear((0, 3), (frame.left, frame.right)), (), short), y)
    title = text(20, 32, "RMSE of each held-out state minus the common model's", "head")
    parts = [title, draw_axes(frame, own.x, y, "", "percentage points of interest; above zero, personalising hurts"), level(own, 0.0)]
    parts.append(text(636, y.at(0.0) + 4, "common model", "note"))
    for at, (name, values) in enumerate(gaps.items()):
        ranked, mean = sorted(values), y.at(statistics.fmean(values))
        places = [at + 0.15 + 0.7 * place / max(1, len(ranked) - 1) for place in range(len(ranked))]
        parts += [
            dots(own, places, ranked, f"fill thinring s{at}", 3.5),
            line((own.x.at(at + 0.1), mean), (own.x.at(at + 0.9), mean), f"stroke s{at}"),
        ]
        parts.append(text(own.x.at(at + 0.5), 374, METHODS[name], "label", "middle"))
    save(options.out / "loans.svg", 740, 396, "RMSE of each held-out state against the common model, by method", *parts)


if __name__ == "__main__":
    start(main, __doc__)
