"""What becomes of a cohort's messages between the clients and the server's step.

::

    messages as decoded ── attack (simulated) ── guards, on each message ── combine ── guards, on the aggregate ── the server's step

A combine that needs only a sum takes the messages in chunks; one that needs each, or an attack that sees all, takes the whole cohort's at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from metabayfl import random, tree
from metabayfl.aggregators import COMBINES, Combine, build_combine
from metabayfl.attacks import Attack, build_attack, hostile
from metabayfl.data.federation import Clients
from metabayfl.engine import cohort
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.tasks import Block
from metabayfl.types import Aggregate, Guard, Key, Message, Model, Tree


class Pipeline(NamedTuple):
    """The steps of one run, chosen once."""

    combine: Combine
    guards: tuple[Guard, ...] = ()
    attack: Attack | None = None
    hostile: Tensor | None = None  # bool, one for every training client; with an attack alone

    @property
    def plain(self) -> bool:
        """Whether nothing looks at single messages, so that a cohort's sum may be one gradient."""
        return self.combine.linear and not self.guards and self.attack is None


def build(options: TrainOptions) -> Pipeline:
    """The pipeline that the options ask for, without hostile clients."""
    weighting = COMBINES[options.weighting]()
    return Pipeline(weighting if options.defence is None else build_combine(options.defence, weighting))


def infiltrated(pipeline: Pipeline, options: TrainOptions, clients: Clients, model: Model, seed: int) -> Pipeline:
    """The pipeline with hostile clients among ``clients`` where the options want them; the same ones in every round of a seed."""
    if options.attack is None:
        return pipeline
    attack = build_attack(options.attack, model.kind, model.outputs)
    return pipeline._replace(attack=attack, hostile=hostile(clients.ids, options.attack.share, random.key(seed)))


def begin(pipeline: Pipeline, meta: Tree) -> Tree:
    """The guards' states before the first round, by name."""
    return {guard.name: guard.begin(meta) for guard in pipeline.guards}


def drawn(pipeline: Pipeline, key: Key) -> Pipeline:
    """The pipeline of one round: its combine has the round's random numbers."""
    draw = pipeline.combine.draw
    return pipeline if draw is None else pipeline._replace(combine=draw(random.fold(key, "combine")))


def on_tasks(pipeline: Pipeline, block: Block, positions: NDArray[np.int64], key: Key) -> Block:
    """A block in which hostile clients changed their data; ``positions`` are its clients' places among the training clients."""
    if pipeline.attack is None or pipeline.attack.data is None or pipeline.hostile is None:
        return block
    which = pipeline.hostile[torch.from_numpy(positions)].to(block.keys.device)
    return block._replace(tasks=pipeline.attack.data(block.tasks, which, random.fold(key, "attack")))


def together(parts: list[tuple[Message, Tensor]], groups: list[NDArray[np.int64]]) -> tuple[Message, Tensor]:
    """The chunks' messages and clients' keys as one stack in the order of the cohort, whatever the chunks; ``groups`` are their places in it."""
    order = torch.from_numpy(np.concatenate(groups).argsort()).to(parts[0][1].device)
    stack = cohort.concatenate([messages for messages, _ in parts])
    update = tree.map(lambda leaf: leaf[order], stack.update)
    metrics = {name: value[order] for name, value in stack.metrics.items()}
    return Message(update, stack.weight[order], metrics), torch.cat([keys for _, keys in parts])[order]


def attacked(pipeline: Pipeline, messages: Message, positions: NDArray[np.int64], key: Key) -> Message:
    """The whole cohort's messages after hostile clients saw them all and changed theirs."""
    if pipeline.attack is None or pipeline.attack.messages is None or pipeline.hostile is None:
        return messages
    which = pipeline.hostile[torch.from_numpy(positions)].to(messages.weight.device)
    return pipeline.attack.messages(messages, which, random.fold(key, "attack"))


def combined(combine: Combine, stacks: Iterable[Message]) -> Aggregate:
    """The aggregate of a cohort's messages, in as many passes over them as the combine takes."""
    if combine.needs == "each":
        stacks = [cohort.concatenate(list(stacks))]

    def once(now: Combine, messages: Iterable[Message]) -> Aggregate:
        return now.finish(cohort.total(now.partial(stack) for stack in messages))

    if combine.around is None:
        return once(combine, stacks)
    kept = list(stacks)
    found = once(combine, kept)
    for _ in range(combine.passes - 1):
        found = once(combine.around(found.update), kept)
    return found


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
