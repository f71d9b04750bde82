"""Arrays of your own, from training to one new client's predictions.

Twenty-six machines report four sensor readings, and a person has said in which of three states each machine was. Machines differ: the same
reading means another state on another machine, so one common model cannot serve all of them, and no machine has many labelled readings.

Run it with ``python examples/own_arrays.py``; it writes ``machines.safetensors`` into the working directory.
"""

from __future__ import annotations

import numpy as np

import metabayfl
from metabayfl import random
from metabayfl.algorithms import ALGORITHMS
from metabayfl.artifact import Strategy
from metabayfl.data import DataOptions, build_federation, from_arrays
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.rounds import rounds
from metabayfl.evaluation import evaluate, summarise
from metabayfl.models import build_model

STATES = np.array(["idle", "busy", "worn"])


def machine(generator: np.random.Generator, readings: int) -> tuple[np.ndarray, np.ndarray]:
    """Readings ``(n, 4)`` and states ``(n,)`` of one machine, which has centres of its own for the three states."""
    centres = 1.5 * np.eye(3, 4) + 0.7 * generator.normal(size=(3, 4))
    state = generator.integers(3, size=readings)
    return centres[state] + 0.7 * generator.normal(size=(readings, 4)), STATES[state]


def main() -> None:
    """Train, judge, save, and use the strategy on a machine that came later."""
    generator = np.random.default_rng(0)
    parts = [machine(generator, 40) for _ in range(26)]
    x, y = (np.concatenate([part[i] for part in parts]) for i in range(2))
    client = np.repeat([f"machine-{i:02d}" for i in range(26)], 40)

    # Whole machines are held out, not only readings. Each of them adapts on 12 labelled readings and is judged on the others.
    options = DataOptions(validation_clients=4, heldout_clients=6, support=12)
    federation = build_federation(options, seed=0, data=from_arrays(x, y, client, name="machines"))

    table, arguments = {"name": "mlp", "hidden": [32, 16], "dropout": 0.3}, {"generator": "full", "body_lr": 5e-3, "rounds": 100}
    schema = federation.schema
    model = build_model("mlp", schema.input_shape, schema.outputs, schema.kind, hidden=(32, 16), dropout=0.3)
    algorithm = ALGORITHMS["meta_bayfl"](model, **arguments)
    for state, info in rounds(algorithm, federation, TrainOptions(rounds=100, weighting="uniform"), seed=0):
        best = state.best  # by the validation clients
        if info.validation is not None:
            print(f"round {info.round:3d}  loss {info.loss:.3f}  validation {info.validation:.3f}")

    figures = summarise(evaluate(algorithm, best, federation.heldout, schema, random.key(0)))
    print(f"machines never seen: accuracy {figures['accuracy']:.3f}, NLL {figures['nll']:.3f}, ECE {figures['ece']:.3f}")

    # The spec says how to rebuild the algorithm around the numbers: names and arguments, no code.
    spec = {"algorithm": "meta_bayfl", "arguments": arguments, "model": table}
    strategy = Strategy(spec, best, schema.to_json(), codec=algorithm.down.name)
    strategy.save("machines.safetensors")
    print(strategy.size())

    new_x, new_y = machine(np.random.default_rng(1), 60)
    own = metabayfl.load("machines.safetensors").personalize(new_x[:12], new_y[:12])
    prediction = own.predict(new_x[12:])
    right, kept = prediction.label == new_y[12:], ~prediction.refer
    print(f"a new machine: {right.mean():.3f} right, {prediction.referred} of {len(right)} referred, {right[kept].mean():.3f} right among the others")


if __name__ == "__main__":
    main()
