"""What becomes of a cohort's messages between the clients and the server's step.

::

    messages as decoded ── attack (simulated) ── guards, on each message ── combine ── guards, on the aggregate ── the server's step

A combine that needs only a sum takes the messages in chunks; one that needs each, or an attack that sees all, takes the whole cohort's at once.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.func import vmap

from metabayfl import random
from metabayfl.aggregators import COMBINES, Combine
from metabayfl.engine.options import TrainOptions
from metabayfl.types import Aggregate, Guard, Key, Message, Tree


class Pipeline(NamedTuple):
    """The steps of one run, chosen once."""

    combine: Combine
    guards: tuple[Guard, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether nothing looks at single messages, so that a cohort's sum may be one gradient."""
        return self.combine.needs == "sum" and not self.guards


def build(options: TrainOptions) -> Pipeline:
    """The pipeline that the options ask for."""
    return Pipeline(COMBINES[options.weighting]())


def begin(pipeline: Pipeline, meta: Tree) -> Tree:
    """The guards' states before the first round, by name."""
    return {guard.name: guard.begin(meta) for guard in pipeline.guards}


def on_messages(pipeline: Pipeline, states: Tree, messages: Message, keys: Tensor) -> Message:
    """The guards' first halves over a stack of messages ``(C,)`` with the clients' keys ``(C,)``."""
    for guard in pipeline.guards:
        state, half = states[guard.name], guard.client
        messages = vmap(lambda message, key, state=state, half=half: half(state, message, key))(messages, random.fold(keys, guard.name))
    return messages


def on_aggregate(pipeline: Pipeline, states: Tree, aggregate: Aggregate, key: Key) -> tuple[Tree, Aggregate]:
    """The guards' second halves, the last guard first; their new states beside the aggregate."""
    new = dict(states)
    for guard in reversed(pipeline.guards):
        new[guard.name], aggregate = guard.server(states[guard.name], aggregate, random.fold(key, guard.name))
    return new, aggregate
