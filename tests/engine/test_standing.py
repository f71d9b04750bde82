"""Standings: what is remembered of whom."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metabayfl.aggregators import uniform_mean
from metabayfl.engine import standing
from metabayfl.types import Message


def told(weights: list[float]) -> Message:
    return Message({"w": torch.tensor([[1.0], [-0.5], [0.25]])}, torch.tensor(weights), {})


def test_a_standing_is_the_mean_of_what_was_held_against_a_client() -> None:
    def held(messages: Message, standings: Tensor) -> tuple[Message, Tensor]:
        seen.append(standings.tolist())
        return messages, messages.update["w"][:, 0]

    seen: list[list[float]] = []
    combine, known = uniform_mean()._replace(judge=held, memory=0.5, needs="each"), standing.begin(4)
    names = torch.tensor([50, -10, 30])  # the third has no example
    for _ in range(2):
        _, known = standing.judge(combine, told([3.0, 2.0, 0.0]), names, known)
    assert known["names"].tolist() == [50, -10, 0, 0]
    assert known["cause"].tolist() == [1.5, -0.75, 0.0, 0.0]
    assert known["rounds"].tolist() == [1.5, 1.5, 0.0, 0.0]
    assert seen == [[0.0, 0.0, 0.0], pytest.approx([1 / 3, -0.5 / 3, 0.0])]
    _, later = standing.judge(combine, told([1.0, 1.0, float("nan")]), torch.tensor([-10, 40, 30]), known)
    assert seen[-1] == pytest.approx([-0.3 / 1.4, 0.0, 0.0], abs=0.1)
    assert later["names"].tolist() == [50, -10, 40, 30]


def test_who_comes_when_all_seats_are_taken_starts_anew_in_anothers_place() -> None:
    combine = uniform_mean()._replace(judge=lambda messages, before: (messages, messages.update["w"][:, 0]), memory=1.0, needs="each")
    known = standing.begin(3)
    for names in ([1, 2, 3], [2, 3, 4]):
        _, known = standing.judge(combine, told([1.0, 1.0, 1.0]), torch.tensor(names), known)
    assert known["names"].tolist() == [4, 2, 3]
    assert known["rounds"].tolist() == [1.0, 2.0, 2.0]
