"""From :class:`~metabayfl.aggregators.options.DefenceOptions` to a combine: screening, bounds, mixing or buckets, and a robust rule.

A robust rule counts every client that has an example once, whatever it says about its size: a claimed number of examples is no evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial as partial_of
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from metabayfl.aggregators import clipping, comparison, coordinates, geometric, krum, mixing, screening
from metabayfl.aggregators.combine import Combine
from metabayfl.aggregators.mean import uniform_mean
from metabayfl.aggregators.options import DefenceOptions
from metabayfl.aggregators.rows import one, rows
from metabayfl.errors import ConfigError, DivergedError, MetabayflError, unknown
from metabayfl.types import Aggregate, Key, Message, Tree

T = TypeVar("T")


class Robust(NamedTuple):
    """A robust rule and how many messages it needs."""

    rule: Callable[[Tensor, int], Tensor]  # (C, P), how many rows may be hostile -> (P,)
    spare: int = 1  # it needs 2 hostile + spare messages


ROBUST_COMBINES: dict[str, Robust] = {
    "median": Robust(coordinates.median),
    "trimmed_mean": Robust(coordinates.trimmed_mean),
    "krum": Robust(krum.krum, spare=3),
    "multi_krum": Robust(krum.multi_krum, spare=3),
    "geometric_median": Robust(geometric.geometric_median),
    "centred_clipping": Robust(clipping.centred_clipping),
}
"""Robust rules by name."""


DEFENCES: dict[str, DefenceOptions] = {
    "screening": DefenceOptions(),
    **{name: DefenceOptions(name, share=0.3) for name in ROBUST_COMBINES if "krum" not in name},
    **{name: DefenceOptions(name, share=0.2) for name in ROBUST_COMBINES if "krum" in name},
    "recommended": DefenceOptions(share=0.4, size_bound=3.0, alike=0.1, against=0.4, memory=0.95, leaf_bound=1.0),
}
"""Ready defences by name, for cohorts of ten and more of which a fifth is hostile on average."""


def hostile_among(share: float, count: int) -> int:
    """How many of ``count`` messages are taken for hostile: the share, rounded up.

    Example:
        >>> hostile_among(0.2, 10), hostile_among(0.2, 11), hostile_among(0.0, 10)
        (2, 3, 0)
    """
    return math.ceil(share * count - 1e-9)


def require_cohort(options: DefenceOptions, cohort: int) -> None:
    """Refuse a cohort in which the defence cannot work.

    Raises:
        ConfigError: if the combine is unknown, or a cohort of ``cohort`` clients is too small for it.
    """
    reason = _too_few(options, cohort) if _check_name(options.combine) else ""
    if reason:
        raise ConfigError(f"{reason}: take a larger cohort, or assume a smaller share of hostile clients")


def _check_name(name: str) -> bool:
    """Whether ``name`` is a robust rule's."""
    if name not in ("mean", *ROBUST_COMBINES):
        raise unknown("combine", name, ("mean", *ROBUST_COMBINES))
    return name != "mean"


