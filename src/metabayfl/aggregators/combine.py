"""What a combine is.

A combine declares what it needs: ``sum`` (only sums over clients, so secure aggregation and chunked accumulation apply) or ``each`` (every
client's update).

A combine of several passes sums anew around what it has found so far: messages stay with their clients, after each pass but the last the engine
takes ``around(aggregate.update)`` as the next pass's combine, and the last aggregate counts. So an iteration over clients still needs sums alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from metabayfl.types import Aggregate, Key, Message, Tree

Judge: TypeAlias = Callable[[Message, Tensor], tuple[Message, Tensor]]
"""A cohort's messages and their senders' standings ``(C,)`` -> the messages that ``partial`` takes, and what is held against each, ``(C,)``."""


class Combine(NamedTuple):
    """``partial`` turns a stack of messages (leading axis ``C``) into a summable tree, ``finish`` the sum of partials into an aggregate."""

    name: str
    needs: Literal["sum", "each"]
    weights: Callable[[Tensor], Tensor]  # (C,) examples -> (C,) the weights that the sum uses
    partial: Callable[[Message], Tree]
    finish: Callable[[Tree], Aggregate]
    passes: int = 1
    around: Callable[[Tree], Combine] | None = None  # what the last pass found -> the combine of the next; None where one pass is all
    draw: Callable[[Key], Combine] | None = None  # a round's key -> the combine with its random numbers; None where it draws none
    reach: Callable[[float], dict[str, float]] | None = None  # largest weight -> bounds on groups of ``partial``, where they are not the mean's
    judge: Judge | None = None  # called on the whole cohort before ``partial``; None where nothing is remembered of clients
    memory: float = 0.0  # what is kept of a client's standing each time it takes part
    linear: bool = False  # whether ``partial`` is a weighted sum of the updates and no more, so that a cohort's may be taken as one gradient
