"""Waiting: every request has an end, what is lost is sent again, and who is gone is not waited for longer than said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest

from metabayfl.errors import ConfigError
from metabayfl.flower.network import Patience, Replies, Unreachable, exchange
from metabayfl.flower.records import Header, Record, record

HEADER = Header("e" * 64, "train", 0)
PATIENCE = Patience(reply=100.0, grace=10.0, resend=30.0, tries=3, poll=1.0)

Behave = Callable[[int, float], "float | Unreachable | None"]
"""How often a site was asked and when -> seconds until its reply, a failure, or silence."""


class Sites:
    """Sites whose behaviour is a function; time passes only in sleep."""

    def __init__(self, behave: Mapping[str, Behave], connected: Mapping[str, Callable[[float], bool]] | None = None) -> None:
        self.names = list(behave)
        self.behave, self.connected = behave, connected or {}
        self.time = 0.0
        self.asked: dict[str, list[float]] = {name: [] for name in behave}
        self.due: dict[str, tuple[float, Record | Unreachable]] = {}

    def nodes(self) -> dict[int, str]:
        return {at: name for at, name in enumerate(self.names) if self.connected.get(name, lambda _: True)(self.time)}

    def places(self) -> dict[str, int]:
        return {name: at for at, name in self.nodes().items()}

    def send(self, requests: Mapping[int, Record], seconds: float) -> dict[int, str]:
        tickets = {}
        for node, request in requests.items():
            name = self.names[node]
            self.asked[name].append(self.time)
            ticket = tickets[node] = f"{name}-{len(self.asked[name])}"
            then = self.behave[name](len(self.asked[name]), self.time)
            if isinstance(then, Unreachable):
                self.due[ticket] = self.time, then
            elif then is not None:
                self.due[ticket] = self.time + then, record(request.header, {"ticket": ticket})
        return tickets

    def receive(self, tickets: Collection[str]) -> dict[str, Record | Unreachable]:
        ready = [ticket for ticket in tickets if ticket in self.due and self.due[ticket][0] <= self.time]
        return {ticket: self.due.pop(ticket)[1] for ticket in ready}

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds

    def ask(self, enough: Callable[[Collection[str]], bool] = lambda _: False, patience: Patience = PATIENCE) -> Replies:
        return exchange(self, {name: record(HEADER, {}) for name in self.names}, self.places, patience, enough)


def after(seconds: float) -> Behave:
    return lambda asked, now: seconds


def silent(asked: int, now: float) -> None:
    return None


def test_replies_are_gathered_as_they_come_and_nothing_is_sent_twice() -> None:
    sites = Sites({"a": after(0), "b": after(20), "c": after(7)})
    replies = sites.ask()
    assert sorted(replies.records) == ["a", "b", "c"]
    assert replies.failed == {}
    assert sites.time == 20
    assert sites.asked == {"a": [0], "b": [0], "c": [0]}


def test_a_silent_site_ends_at_the_deadline_whatever_it_is_sent() -> None:
    sites = Sites({"a": after(1), "b": silent})
    replies = sites.ask()
    assert sites.time == 100
    assert replies.failed == {"b": "no reply within 100 s"}
    assert sites.asked["b"] == [0, 30, 60, 90]


def test_a_site_that_lost_the_request_is_asked_again() -> None:
    sites = Sites({"a": lambda asked, now: None if asked == 1 else 2.0})
    assert sites.ask().records["a"].body == {"ticket": "a-2"}
    assert sites.time == 32


def test_the_first_of_two_replies_counts() -> None:
    sites = Sites({"a": after(40)})  # slower than resending
    assert sites.ask().records["a"].body == {"ticket": "a-1"}
    assert sites.asked["a"] == [0, 30]


def test_a_delivery_that_fails_is_tried_again_at_once_and_a_few_times_only() -> None:
    sites = Sites({"a": lambda asked, now: Unreachable("crashed") if asked < 3 else 1.0, "b": lambda asked, now: Unreachable("no app")})
    replies = sites.ask()
    assert list(replies.records) == ["a"]
    assert replies.failed == {"b": "no app"}
    assert len(sites.asked["b"]) == 3
    assert sites.time < 10


def test_a_site_that_comes_back_is_asked_then() -> None:
    sites = Sites({"a": after(1)}, {"a": lambda now: now >= 50})
    assert list(sites.ask().records) == ["a"]
    assert sites.asked["a"] == [50]


def test_gone_sites_are_waited_for_no_longer_than_the_grace_if_the_others_are_enough() -> None:
    sites = Sites({"a": after(5), "b": after(1)}, {"b": lambda now: False})
    replies = sites.ask(lambda answered: len(answered) >= 1)
    assert list(replies.records) == ["a"]
    assert replies.failed == {"b": "it was not connected"}
    assert 15 <= sites.time <= 17


def test_without_enough_gone_sites_are_waited_for_until_the_deadline() -> None:
    sites = Sites({"a": after(5), "b": after(1)}, {"b": lambda now: False})
    assert list(sites.ask(lambda answered: len(answered) >= 2).records) == ["a"]
    assert sites.time == 100


def test_slow_sites_that_are_there_have_their_whole_time() -> None:
    sites = Sites({"a": after(1), "b": after(80)})
    assert sorted(sites.ask(lambda answered: True, Patience(reply=100.0, grace=10.0, resend=90.0)).records) == ["a", "b"]


def test_nobody_asked_is_answered_at_once() -> None:
    assert exchange(Sites({}), {}, dict, PATIENCE, lambda _: False) == Replies({}, {})


@pytest.mark.parametrize(
    "bad", [{"join": 0}, {"reply": float("inf")}, {"resend": -1}, {"poll": 0}, {"grace": -1}, {"grace": float("inf")}, {"tries": 0}]
)
def test_no_wait_may_be_without_end(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Patience(**bad)  # type: ignore[arg-type]
