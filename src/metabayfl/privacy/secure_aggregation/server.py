"""The server's half of the protocol: :func:`begin` invites, :func:`advance` takes one phase's replies to the next phase's requests.

The state after each phase is all there is to know, requests included: a server that was killed reads it back and sends the same requests again.
A reply that is damaged, foreign, late or twice there is refused with its reason and the client counts as dropped out; everything goes on without it
as long as the threshold is kept. Below it there is a :class:`~metabayfl.errors.QuorumError`, and what was sent so far reveals nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from metabayfl.errors import ArtifactError, ConfigError, QuorumError
from metabayfl.privacy.secure_aggregation import bodies, graph, masks, packing, records
from metabayfl.privacy.secure_aggregation.bodies import Peer
from metabayfl.privacy.secure_aggregation.messages import SESSION_BYTES, Header, Phase, Setup, check_name, checked, expect, seal
from metabayfl.privacy.secure_aggregation.primitives import agreement, fresh
from metabayfl.privacy.secure_aggregation.unmasking import Shared, Shares, masks_left

Refused: TypeAlias = dict[str, str]
"""Why a client's reply was not used, by the client's name."""


class ServerState(NamedTuple):
    """What the server keeps between two phases."""

    setup: Setup
    phase: Literal[Phase, "done"]  # whose replies are awaited
    requests: dict[str, bytes]  # to send, by client; empty when done
    members: tuple[Peer, ...] = ()  # clients that advertised keys, by position
    commitments: tuple[bytes, ...] = ()  # by position; empty for a client that did not share
    survivors: tuple[str, ...] = ()  # clients whose vectors are in the sum
    total: bytes = b""  # packed: the sum of the masked vectors, and when done the sum itself


class Sum(NamedTuple):
    """The result."""

    total: NDArray[np.uint64]  # (L,) the sum modulo 2^b
    clients: tuple[str, ...]  # who was counted


def plan(cohort: int, length: int, bits: int, *, number: int = 0, about: bytes = bytes(32), colluding: float = 0.1, dropouts: float = 0.3) -> Setup:
    """The setup of a round among ``cohort`` invited clients, in a session of its own; the last two arguments are those of :func:`.graph.choose`.

    Raises:
        ConfigError: if a number makes no sense.
    """
    choice = graph.choose(cohort, colluding=colluding, dropouts=dropouts)
    return checked(Setup(secrets.token_bytes(SESSION_BYTES), number, choice.threshold, choice.degree, bits, length, about))


def begin(setup: Setup, clients: Iterable[str]) -> ServerState:
    """Invite clients to a round; the requests to send are in the state.

    Raises:
        ConfigError: if a name is there twice or cannot stand in a message, or there are fewer names than the threshold.
    """
    names = sorted(check_name(name) for name in clients)
    if len(set(names)) != len(names) or not setup.threshold <= len(names) <= graph.LARGEST_COHORT:
        raise ConfigError(
            f"{len(names)} clients with {len(set(names))} names for a threshold of {setup.threshold}: expected different names, enough of them"
        )
    return _asking(ServerState(checked(setup), "advertise", {}), "advertise", dict.fromkeys(names, bodies.setup_body(setup)))


def advance(state: ServerState, replies: Iterable[tuple[str, bytes]]) -> tuple[ServerState, Refused]:
    """One phase on.

    Args:
        state: of :func:`begin` or of the phase before.
        replies: sender, as the transport knows it, and message; whoever is not there dropped out. They are read one at a time and not kept.

    Returns:
        The next state, whose ``requests`` are to be sent, and why replies were refused.

    Raises:
        QuorumError: if fewer clients are left than the threshold, or a secret cannot be rebuilt.
    """
    if state.phase == "done":
        raise ArtifactError("this round is over and its sum is known: begin another")
    return _STEPS[state.phase](state, replies)


def result(state: ServerState) -> Sum:
    """The sum, once the state's phase is ``done``."""
    if state.phase != "done":
        raise ArtifactError(f"the round still waits for the replies of phase {state.phase!r}: there is no sum yet")
    return Sum(packing.unpack(state.total, state.setup.bits, state.setup.length), state.survivors)


def to_bytes(state: ServerState) -> bytes:
    """A state for the disk."""
    return records.to_bytes(state)


def from_bytes(data: bytes) -> ServerState:
    """The inverse of :func:`to_bytes`.

    Raises:
        ArtifactError: if the bytes are damaged or no server's state.
    """
    return records.from_bytes(ServerState, data)


def _advertised(state: ServerState, replies: Iterable[tuple[str, bytes]]) -> tuple[ServerState, Refused]:
    found: dict[str, tuple[bytes, bytes]] = {}
    known: set[bytes] = set()
    agree = agreement(fresh())

    def read(name: str, body: bytes) -> None:
        pair = bodies.read_keys(body)
        for public in pair:
            agree(public)  # refuses a point of small order, on which all its neighbours would stumble
        if len({*pair, *known}) != len(known) + 2:
            raise ArtifactError(f"{name!r} advertised a public key that is there already: keys are fresh in every round; it was left out")
        known.update(pair)
        found[name] = pair

    refused = _read(state, "advertise", replies, read)
    members = tuple(Peer(position, name, *found[name]) for position, name in enumerate(sorted(found)))
    _require(state.setup, len(members), "advertised keys")
    state = state._replace(members=members)
    rows = _rows(state)
    lists = {name: bodies.peers_body(len(members), i, [members[j] for j in rows[i]]) for i, name, *_ in members}
    return _asking(state, "share", lists), refused


