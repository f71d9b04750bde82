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
from metabayfl.engine import cohort, secure, standing
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.secure import Secure
from metabayfl.engine.standing import STANDINGS
from metabayfl.engine.tasks import Block
from metabayfl.types import Aggregate, Guard, Key, Message, Model, Tree


class Pipeline(NamedTuple):
    """The steps of one run, chosen once."""

    combine: Combine
    guards: tuple[Guard, ...] = ()
    attack: Attack | None = None
    hostile: Tensor | None = None  # bool, one for every training client; with an attack alone
    secure: Secure | None = None  # the server sees sums of masked integers alone

    @property
    def plain(self) -> bool:
        """Whether nothing looks at single messages, so that a cohort's sum may be one gradient."""
        return self.combine.linear and not self.guards and self.attack is None and self.secure is None


class Stack(NamedTuple):
    """Messages of some clients as the server decodes them, with a leading axis ``C``."""

    messages: Message
    keys: Tensor  # (C,) the clients' keys of this round
    positions: NDArray[np.int64]  # (C,) their places among the training clients
    names: Tensor  # (C,) what stands for their names
    scale: Tensor  # (C,) what their updates are multiplied by after the guards


def build(options: TrainOptions) -> Pipeline:
    """The pipeline that the options ask for, without hostile clients."""
    weighting = COMBINES[options.weighting]()
    steps = Pipeline(weighting if options.defence is None else build_combine(options.defence, weighting))
    if options.secure is None:
        return steps
    secured = secure.Secure(options.secure, options.secure.clip)
    secure.check(steps.combine)
    guards = () if options.privacy else (secure.bound(secured),)  # privacy clips, and counts nothing that it has no account for
    return steps._replace(guards=guards, secure=secured)


def infiltrated(pipeline: Pipeline, options: TrainOptions, clients: Clients, model: Model, seed: int) -> Pipeline:
    """The pipeline with hostile clients among ``clients`` where the options want them; the same ones in every round of a seed."""
    if options.attack is None:
        return pipeline
    attack = build_attack(options.attack, model.kind, model.outputs)
    return pipeline._replace(attack=attack, hostile=hostile(clients.ids, options.attack.share, random.key(seed)))


def begin(pipeline: Pipeline, meta: Tree) -> Tree:
    """What is carried from round to round, before the first: the guards' states by name, and clients' standings where they are remembered."""
    standings = {} if pipeline.combine.judge is None else {STANDINGS: standing.begin()}
    return {**{guard.name: guard.begin(meta) for guard in pipeline.guards}, **standings}


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


def together(stacks: list[Stack]) -> Stack:
    """All stacks as one, the clients in the order of their positions, whatever the chunks were."""
    positions = np.concatenate([stack.positions for stack in stacks])
    rows = positions.argsort(kind="stable")
    order = torch.from_numpy(rows).to(stacks[0].keys.device)
    whole = cohort.concatenate([stack.messages for stack in stacks])
    update = tree.map(lambda leaf: leaf[order], whole.update)
    messages = Message(update, whole.weight[order], {name: value[order] for name, value in whole.metrics.items()})
    parts = zip(*((stack.keys, stack.names, stack.scale) for stack in stacks), strict=True)
    keys, names, scale = (torch.cat(part)[order] for part in parts)
    return Stack(messages, keys, positions[rows], names, scale)


def attacked(pipeline: Pipeline, stack: Stack, key: Key) -> Stack:
    """The whole cohort's messages after hostile clients saw them all and changed theirs."""
    if pipeline.attack is None or pipeline.attack.messages is None or pipeline.hostile is None:
        return stack
    which = pipeline.hostile[torch.from_numpy(stack.positions)].to(stack.keys.device)
    return stack._replace(messages=pipeline.attack.messages(stack.messages, which, random.fold(key, "attack")))


def gather(pipeline: Pipeline, states: Tree, stacks: Iterable[Stack], key: Key) -> Aggregate:
    """The aggregate of stacks of decoded messages: attacked, guarded, scaled where they are stale, and summed in their order.

    Args:
        pipeline: of this round, from :func:`drawn`.
        states: what is carried from round to round.
        stacks: at least one; they are taken one after the other where a sum is enough.
        key: the round's.
    """
    if pipeline.attack is not None or pipeline.combine.needs == "each":
        stacks = [attacked(pipeline, together(list(stacks)), key)]
    guarded = ((stack, _arrived(stack, on_messages(pipeline, states, stack.messages, stack.keys))) for stack in stacks)
    if pipeline.combine.judge is None:
        return combined(pipeline, ((messages, stack.keys) for stack, messages in guarded))
    stack, messages = next(guarded)  # it needs each, so all are in one
    judged, standings = standing.judge(pipeline.combine, messages, stack.names, states[STANDINGS])
    aggregate = combined(pipeline, [(judged, stack.keys)])
    return aggregate._replace(metrics={**aggregate.metrics, **tree.flatten({STANDINGS: standings})})


def _arrived(stack: Stack, messages: Message) -> Message:
    """Stale updates count for less."""
    if (stack.scale == 1.0).all():
        return messages

    def scaled(leaf: Tensor) -> Tensor:
        return leaf * stack.scale.to(leaf.dtype).view(-1, *[1] * (leaf.ndim - 1))

    return messages._replace(update=tree.map(scaled, messages.update))


def combined(pipeline: Pipeline, stacks: Iterable[tuple[Message, Tensor]]) -> Aggregate:
    """The aggregate of guarded messages and their clients' keys, in as many passes over them as the combine takes."""
    combine = pipeline.combine
    if combine.around is None:
        return combine.finish(_sum(pipeline.secure, combine, stacks))
    kept = list(stacks)
    found = combine.finish(_sum(pipeline.secure, combine, kept))
    for _ in range(combine.passes - 1):
        again = combine.around(found.update)
        found = again.finish(_sum(pipeline.secure, again, kept))
    return found


def _sum(secured: Secure | None, combine: Combine, stacks: Iterable[tuple[Message, Tensor]]) -> Tree:
    """What the server learns of the clients' parts."""
    if secured is None:
        return cohort.total(combine.partial(messages) for messages, _ in stacks)
    return secure.total(secured, combine, stacks)


def on_messages(pipeline: Pipeline, states: Tree, messages: Message, keys: Tensor) -> Message:
    """The guards' first halves over a stack of messages ``(C,)`` with the clients' keys ``(C,)``."""
    for guard in pipeline.guards:
        state, half = states[guard.name], guard.client
        messages = vmap(lambda message, key, state=state, half=half: half(state, message, key))(messages, random.fold(keys, guard.name))
    return messages


def on_aggregate(pipeline: Pipeline, states: Tree, aggregate: Aggregate, key: Key) -> tuple[Tree, Aggregate]:
    """The guards' second halves, the last guard first; their new states beside the aggregate."""
    new = {**states, **tree.unflatten({path: leaf for path, leaf in aggregate.metrics.items() if path.startswith(STANDINGS + tree.SEPARATOR)})}
    for guard in reversed(pipeline.guards):
        new[guard.name], aggregate = guard.server(states[guard.name], aggregate, random.fold(key, guard.name))
    return new, aggregate
