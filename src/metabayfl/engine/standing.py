"""What a server remembers of single clients: a standing each, under the number that stands for its name."""

from __future__ import annotations

import torch
from torch import Tensor

from metabayfl.aggregators import Combine
from metabayfl.types import Message, Tree

STANDINGS, SEATS, DOUBT = "standings", 16384, 2.0
"""Where standings lie among the states; how many clients have one; and how many harmless rounds a new client is taken to have behind it."""


def begin(seats: int = SEATS) -> Tree:
    """No client is known: ``names`` are 0. ``cause`` sums what was held against each, ``rounds`` how many it took part in, older ones less."""
    return {"names": torch.zeros(seats, dtype=torch.int64), "cause": torch.zeros(seats), "rounds": torch.zeros(seats)}


def judge(combine: Combine, messages: Message, names: Tensor, standings: Tree) -> tuple[Message, Tree]:
    """Messages as the combine's ``judge`` leaves them, and the standings after it.

    A standing is the mean of what was held against a client in the rounds that it took part in, older ones counting less, and in two more where
    it was nothing. A client without an example says nothing about itself.

    Args:
        combine: remembers clients.
        messages: of a whole cohort, ``(C,)``.
        names: ``(C,)``, what stands for their senders' names.
        standings: from :func:`begin`, or the last round's.
    """
    assert combine.judge is not None, "callers ask before"
    seats = seated(names, standings["names"])
    cause, rounds = standings["cause"][seats], standings["rounds"][seats]
    known = standings["names"][seats] == names
    judged, found = combine.judge(messages, torch.where(known, cause / (rounds + DOUBT), torch.zeros_like(cause)))
    kept, present = combine.memory * known, messages.weight != 0  # NaN is present too
    new = {"names": names, "cause": kept * cause + found, "rounds": kept * rounds + 1.0}
    return judged, {name: _put(standings[name], seats[present], value[present]) for name, value in new.items()}


def seated(names: Tensor, known: Tensor) -> Tensor:
    """A seat for each of ``names`` ``(C,)``: its own among ``known`` ``(S,)``, or a free one, or where none is free one that another must leave.

    Example:
        >>> seated(torch.tensor([7, 5, 8]), torch.tensor([0, 5, 0, 0])).tolist()
        [0, 1, 2]
    """
    own = known == names.unsqueeze(1)  # (C, S)
    new = ~own.any(1)
    freest = torch.argsort(torch.where(known == 0, 0, 1 + own.any(0).long()), stable=True)
    return torch.where(new, freest[(new.long().cumsum(0) - 1).clamp(min=0)], own.long().argmax(1))


def _put(table: Tensor, seats: Tensor, values: Tensor) -> Tensor:
    out = table.clone()
    out[seats] = values.to(table.dtype)
    return out
