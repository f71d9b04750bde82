"""Whoever follows a page does what it says, notices what fails, and leaves nothing running."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from following import Terminal, follow, script
from pages import TUTORIALS, Block

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with Terminal(tmp_path, {"GREETING": "good day"}) as found:
        yield found


def shell(text: str) -> Block:
    return Block("bash", None, text, 0)


def test_what_is_typed_lasts_until_the_next_block(terminal: Terminal, tmp_path: Path) -> None:
    follow(shell("mkdir inner && cd inner\nNAME=you"), terminal)
    follow(Block("text", "words.txt", "one\n", 0), terminal)
    follow(Block("text", "at the end of words.txt", "two\n", 0), terminal)
    step = follow(shell('echo "$GREETING, $NAME"; cat words.txt'), terminal)
    assert step.output == "good day, you\none\ntwo\n"
    assert (tmp_path / "inner" / "words.txt").is_file()


def test_a_command_that_fails_ends_it(terminal: Terminal) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ended the terminal with code [12].*ls /nowhere.*No such file"):
        follow(shell("ls /nowhere\necho not reached"), terminal)


def test_what_takes_too_long_is_not_waited_for(terminal: Terminal) -> None:
    with pytest.raises(RuntimeError, match="took more than 1 s"):
        follow(shell("sleep 60"), terminal, patience=1)


def test_jobs_are_killed_by_number_with_all_that_they_started(terminal: Terminal) -> None:
    follow(shell("(sleep 60 & sleep 61) &\n(sleep 62 & sleep 63) &"), terminal)
    follow(shell("kill -KILL %2"), terminal)
    assert "sleep 60" in follow(shell("jobs"), terminal).output
    _until(lambda: len(terminal.running()) == 4)  # the shell, and the first job's three


def test_nothing_goes_on(tmp_path: Path) -> None:
    with Terminal(tmp_path, {}) as terminal:
        follow(shell("(sleep 60 & sleep 61) &\nsleep 62 &"), terminal)
        assert len(terminal.running()) > 1
    _until(lambda: not terminal.running())
    assert list(tmp_path.iterdir()) == []


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("that did not happen")


def test_what_is_replaced_must_be_there() -> None:
    page = "docs/tutorials/federation.md"
    with pytest.raises(ValueError, match="has no 8444 to replace"):
        script(page, {"8444": "1"}, set_up=False)
    assert any("--port 51234" in block.text for block in script(page, {"8443": "51234"}, set_up=False))


@pytest.mark.parametrize("page", TUTORIALS)
def test_every_tutorial_begins_with_its_set_up(page: str) -> None:
    whole, rest = script(page, {}, set_up=True), script(page, {}, set_up=False)
    assert len(whole) == len(rest) + 1
    assert "--constraint constraints.txt" in whole[0].text