def _shared(state: ServerState, replies: Iterable[tuple[str, bytes]]) -> tuple[ServerState, Refused]:
    rows, members = _rows(state), {member.name: member for member in state.members}
    commitments = [b""] * len(members)
    parcels: list[dict[int, bytes]] = [{} for _ in members]  # by receiver, by sender

    def read(name: str, body: bytes) -> None:
        sender = members[name].position
        commitments[sender], sent = bodies.read_shares(body, len(rows[sender]))
        for receiver, parcel in zip(rows[sender], sent, strict=True):
            parcels[receiver][sender] = parcel

    refused = _read(state, "share", replies, read)
    there = [member for member in state.members if commitments[member.position]]
    _require(state.setup, len(there), "shared their secrets")
    requests = {name: bodies.parcels_body([parcels[i].get(j) for j in rows[i]]) for i, name, *_ in there}
    return _asking(state._replace(commitments=tuple(commitments)), "mask", requests), refused


def _masked(state: ServerState, replies: Iterable[tuple[str, bytes]]) -> tuple[ServerState, Refused]:
    total = np.zeros(state.setup.length, np.uint64)
    survivors: set[str] = set()

    def read(name: str, body: bytes) -> None:
        np.add(total, packing.unpack(body, state.setup.bits, state.setup.length), out=total)  # what goes beyond 2^64 is a multiple of 2^b
        survivors.add(name)

    refused = _read(state, "mask", replies, read)
    _require(state.setup, len(survivors), "sent their vectors")
    packed = packing.pack(total & packing.largest(state.setup.bits), state.setup.bits)
    state = state._replace(survivors=tuple(sorted(survivors)), total=packed)
    peers = _sharing(state)
    requests = {name: bodies.survivors_body([peer.name in survivors for peer in peers[name]]) for name in state.survivors}
    return _asking(state, "unmask", requests), refused


def _revealed(state: ServerState, replies: Iterable[tuple[str, bytes]]) -> tuple[ServerState, Refused]:
    setup, peers = state.setup, _sharing(state)
    members = {member.name: member for member in state.members if member.name in peers}
    shares: dict[str, Shares] = {name: [] for name in members}

    def read(name: str, body: bytes) -> None:
        own, given = bodies.read_revealed(body, len(peers[name]))
        for owner, share in [(name, own), *((peer.name, share) for peer, share in zip(peers[name], given, strict=True))]:
            if share is not None:
                shares[owner].append((members[name].position + 1, share))

    refused = _read(state, "unmask", replies, read)
    alive = set(state.survivors)
    cohort = [
        Shared(member, state.commitments[member.position], name in alive, [peer for peer in peers[name] if peer.name in alive], shares[name])
        for name, member in members.items()
    ]
    left = masks_left(setup, cohort)
    total = masks.add(packing.unpack(state.total, setup.bits, setup.length), left.plus, left.minus, setup.bits)
    refused |= {state.members[place - 1].name: reason for place, reason in left.liars.items()}
    return state._replace(phase="done", requests={}, total=packing.pack(total, setup.bits)), refused


_STEPS: dict[str, Callable[[ServerState, Iterable[tuple[str, bytes]]], tuple[ServerState, Refused]]] = {
    "advertise": _advertised,
    "share": _shared,
    "mask": _masked,
    "unmask": _revealed,
}


def _read(state: ServerState, phase: Phase, replies: Iterable[tuple[str, bytes]], read: Callable[[str, bytes], None]) -> Refused:
    """Give ``read`` every reply that is due, once; the others are refused."""
    seen: set[str] = set()
    refused: Refused = {}
    for name, data in replies:
        try:
            if name not in state.requests:
                raise ArtifactError(f"{name!r} was not asked for phase {phase!r}: it is no member of this round, or it dropped out before")
            if name in seen:
                raise ArtifactError(f"{name!r} answered phase {phase!r} twice: its first answer counts")
            read(name, expect(data, Header(phase, "reply", state.setup.session, state.setup.round, name)))
            seen.add(name)
        except ArtifactError as error:
            refused[name] = str(error)
    return refused


def _asking(state: ServerState, phase: Phase, requests: dict[str, bytes]) -> ServerState:
    sealed = {name: seal(Header(phase, "request", state.setup.session, state.setup.round, name), body) for name, body in requests.items()}
    return state._replace(phase=phase, requests=sealed)


def _rows(state: ServerState) -> list[list[int]]:
    """The positions of each member's neighbours."""
    setup = state.setup
    rows: list[list[int]] = graph.neighbours(graph.seed(setup.session, setup.round), len(state.members), setup.degree).tolist()
    return rows


def _sharing(state: ServerState) -> dict[str, list[Peer]]:
    """For each client that shared its neighbours that shared, in order."""
    there, rows = [bool(commitment) for commitment in state.commitments], _rows(state)
    return {name: [state.members[j] for j in rows[i] if there[j]] for i, name, *_ in state.members if there[i]}


def _require(setup: Setup, clients: int, what: str) -> None:
    if clients < setup.threshold:
        raise QuorumError(
            f"{clients} clients {what}, {setup.threshold} are needed: no sum was made and nothing was revealed; repeat in a new session"
        )
