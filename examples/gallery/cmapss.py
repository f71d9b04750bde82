"""Turbofan engines: how many cycles are left, with an interval, for an engine that nobody has seen before.

A hundred engines ran until they failed. An engine's sensors are read against its own first thirty cycles, when it was healthy, and smoothed over ten
cycles. A new engine's model is told only that the engine is healthy at its 31st cycle, and is then followed until the engine fails.

    python examples/gallery/cmapss.py --out gallery
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from drawing import Axes, band, named, panel, save, trace, upright
from running import Options, data_file, figure, folder, spread, start, strategy_file, table, train

import metabayfl
from metabayfl import study
from metabayfl.config import Config, read
from metabayfl.data import DataOptions, build_federation
from metabayfl.report.axes import Frame
from metabayfl.report.svg import Markup, group

SEEDS = (0, 1, 2)
HEALTHY, SMOOTH, OWN, CAP = 30, 10, 1, 125
METHODS = {"fedavg": "common model", "meta_bayfl": "strategy + one healthy cycle"}
FIGURES = {"rmse": 1.0, "coverage_90": 100.0, "crps": 1.0}
# An engine's first cycles say nothing of how it wears out, so its own noise must not be read off them: evidence can only strengthen the prior.
CAREFUL = {"grid_u": [1.0, 10.0, 100.0], "grid_v": [1.0], "tails": False, "zero_shot_weight": 3.0}


def prepare(raw: Path, names: tuple[str, ...], sensors: list[str], target: Path) -> pd.DataFrame:
    """Each sensor, smoothed, as its distance from the engine's own healthy state; cycles left, capped as is usual."""
    cycles = pd.read_csv(raw, sep=r"\s+", names=list(names))
    engines = cycles.groupby("engine")
    smooth = engines[sensors].rolling(SMOOTH, min_periods=1).mean().reset_index(level=0, drop=True)
    healthy = cycles[cycles["cycle"] <= HEALTHY].groupby("engine")[sensors].mean()
    made = smooth - healthy.loc[cycles["engine"]].to_numpy()
    left = (engines["cycle"].transform("max") - cycles["cycle"]).clip(upper=CAP)
    left = left.where(cycles["cycle"] > HEALTHY + OWN, CAP)  # what a new engine adapts on: nobody knows more than that it is healthy
    made = made.assign(engine=cycles["engine"].astype(str), cycle=cycles["cycle"], left=left)[cycles["cycle"] > HEALTHY]
    target.parent.mkdir(parents=True, exist_ok=True)
    made.to_csv(target, index=False)
    return made


def study_of(ready: Config, csv: Path) -> Config:
    """The ready study on the prepared table."""
    split = {name: getattr(ready.data, name) for name in ("train_clients", "validation_clients", "heldout_clients", "sort_by", "support_order")}
    data = DataOptions(path=str(csv.resolve()), client="engine", target="left", kind="regression", support=OWN, **split)
    own = {**ready.algorithm["meta_bayfl"], **CAREFUL, "train": {**ready.algorithm["meta_bayfl"]["train"], "rounds": 200, "validate_every": 20}}
    return dataclasses.replace(ready, data=data, algorithm={**ready.algorithm, "meta_bayfl": own})


