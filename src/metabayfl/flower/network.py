"""Requests out, replies in, until a deadline: the only place where anybody waits for anybody.

A request is sent again when its delivery failed, and when its site has been silent for long: a site that was killed has lost it, and one that was
only slow gives the same reply twice, of which the first counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from metabayfl.errors import ConfigError
from metabayfl.flower.records import Record


class Unreachable(NamedTuple):
    """A request that will have no reply."""

    reason: str


class Transport(Protocol):
    """What carries records to sites and back."""

    def nodes(self) -> dict[int, str]:
        """The sites that are connected now: their addresses, and their names as registered or an empty text."""

    def send(self, requests: Mapping[int, Record], seconds: float) -> dict[int, str]:
        """Send to each address, for so many seconds; returns a ticket for each one that was taken."""

    def receive(self, tickets: Collection[str]) -> dict[str, Record | Unreachable]:
        """What has come so far, by ticket; each only once."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let some time pass."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for sites.

    Attributes:
        join: seconds until enough sites must have come at the start.
        reply: seconds that sites have for one request.
        grace: seconds to wait for sites that are gone once all that are there have answered and are enough.
        resend: seconds of silence after which a request is sent again.
        tries: how often a request is sent whose delivery fails, as where the site's app cannot start.
        poll: seconds between two looks for replies.
    """

    join: float = 600.0
    reply: float = 600.0
    grace: float = 60.0
    resend: float = 90.0
    tries: int = 3
    poll: float = 1.0

    def __post_init__(self) -> None:
        for name in ("join", "reply", "resend", "poll"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, expected seconds above 0: no wait is without end")
        if not 0 <= self.grace < float("inf"):
            raise ConfigError(f"grace is {self.grace}, expected seconds from 0: no wait is without end")
        if self.tries < 1:
            raise ConfigError(f"tries is {self.tries}, expected 1 or more")


class Replies(NamedTuple):
    """What became of the requests, by the name each was given."""

    records: dict[str, Record]
    failed: dict[str, str]  # why there is no reply


Enough = Callable[[Collection[str]], bool]
"""Whether the replies of these would do."""

Requests: TypeAlias = Mapping[str, Record]
"""What to send, by the name of who is asked."""


class Ask(NamedTuple):
    """One exchange: what to send, and whose replies would do."""

    requests: Requests
    enough: Enough


Places = Callable[[], Mapping[str, int]]
"""The addresses of those that are connected now, by name."""


@dataclass
class Line:
    """One request on its way."""

    request: Record
    sent: float | None = None  # when it was sent last; None: to be sent
    reason: str = ""
    failures: int = 0
    tickets: set[str] = field(default_factory=set)


def exchange(transport: Transport, requests: Requests, places: Places, patience: Patience, enough: Enough) -> Replies:
    """Send every request and gather what comes.

    Args:
        transport: what carries them.
        requests: by the name of who is asked.
        places: where each one is now; asked again and again, since sites come and go.
        patience: how long to wait.
        enough: whether the replies of these would do, if nobody else is there.

    Returns:
        Replies, and the reason for each one that is missing.
    """
    lines, records = {name: Line(request) for name, request in requests.items()}, dict[str, Record]()
    start = alone = transport.now()
    while waiting := {name for name, line in lines.items() if name not in records and line.failures < patience.tries}:
        here = {name: place for name, place in places().items() if name in waiting}
        now = transport.now()
        alone = now if here else alone
        if now >= start + patience.reply or (enough(records) and now >= alone + patience.grace):
            break
        send_due(transport, lines, here, patience, start + patience.reply - now)
        if not gather(transport, lines, records):
            transport.sleep(min(patience.poll, start + patience.reply - now))
    return Replies(records, {name: why(line, patience) for name, line in lines.items() if name not in records})


def send_due(transport: Transport, lines: dict[str, Line], here: Mapping[str, int], patience: Patience, left: float) -> None:
    """Send what was not sent yet, and again where there was silence for long.

    Args:
        transport: what carries requests.
        lines: by name.
        here: addresses by name; several names may have one.
        patience: how long to wait before a request is sent again.
        left: seconds that a request is worth.
    """
    now = transport.now()
    due = [(place, lines[name]) for name, place in here.items() if is_due(lines[name], now, patience)]
    while due:
        batch = dict(reversed(due))  # the first of each address
        tickets = transport.send({place: line.request for place, line in batch.items()}, left)
        for place, line in batch.items():
            line.sent = now
            line.tickets |= {tickets[place]} if place in tickets else set()
        due = [(place, line) for place, line in due if line is not batch[place]]


def is_due(line: Line, now: float, patience: Patience) -> bool:
    """Whether a request is to be sent now."""
    return line.sent is None or now - line.sent >= patience.resend


def gather(transport: Transport, lines: dict[str, Line], records: dict[str, Record]) -> bool:
    """Take in what has come; returns whether anything has."""
    owner = {ticket: name for name, line in lines.items() if name not in records for ticket in line.tickets}
    found = transport.receive(owner) if owner else {}
    for ticket, reply in found.items():
        line = lines[owner[ticket]]
        line.tickets.discard(ticket)
        if isinstance(reply, Unreachable):
            line.reason, line.failures = reply.reason, line.failures + 1
            line.sent = line.sent if line.tickets else None
        else:
            records.setdefault(owner[ticket], reply)
    return bool(found)


def why(line: Line, patience: Patience) -> str:
    """The reason for a reply that is missing."""
    if line.sent is None and not line.reason:
        return "it was not connected"
    return line.reason or f"no reply within {patience.reply:g} s"
