"""One cohort's work: a block of clients in, one summable partial out.

Four ways to the same numbers: the algorithm's own function for a block, one backward pass for the whole block where only a sum is needed, ``vmap``
over clients, or a loop over clients (``vectorise=False``) for debugging and for modules that cannot be vectorised.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, reduce

import torch
from torch.func import vmap

from metabayfl import random, tree
from metabayfl.aggregators import Combine
from metabayfl.algorithms.side_by_side import WIDE
from metabayfl.batches import examples
from metabayfl.engine.tasks import Block
from metabayfl.types import Algorithm, Batch, Key, Message, Model, Task, Tree


def messages(algorithm: Algorithm, meta: Tree, block: Block) -> Message:
    """The messages of a block as the server decodes them, stacked along ``C``."""
    run = algorithm.clients or (lambda meta, tasks, keys: vmap(lambda task, key: algorithm.client(meta, task, key))(tasks, keys))
    sent = run(meta, block.tasks, block.keys)
    return sent if algorithm.up.name == "exact" else vmap(lambda message, key: _uploaded(algorithm, message, key))(sent, block.keys)


def _uploaded(algorithm: Algorithm, message: Message, key: Key) -> Message:
    return message._replace(update=algorithm.up.round_trip(message.update, upload_key(key)))


def upload_key(key: Key) -> Key:
    """What a client's key becomes for the rounding of its update."""
    return random.fold(key, "upload")


def messages_by_loop(algorithm: Algorithm, meta: Tree, block: Block) -> Message:
    """The same, one client at a time and without its padding."""
    return stack([_uploaded(algorithm, one_message(algorithm, meta, block, row), block.keys[row]) for row in range(len(block.keys))])


def one_message(algorithm: Algorithm, meta: Tree, block: Block, row: int) -> Message:
    """What the client at ``row`` of a block has to say, before it travels."""
    return algorithm.client(meta, _unpadded(block.tasks, row), block.keys[row])


def stack(each: list[Message]) -> Message:
    """Single clients' messages as one with a leading axis ``C``."""
    update = tree.map(lambda *leaves: torch.stack(leaves), *(message.update for message in each))
    metrics = {name: torch.stack([message.metrics[name] for message in each]) for name in each[0].metrics}
    return Message(update, torch.stack([message.weight for message in each]), metrics)


def concatenate(blocks: list[Message]) -> Message:
    """Stacks of messages as one stack, for combines that need every client's update."""
    update = tree.map(lambda *leaves: torch.cat(leaves), *(block.update for block in blocks))
    metrics = {name: torch.cat([block.metrics[name] for block in blocks]) for name in blocks[0].metrics}
    return Message(update, torch.cat([block.weight for block in blocks]), metrics)


def _unpadded(tasks: Task, row: int) -> Task:
    def cut(batch: Batch) -> Batch:
        count = int(batch.mask[row].sum())
        return Batch(batch.x[row, :count], batch.y[row, :count], batch.mask[row, :count])

    return Task(cut(tasks.support), cut(tasks.query))


def takes_one_pass(algorithm: Algorithm) -> bool:
    """Whether the cohort's summed update may be one gradient: a client objective, and messages that travel exactly."""
    return algorithm.objective is not None and algorithm.up.name == "exact"


def one_pass(algorithm: Algorithm, combine: Combine, meta: Tree, block: Block) -> Tree:
    """``combine.partial`` of the block by one backward pass through ``sum_c weight_c L_c``.

    With a body that no client adapts, ``vmap`` leaves its weights unbatched, so the block runs as one ordinary large batch.
    """
    objective = algorithm.objective
    assert objective is not None, "callers ask takes_one_pass first"
    weight = combine.weights(vmap(lambda task: examples(task.support) + examples(task.query))(block.tasks))
    leaves = [leaf.detach().requires_grad_() for leaf in tree.leaves(meta)]
    losses, metrics = vmap(objective, in_dims=(None, 0, 0))(tree.like(meta, leaves), block.tasks, block.keys)
    gradient = torch.autograd.grad(torch.sum(weight * losses), leaves, allow_unused=True)
    update = [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, gradient, strict=True)]
    sums = {name: value.detach().sum(0) for name, value in metrics.items()}
    return {"update": tree.like(meta, update), "weight": weight.sum(), "metrics": sums}


def total(partials: Iterable[Tree]) -> Tree:
    """The sum of the blocks' partials, as they come: only one is held, and the sum is made in one place."""
    parts = iter(partials)
    first = next(parts)
    return reduce(_add_to, parts, first) if (second := next(parts, None)) is None else reduce(_add_to, parts, tree.add(first, second))


def _add_to(sums: Tree, part: Tree) -> Tree:
    return tree.map(torch.Tensor.add_, sums, part)


def by_columns(meta: Tree) -> Tree:
    """The same numbers with the matrices of a small model stored by columns; what clients make of them keeps that order.

    A dense layer multiplies by its weight's transpose, and MKL's batched product is up to four times slower on one that is stored by rows: MAML on
    a perceptron gains a quarter. Where a weight outgrows the cache, its update in that order costs more than the product gains.
    """
    return tree.map(lambda leaf: leaf.t().contiguous().t() if leaf.ndim == 2 else leaf, meta) if tree.size(meta) < WIDE else meta


def chunk_limit(strategy_numbers: int, budget: int = 2**26) -> int:
    """How many clients one vectorised call takes: eight copies of the strategy for each within ``budget`` bytes.

    Inner loops keep several times as much; more clients would still fit a machine's memory, but are no faster than these.

    Example:
        >>> chunk_limit(2_410), chunk_limit(50_890)
        (870, 41)
    """
    return max(1, budget // (32 * strategy_numbers))


def call_cost(model: Model) -> int:
    """How many examples' work a vectorised call costs beside its examples: its hundreds of operations take a fixed time each.

    Example:
        >>> from metabayfl.models import mlp
        >>> call_cost(mlp((64,), 10)), call_cost(mlp((784,), 10, hidden=(64,)))
        (870, 60)
    """
    return max(60, 2**21 // _numbers(model))


@lru_cache(maxsize=16)
def _numbers(model: Model) -> int:
    return tree.size(model.init(random.key(0)))