def alone(config: Config, options: Options) -> list[str]:
    """The strategy's figures for engines without a single cycle of their own."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    asked = [study.evaluate_strategy(strategy_file(config, options, seed=seed), config, (0,), seed, folder(config, options))["0"] for seed in seeds]
    return [spread([factor * one[key] for one in asked]) for key, factor in FIGURES.items()]


def follow(engines: pd.DataFrame, config: Config, options: Options, own: int = OWN) -> list[tuple[float, str, pd.DataFrame]]:
    """Every held-out engine of seed 0 until it fails, adapted on its first ``own`` cycles as healthy ones; the best predicted comes first."""
    strategy, found = metabayfl.load(strategy_file(config, options)), []
    for name in build_federation(config.data, seed=0).heldout.ids:
        life = engines[engines["engine"] == name].sort_values("cycle")
        prediction = strategy.personalize(life[:own], np.full(own, float(CAP))).predict(life[own:])
        low, high = prediction.interval[:, 0].T
        said = life[own:].assign(mean=prediction.label[:, 0], low=low, high=high)
        found.append((float(np.sqrt(((said["mean"] - said["left"]) ** 2).mean())), name, said))
    return sorted(found, key=lambda engine: engine[0])


def by_phase(said: pd.DataFrame) -> list[tuple[str, ...]]:
    """Error and coverage far from the failure, on the way, and close to it."""
    rows = []
    for words, low, high in (("all", 0, CAP), ("more than 100 cycles left", 101, CAP), ("51 to 100", 51, 100), ("50 or fewer", 0, 50)):
        part = said[said["left"].between(low, high)]
        inside = ((part["low"] <= part["left"]) & (part["left"] <= part["high"])).mean()
        error, width = np.sqrt(((part["mean"] - part["left"]) ** 2).mean()), (part["high"] - part["low"]).mean()
        rows.append((words, f"{len(part):,}", f"{error:.1f}", f"{100 * inside:.1f}", f"{width:.0f}"))
    return rows


def engine_panel(place: int, title: str, said: pd.DataFrame) -> Markup:
    """One engine's life: the true number of cycles left, the predicted one, and the interval."""
    left = 54 + 290 * place
    axes = Axes(title, "cycles flown", "cycles left", (HEALTHY, float(said["cycle"].max())), (0, 160))
    own, drawn = panel(Frame(left, 70, left + 232, 300), axes, 4)
    interval = band(own, said["cycle"], said["low"], said["high"], "s0")
    adapted = upright(own, HEALTHY + OWN, "healthy")
    return group(drawn, interval, adapted, trace(own, said["cycle"], said["left"], "s1"), trace(own, said["cycle"], said["mean"], "s0"))


def main(options: Options) -> None:
    """Prepare, train, compare, follow the held-out engines, draw three of them."""
    ready = read("cmapss")
    sensors = [name for name in ready.data.features if name not in ("setting1", "setting2")]
    csv = options.out / "studies" / "cmapss.csv"
    engines = prepare(data_file(ready, ready.data.paths[0]), ready.data.names, sensors, csv)
    config = study_of(ready, csv)
    found = train(config, tuple(METHODS), SEEDS, options)
    rows = [(METHODS[name], *(figure(found[name], *how) for how in FIGURES.items())) for name in METHODS]
    rows.insert(1, ("strategy alone", *alone(config, options)))
    table("25 held-out engines a seed, mean ± sd over seeds", ("", "RMSE, cycles", "in the 90 % interval, %", "CRPS"), rows)
    followed = follow(engines, config, options)
    phases = by_phase(pd.concat([said for _, _, said in followed]))
    header = ("", "cycles", "RMSE", "in the interval, %", "its width")
    table("held-out engines of seed 0, guaranteed intervals", header, phases)
    ten = by_phase(pd.concat([said for _, _, said in follow(engines, config, options, 10)]))
    table("the same, adapted on ten healthy cycles in place of one", header, ten)
    chosen = {"best": followed[0], "median": followed[len(followed) // 2], "worst": followed[-1]}
    table("three of them", ("", "engine", "RMSE"), [(word, name, f"{error:.1f}") for word, (error, name, _) in chosen.items()])
    panels = [engine_panel(at, f"Engine {name}: {word} of 25", said) for at, (word, (_, name, said)) in enumerate(chosen.items())]
    key = [named((54, 376), "predicted cycles left, with the 90 % interval", "s0"), named((420, 376), f"the truth, capped at {CAP}", "s1")]
    save(options.out / "cmapss.svg", 900, 400, "Predicted and true remaining life of three new engines", *panels, *key)


if __name__ == "__main__":
    start(main, __doc__)
