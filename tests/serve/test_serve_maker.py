"""Posteriors are the same wherever they are made, and a process that ends is started again."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from served import posted

from metabayfl.personal import PersonalStrategy
from metabayfl.serve import making, requests
from metabayfl.serve.maker import Beside, Inside
from metabayfl.serve.problems import RequestError
from metabayfl.serve.requests import Samples


@pytest.fixture
def beside(outcome_strategy: PersonalStrategy) -> Iterator[Beside]:
    with closing(Beside(outcome_strategy)) as maker:
        yield maker


def samples(source: PersonalStrategy, count: int, seed: int) -> Samples:
    return requests.samples(source.schema, posted(count, seed), 100)


def test_a_process_beside_makes_the_same_bytes(outcome_strategy: PersonalStrategy, beside: Beside) -> None:
    first, more = samples(outcome_strategy, 14, 1), samples(outcome_strategy, 3, 2)
    with closing(Inside(outcome_strategy)) as inside, asyncio.Runner() as runner:
        here, there = (runner.run(maker.make(making.personalized, first, {"refer_share": 0.3})) for maker in (inside, beside))
        assert here.data == there.data
        old, new = (runner.run(maker.make(making.updated, here.data, more, True)) for maker in (inside, beside))
        assert old.data == new.data
        assert old.after is not None
        assert new.after is not None
        assert np.array_equal(old.after.total, new.after.total)


def test_a_process_that_ends_is_told_in_a_sentence_and_started_again(outcome_strategy: PersonalStrategy, beside: Beside) -> None:
    given = samples(outcome_strategy, 14, 1)
    with asyncio.Runner() as runner:
        made = runner.run(beside.make(making.personalized, given, {}))
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(RequestError, match="nothing was changed; send it again") as caught:
            runner.run(beside.make(making.personalized, given, {}))
        assert caught.value.status == 503
        assert runner.run(beside.make(making.personalized, given, {})).data == made.data
