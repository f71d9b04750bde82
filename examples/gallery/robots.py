"""A fleet of robots: the dynamics of a new one, learned from a dozen of its own movements.

A hundred carts with a pole, each with a mass, a pole and a motor of its own (Gymnasium's cart-pole; needs the extra ``robots``). From speed, angle
and push, a model tells how the two speeds change within one step. No robot is like another, and a new one has no time to learn from scratch.

    python examples/gallery/robots.py --out gallery
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from carts import NOISE, RANGES, STEP, drive, features, moves, robot
from drawing import Axes, dots, named, panel, save, trace
from running import Options, folder, spread, start, strategy_file, table, train

import metabayfl
from metabayfl import study
from metabayfl.config import Config
from metabayfl.data import DataOptions
from metabayfl.engine.options import TrainOptions
from metabayfl.report.axes import Frame
from metabayfl.report.svg import text

SEEDS, ROBOTS = (0, 1, 2), 100
SIZES = (3, 6, 12, 24, 48)
METHODS = {
    "local": "own movements alone",
    "fedavg": "common model",
    "fedavg_ft": "common model, fine-tuned",
    "meta_bayfl": "strategy + own movements",
}


def fleet(target: Path) -> None:
    """Every robot's movements in one npz file."""
    rng = np.random.default_rng(0)
    parts = [moves(robot(rng), rng) for _ in range(ROBOTS)]
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, x=np.concatenate([x for x, _ in parts]), y=np.concatenate([y for _, y in parts]), robot=np.repeat(np.arange(ROBOTS), 100))


def study_of(file: Path) -> Config:
    """Sixty robots train, fifteen say when to stop, twenty-five are new and adapt on up to 48 movements, with each method."""
    data = DataOptions(
        source="npz", path=str(file.resolve()), client="robot", kind="regression", validation_clients=15, heldout_clients=25, support=SIZES[-1]
    )
    tuned = {"adapt_steps": 50, "adapt_lr": 0.03}
    strategy = {"generator": "full", "body_lr": 5e-3, "train": {"rounds": 400, "weighting": "uniform", "task_samples": 20}}
    algorithms = {"fedavg": {"client_lr": 0.03}, "fedavg_ft": {"client_lr": 0.03, **tuned}, "local": {"adapt_steps": 200, "adapt_lr": 0.03}}
    model = {"name": "mlp", "hidden": [64, 32]}
    return Config("robots", data, model, TrainOptions(rounds=100, cohort=10, validate_every=20), {**algorithms, "meta_bayfl": strategy})


def imagine(model: metabayfl.PersonalModel, first: np.ndarray, pushes: np.ndarray) -> np.ndarray:
    """Angle of the pole over time, each step predicted from the last prediction."""
    state, angles = first.copy(), [first[2]]
    for push in pushes:
        speeds = state[[1, 3]] + model.predict(features(state[None], np.array([push]))).label[0]
        state = np.array([state[0] + STEP * speeds[0], speeds[0], state[2] + STEP * speeds[1], speeds[1]])
        angles.append(state[2])
    return np.array(angles)


def by_size(config: Config, options: Options) -> dict[str, list[dict]]:
    """By method, the figures of each seed's held-out robots by number of movements that they adapt on."""
    seeds, where = (SEEDS[:1] if options.quick else SEEDS), folder(config, options)
    sizes = SIZES[:2] if options.quick else SIZES
    return {n: [study.evaluate_strategy(strategy_file(config, options, n, seed), config, sizes, seed, where) for seed in seeds] for n in METHODS}


def draw(sizes: list[int], means: dict[str, list[float]], true: np.ndarray, imagined: dict[str, np.ndarray], options: Options) -> None:
    """Left: error by number of movements. Right: the imagined second."""
    looks = {"meta_bayfl": "s0", "fedavg": "s1", "local": "s2", "fedavg_ft": "s3"}
    highest = max(means["local"])  # three movements are too few to fine-tune on: what is beyond lies on the edge
    axes = Axes(
        "25 new robots",
        "own movements (log)",
        "RMSE of the change of speed",
        (0, len(sizes) - 1),
        (0, 1.05 * highest),
        lambda at: str(sizes[int(at)]),
    )
    left, drawn = panel(Frame(54, 70, 350, 310), axes, len(sizes) - 1)
    parts = [drawn]
    for name, values in means.items():
        parts += [trace(left, range(len(sizes)), values, looks[name]), dots(left, range(len(sizes)), values, f"fill ring {looks[name]}", 4)]
    seconds, every = STEP * np.arange(len(true)), np.concatenate([true, *imagined.values()])
    axes = Axes(
        "One more, imagined from 12 movements",
        "seconds",
        "angle of the pole, rad",
        (0, 1.2),
        (max(every.min(), true.min() - 3), min(every.max(), true.max() + 3)),
    )
    right, drawn = panel(Frame(440, 70, 760, 310), axes)
    parts += [drawn, dots(right, seconds[::2], true[::2], "fill ring s6", 3.5)]
    parts += [trace(right, seconds, angles, looks[name]) for name, angles in imagined.items()]
    parts += [named((54 + 240 * (at % 2), 380 + 20 * (at // 2)), METHODS[name], css) for at, (name, css) in enumerate(looks.items())]
    parts.append(text(560, 384, "dots: what the robot does", "note"))
    save(options.out / "robots.svg", 800, 420, "Error of dynamics models of new robots, and one robot's movement imagined", *parts)


def main(options: Options) -> None:
    """Build the fleet, train, compare by number of movements, let a new robot imagine one second of its own."""
    file = options.out / "studies" / "robots.npz"
    fleet(file)
    config = study_of(file)
    train(config, tuple(METHODS), SEEDS, options)
    found = by_size(config, options)
    print(f"{ROBOTS} carts, each with values of its own: " + ", ".join(f"{name} {low} to {high}" for name, (low, high) in RANGES.items()))
    sizes = [int(size) for size in found["local"][0]]
    means = {name: [float(np.mean([one[str(size)]["rmse"] for one in seeds])) for size in sizes] for name, seeds in found.items()}
    rows = [(METHODS[name], *(spread([one[str(size)]["rmse"] for one in seeds], 3) for size in sizes)) for name, seeds in found.items()]
    table(f"25 new robots a seed: RMSE of the change of speed, by own movements (sensor noise {NOISE})", ("", *map(str, sizes)), rows)
    inside = [(METHODS[name], *(spread([100 * one[str(size)]["coverage_90"] for one in seeds]) for size in sizes)) for name, seeds in found.items()]
    table("inside the 90 % interval, %", ("", *map(str, sizes)), inside)

    rng = np.random.default_rng(7)
    new = robot(rng)
    x, y = moves(new, rng)
    states, pushes = drive(new, rng, 60)
    known = {name: metabayfl.load(strategy_file(config, options, name)).personalize(x[:12], y[:12]) for name in ("fedavg", "meta_bayfl", "local")}
    imagined = {name: imagine(model, states[0, 0], pushes) for name, model in known.items()}
    true = np.append(states[:, 0, 2], states[-1, 1, 2])
    off = [(METHODS[name], f"{np.sqrt(((angles - true) ** 2).mean()):.2f}") for name, angles in imagined.items()]
    table("one more robot, 12 own movements: 1.2 s imagined from the start alone", ("", "RMSE of the angle, rad"), off)
    draw(sizes, means, true, imagined, options)


if __name__ == "__main__":
    start(main, __doc__)
