"""Posteriors are the same wherever they are made, and a process that ends is started again."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from served import posted

from metabayfl.errors import DataError
from metabayfl.personal import PersonalStrategy, personal_from_bytes
from metabayfl.serve import making, requests
from metabayfl.serve.maker import SHORT, Beside, Here, Nearest
from metabayfl.serve.making import Job, Made
from metabayfl.serve.problems import RequestError
from metabayfl.serve.requests import Samples
from metabayfl.serve.service import Turn


@pytest.fixture
def beside(outcome_strategy: PersonalStrategy) -> Iterator[Beside]:
    with closing(Beside(outcome_strategy)) as maker:
        yield maker


def samples(source: PersonalStrategy, count: int, seed: int) -> Samples:
    return requests.samples(source.schema, posted(count, seed), 100)


def test_a_process_beside_makes_the_same_bytes(outcome_strategy: PersonalStrategy, beside: Beside) -> None:
    first, more = samples(outcome_strategy, 14, 1), samples(outcome_strategy, 3, 2)
    with asyncio.Runner() as runner:
        here, there = (runner.run(maker.make(making.personalized(first, {"refer_share": 0.3}))) for maker in (Here(outcome_strategy), beside))
        assert here.data == there.data
        assert here.model is not None
        assert there.model is None
        update = making.updated(here.model, there.data, more, look=True)
        old, new = (runner.run(maker.make(update)) for maker in (Here(outcome_strategy), beside))
        assert old.data == new.data
        assert old.after is not None
        assert new.after is not None
        assert np.array_equal(old.after.total, new.after.total)


def test_a_process_that_ends_is_told_in_a_sentence_and_started_again(outcome_strategy: PersonalStrategy, beside: Beside) -> None:
    job = making.personalized(samples(outcome_strategy, 14, 1), {})
    with asyncio.Runner() as runner:
        made = runner.run(beside.make(job))
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(RequestError, match="nothing was changed; send it again") as caught:
            runner.run(beside.make(job))
        assert caught.value.status == 503
        assert runner.run(beside.make(job)).data == made.data


def test_what_goes_wrong_beside_is_told_here(outcome_strategy: PersonalStrategy, beside: Beside) -> None:
    given = samples(outcome_strategy, 14, 1)
    nothing = Samples([], {name: values[:0] for name, values in given.x.items()}, given.y[:0])

    async def together() -> list[Made | BaseException]:
        return await asyncio.gather(*(beside.make(making.personalized(one, {})) for one in (given, nothing, given)), return_exceptions=True)

    first, error, again = asyncio.run(together())
    assert isinstance(first, Made)
    assert isinstance(again, Made)
    assert first.data == again.data == outcome_strategy.personalize(given.x, given.y).to_bytes()
    assert isinstance(error, DataError)
    assert "no sample to personalise on" in str(error)


def test_a_request_that_is_given_up_does_not_answer_the_next(outcome_strategy: PersonalStrategy, beside: Beside) -> None:
    first, second = (making.personalized(samples(outcome_strategy, count, 1), {}) for count in (14, 7))

    async def give_up() -> Made:
        waiting = asyncio.ensure_future(beside.make(first))
        await asyncio.sleep(0.01)
        waiting.cancel()
        return await beside.make(second)

    found = asyncio.run(give_up())
    assert len(personal_from_bytes(found.data, outcome_strategy).support.mask) == 7


def test_predictions_take_turns_and_others_go_in_between() -> None:
    """Twenty predictions are due at once; what needs five rounds of the event loop has them before most of those were made."""
    done: list[str] = []

    async def predict(turn: Turn) -> None:
        async with turn:
            done.append("prediction")

    async def change() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        done.append("change")

    async def together() -> None:
        turn = Turn()
        await asyncio.gather(*(predict(turn) for _ in range(20)), change())

    asyncio.run(together())
    assert done.count("prediction") == 20
    assert done.index("change") <= 5


class Far:
    """Takes as long as it is told, and counts."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.count = seconds, 0

    async def make(self, job: Job) -> Made:
        self.count += 1
        return Made(b"", None, None, self.seconds, None)


def test_short_jobs_are_done_near_as_soon_as_they_are_known_to_be_short() -> None:
    def job(samples: int) -> Job:
        return making.personalized(Samples([None] * samples, None, np.zeros(samples)), {})

    near, far = Far(SHORT / 2), Far(SHORT / 2)  # so that twice as many are short as are made
    maker = Nearest(near, far)
    with asyncio.Runner() as runner:
        for samples, counts in ((51, (0, 1)), (102, (1, 1)), (5, (2, 1)), (205, (2, 2)), (410, (3, 2))):
            runner.run(maker.make(job(samples)))
            assert (near.count, far.count) == counts
        near.seconds = 2 * SHORT
        for samples, counts in ((410, (4, 2)), (206, (4, 3)), (410, (5, 3)), (206, (5, 4))):
            runner.run(maker.make(job(samples)))
            assert (near.count, far.count) == counts