def _too_few(options: DefenceOptions, count: int) -> str:
    hostile, groups = hostile_among(options.share, count), -(-count // options.bucket)
    need = 2 * hostile + ROBUST_COMBINES[options.combine].spare
    if groups >= need:
        return ""
    of = f"{groups} groups of {options.bucket} out of {count} messages" if options.bucket > 1 else f"{count} messages"
    return f"{options.combine} has {of}, of which {hostile} may be hostile (share {options.share}), and needs {need}"


def build_combine(options: DefenceOptions, weighting: Combine) -> Combine:
    """The combine that the options ask for.

    Its aggregate's metrics also hold ``screened``, the number of clients that were screened. With ``memory`` the engine calls its ``judge`` before
    ``partial``: messages of clients whose standing is above :data:`~metabayfl.aggregators.comparison.SHUT` are screened as well.

    Args:
        options: see :class:`~metabayfl.aggregators.options.DefenceOptions`.
        weighting: what ``combine = "mean"`` means by a mean.

    Returns:
        A combine that needs sums alone where its parts do: ``mean`` and ``geometric_median``, without mixing, buckets and comparisons
        with the cohort.

    Raises:
        ConfigError: for an unknown combine. While it runs: MetabayflError if too few messages are left, or none.
    """
    robust = _check_name(options.combine)
    each = options.mixing or options.bucket > 1 or _by_cohort(options)
    if options.combine == "geometric_median" and not each:
        return _prepared(options, geometric.by_sums(uniform_mean().weights, smoothing=options.smoothing))
    return _prepared(options, _ruled(options) if robust else weighting)


def _by_cohort(options: DefenceOptions) -> bool:
    """Whether a message is compared with the others' before it is combined."""
    return bool(options.size_bound or options.against or options.alike or options.memory or options.leaf_bound)


def _ruled(options: DefenceOptions, key: Key | None = None) -> Combine:
    """A rule over the rows of the clients that have an example; buckets need a key, and get it by ``draw``."""

    def partial(messages: Message) -> Tree:
        matrix = rows(messages.update)[messages.weight > 0]
        found = _combined(options, matrix, key) if len(matrix) else matrix.new_zeros(matrix.shape[1])
        metrics = {name: value.sum(0) for name, value in messages.metrics.items()}
        return {"update": one(found, messages.update), "weight": (messages.weight > 0).sum().to(messages.weight.dtype), "metrics": metrics}

    draw = None if options.bucket == 1 else lambda key: _ruled(options, key)
    return Combine(options.combine, "each", uniform_mean().weights, partial, lambda total: Aggregate(**total), draw=draw)


def _combined(options: DefenceOptions, matrix: Tensor, key: Key | None) -> Tensor:
    if reason := _too_few(options, len(matrix)):
        raise MetabayflError(f"{reason}: wait for more clients, or assume a smaller share of hostile ones")
    hostile = hostile_among(options.share, len(matrix))
    if options.bucket > 1:
        matrix = mixing.bucketing(matrix, options.bucket, _need(key))
    if options.mixing:
        matrix = mixing.nearest_neighbour_mixing(matrix, hostile)
    return ROBUST_COMBINES[options.combine].rule(matrix, hostile)


def _need(key: Key | None) -> Key:
    if key is None:
        raise MetabayflError("buckets are drawn anew every round, and this combine was given no round's key: take combine.draw(key)")
    return key


def _judged(options: DefenceOptions, messages: Message, standing: Tensor) -> tuple[Message, Tensor]:
    """Messages without the absurd ones, those of bad standing, and those that differ from the cohort as no honest one does; what each gave cause for.

    How many were left out is among the metrics.
    """
    faulty = screening.faulty(messages, options.max_examples)
    kept, out = screening.screen(messages, faulty), faulty
    for test in (lambda kept, counted: counted & (standing > comparison.SHUT), *_tests(options)):
        counted = kept.weight > 0
        found = test(kept, counted) if counted.any() else out
        if (counted & ~found).any():  # where a comparison leaves nobody, it says nothing
            out = out | found
            kept = screening.screen(kept, out)  # the next one does not see whom this one took out
    cause = _cause(options, screening.screen(messages, faulty), faulty, kept.weight > 0, out) if options.memory else torch.zeros_like(standing)
    return kept._replace(metrics={**kept.metrics, "screened": out.to(messages.weight.dtype)}), cause


def _cause(options: DefenceOptions, messages: Message, faulty: Tensor, heard: Tensor, out: Tensor) -> Tensor:
    """What this round holds against each client, from -1 to 1: its reach against those who are heard, or 1 where it is absurd, too large or a copy.

    Nobody who is heard is a copy: so a hostile client that was found out cannot ruin an honest one's name by copying its message.
    """
    if not heard.any():
        return faulty.to(torch.float32)
    odd = faulty
    if options.size_bound:
        odd = odd | (comparison.sizes(messages, heard) > options.size_bound)
    if options.alike:
        odd = odd | comparison.copies(messages, messages.weight > 0, options.alike)
    return torch.where(out & odd, 1.0, comparison.against(messages, heard).clamp(-1.0, 1.0)).to(torch.float32)


def _tests(options: DefenceOptions) -> list[Callable[[Message, Tensor], Tensor]]:
    """Comparisons with the cohort, in their order: messages and whom they are compared with, bool ``(C,)`` -> who is screened."""

    def few(found: Tensor, counted: Tensor) -> Tensor:  # where they are many, they are a kind of honest client
        return found & counted & bool((found & counted).sum() <= hostile_among(options.share, int(counted.sum())))

    def large(kept: Message, counted: Tensor) -> Tensor:
        return comparison.sizes(kept, counted) > options.size_bound

    def turned(kept: Message, counted: Tensor) -> Tensor:
        return few(comparison.against(kept, counted) > options.against, counted)

    def same(kept: Message, counted: Tensor) -> Tensor:
        return few(comparison.copies(kept, counted, options.alike), counted)

    wanted = ((options.size_bound, large), (options.alike, same), (options.against, turned))
    return [test for limit, test in wanted if limit]


def _prepared(options: DefenceOptions, inner: Combine) -> Combine:
    """``inner`` on messages that were screened and bounded."""

    def partial(messages: Message) -> Tree:
        if options.screen and not options.memory:
            messages, _ = _judged(options, messages, torch.zeros_like(messages.weight))
        messages = screening.bound_blocks(messages, options.bounds)
        if options.leaf_bound:
            messages = screening.bound_leaves(messages, options.leaf_bound, messages.weight > 0)
        return inner.partial(messages)

    def finish(total: Tree) -> Aggregate:
        aggregate = inner.finish(total)
        screened = int(aggregate.metrics.get("screened", torch.zeros(())))
        if screened and float(aggregate.weight) == 0:
            raise DivergedError(f"all {screened} messages held NaN, infinite or absurd numbers: if no client is hostile, lower the learning rates")
        return aggregate

    def prepared(make: Callable[[T], Combine] | None) -> Callable[[T], Combine] | None:
        return None if make is None else lambda given: _prepared(options, make(given))

    needs: Literal["sum", "each"] = "each" if _by_cohort(options) else inner.needs
    judge = partial_of(_judged, options) if options.memory else None
    steps = inner._replace(needs=needs, partial=partial, finish=finish, around=prepared(inner.around), draw=prepared(inner.draw))
    return steps._replace(judge=judge, memory=options.memory, linear=False)
