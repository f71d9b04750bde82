"""A ``torch.nn.Module`` of your own as the body of every client's model.

The network is an ordinary PyTorch class; metabayfl reads it as a pure function of its parameters and never changes it. The data are
scikit-learn's handwritten digits, whose clients are fourteen writing forms.

Run it with ``python examples/own_module.py``; it writes ``own_module.safetensors`` into the working directory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import metabayfl
from metabayfl import random
from metabayfl.algorithms import ALGORITHMS
from metabayfl.artifact import Strategy
from metabayfl.data import DataOptions, build_federation
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.rounds import rounds
from metabayfl.evaluation import evaluate, summarise
from metabayfl.models import from_module


class Net(nn.Module):
    """A convolution, a dense layer of features, and the head. The features have no activation: closed-form heads like that best."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 12, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.features = nn.Linear(12 * 16, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, 1, 8, 8)`` to scores ``(N, 10)``."""
        x = torch.max_pool2d(torch.relu(self.convolution(x)), 2)
        return self.head(self.features(self.drop(x.flatten(1))))


def main() -> None:
    """Train the network's strategy, judge it on writing forms that it never saw, save it and load it again."""
    options = DataOptions(source="digits", validation_clients=2, heldout_clients=4, support=20)
    federation = build_federation(options, seed=0)
    schema = federation.schema

    # "seeded" draws the start from the key, so that a client needs the class and a seed, and not the weights that this process began with.
    model = from_module(Net(), schema.input_shape, schema.outputs, schema.kind, initial="seeded")
    arguments = {"rounds": 60}
    algorithm = ALGORITHMS["meta_bayfl"](model, **arguments)
    train = TrainOptions(rounds=60, cohort=8, weighting="uniform", task_samples=40)
    for state, info in rounds(algorithm, federation, train, seed=0):
        best = state.best  # by the validation clients
        if info.validation is not None:
            print(f"round {info.round:3d}  loss {info.loss:.3f}  validation {info.validation:.3f}")
    figures = summarise(evaluate(algorithm, best, federation.heldout, schema, random.key(0)))
    print(f"writing forms never seen: accuracy {figures['accuracy']:.3f}, NLL {figures['nll']:.3f}")

    # No file can hold a class: whoever loads the strategy gives the module again.
    spec = {"algorithm": "meta_bayfl", "arguments": arguments, "model": {"name": "own"}}
    Strategy(spec, best, schema.to_json(), codec=algorithm.down.name).save("own_module.safetensors")
    again = from_module(Net(), schema.input_shape, schema.outputs, schema.kind, initial="seeded")
    loaded = metabayfl.load("own_module.safetensors", model=again)
    print(f"loaded: {loaded.algorithm.name} on {loaded.algorithm.model.name}")


if __name__ == "__main__":
    main()
