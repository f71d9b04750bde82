"""Messages that are damaged, foreign, replayed, late, false or twice there: refused with a reason, and the round goes on without them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metabayfl.errors import ArtifactError, ConfigError, QuorumError
from metabayfl.privacy.secure_aggregation import bodies, client, server
from metabayfl.privacy.secure_aggregation.client import ClientState
from metabayfl.privacy.secure_aggregation.messages import PHASES, Header, Phase, Setup, seal, unseal
from metabayfl.privacy.secure_aggregation.server import ServerState
from secure_round import SESSION, play, setup, summed, terms, vectors

OF = setup(3, 5)
INPUTS = vectors(6)
OTHERS = set(INPUTS) - {"site-1"}


def altered(data: bytes, **fields: object) -> bytes:
    """A message with other fields in its header and everything else right."""
    header, body = unseal(data)
    return seal(header._replace(**fields), body)


def with_body(data: bytes, body: bytes) -> bytes:
    return seal(unseal(data)[0], body)


def spoiled(phase: Phase, spoil: Callable[[bytes], bytes]) -> Callable[[str, str, bytes], bytes]:
    return lambda at, name, reply: spoil(reply) if (at, name) == (phase, "site-1") else reply


SPOILS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "damaged": (lambda reply: reply[:-9] + bytes([reply[-9] ^ 1]) + reply[-8:], "the checksum does not fit"),
    "cut short": (lambda reply: reply[:-1], "the checksum does not fit"),
    "empty": (lambda reply: b"", "0 bytes are too few"),
    "foreign": (lambda reply: b"\x89PNG" + reply, "expected b'MSA'"),
    "from another session": (lambda reply: altered(reply, session=bytes(16)), "session 0000.*foreign, replayed or late"),
    "from an earlier round": (lambda reply: altered(reply, round=2), "round 2, expected 3: it is foreign, replayed or late"),
    "a request": (lambda reply: altered(reply, way="request"), "way 'request', expected 'reply'"),
    "another client's": (lambda reply: altered(reply, client="site-2"), "client 'site-2', expected 'site-1'"),
    "too long": (lambda reply: with_body(reply, unseal(reply)[1] + b"\0"), "expected"),
    "without a body": (lambda reply: with_body(reply, b""), "expected|does not say|cut short"),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", SPOILS)
def test_a_bad_reply_is_skipped_with_its_reason(phase: Phase, kind: str) -> None:
    spoil, message = SPOILS[kind]
    played = play(OF, INPUTS, {later: {"site-1"} for later in PHASES[PHASES.index(phase) + 1 :]}, spoiled(phase, spoil))
    assert list(played.refused) == ["site-1"]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(played.refused["site-1"])
    assert played.total == summed(INPUTS, set(INPUTS) if phase == "unmask" else OTHERS)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_reply_of_the_phase_before_is_refused(phase: Phase) -> None:
    earlier = PHASES[PHASES.index(phase) - 1]
    kept: dict[str, bytes] = {}

    def replay(at: str, name: str, reply: bytes) -> bytes:
        if name == "site-1":
            kept[at] = reply
        return kept[earlier] if (at, name) == (phase, "site-1") else reply

    played = play(OF, INPUTS, {later: {"site-1"} for later in PHASES[PHASES.index(phase) + 1 :]}, replay)
    assert f"phase '{earlier}', expected '{phase}'" in played.refused["site-1"]


def answers(state: ServerState, clients: dict[str, ClientState]) -> list[tuple[str, bytes]]:
    """Everybody's reply to the requests that are out; the clients' states go on."""
    found = []
    for name, request in state.requests.items():
        clients[name], reply = client.answer(clients.get(name), request, name, terms(OF), lambda name=name: INPUTS[name])
        found.append((name, reply))
    return found


@pytest.mark.parametrize("phase", PHASES)
def test_a_second_answer_and_a_stranger_are_refused_and_the_first_answer_counts(phase: Phase) -> None:
    played = play(OF, INPUTS, until=phase)
    state, clients = played.state, played.clients
    replies = answers(state, clients)
    extra = [replies[1], ("stranger", altered(replies[1][1], client="stranger"))]
    state, refused = server.advance(state, replies + extra)
    assert f"answered phase '{phase}' twice: its first answer counts" in refused[replies[1][0]]
    assert f"'stranger' was not asked for phase '{phase}'" in refused["stranger"]
    while state.phase != "done":
        state, _ = server.advance(state, answers(state, clients))
    assert server.result(state).total.tolist() == summed(INPUTS, set(INPUTS))


def test_a_vector_that_comes_too_late_is_not_used_and_stays_masked() -> None:
    played = play(OF, INPUTS, until="mask")
    in_time = answers(played.state, played.clients)
    late = dict(in_time)["site-1"]
    state, _ = server.advance(played.state, [reply for reply in in_time if reply[0] != "site-1"])
    state, refused = server.advance(state, [*answers(state, played.clients), ("site-1", late)])
    assert "'site-1' was not asked for phase 'unmask': it is no member of this round, or it dropped out before" in refused["site-1"]
    assert server.result(state).total.tolist() == summed(INPUTS, OTHERS)


# --- keys and shares that are false -----------------------------------------------------------------------------------------------------


def test_a_public_key_that_is_there_already_is_refused() -> None:
    copied: list[bytes] = []

    def copy(phase: str, name: str, reply: bytes) -> bytes:
        if phase != "advertise":
            return reply
        copied.append(unseal(reply)[1])
        return with_body(reply, copied[0][:32] + copied[-1][32:])

    with pytest.raises(QuorumError, match="1 clients advertised keys"):
        play(OF, INPUTS, change=copy)
    twice = spoiled("advertise", lambda reply: with_body(reply, unseal(reply)[1][:32] * 2))
    assert "advertised a public key that is there already" in play(OF, INPUTS, {"share": {"site-1"}}, twice).refused["site-1"]


def test_a_key_of_small_order_costs_its_owner_its_place_and_nobody_else() -> None:
    weak = spoiled("advertise", lambda reply: with_body(reply, bytes(32) + unseal(reply)[1][32:]))
    played = play(OF, INPUTS, {"share": {"site-1"}}, weak)
    assert "no usable X25519 key" in played.refused["site-1"]
    assert played.total == summed(INPUTS, OTHERS)


def test_parcels_that_cannot_be_opened_cost_shares_and_not_the_round() -> None:
    """One parcel altered on the way, two exchanged: GCM's tag covers sender and receiver."""

    def change(body: bytes) -> bytes:
        commitment, parcels = bodies.read_shares(body, 5)
        return bodies.shares_body(commitment, [parcels[1], parcels[0], parcels[2][:-1] + bytes([parcels[2][-1] ^ 1]), *parcels[3:]])

    played = play(OF, INPUTS, change=spoiled("share", lambda reply: with_body(reply, change(unseal(reply)[1]))))
    assert played.total == summed(INPUTS, set(INPUTS))
    opened = {}
    for name in OTHERS:
        _, shares = bodies.read_revealed(unseal(played.replies["unmask", name])[1], 5)
        at = [peer.name for peer in played.clients[name].peers].index("site-1")
        opened[name] = shares[at] is not None
        assert sum(share is None for share in shares) == (not opened[name])
    assert opened == {"site-0": False, "site-2": False, "site-3": False, "site-4": True, "site-5": True}


def lying(reply: bytes) -> bytes:
    own, shares = bodies.read_revealed(unseal(reply)[1], 5)
    return with_body(reply, bodies.revealed_body(own, [share and bytes(32) for share in shares]))


@pytest.mark.parametrize("drop", [{}, {"mask": {"site-5"}}])
def test_one_liar_is_found_and_named_and_the_sum_is_exact(drop: dict[str, set[str]]) -> None:
    played = play(OF, INPUTS, drop, spoiled("unmask", lying))
    assert "it gave a false share of the" in played.refused["site-1"]
    assert played.total == summed(INPUTS, set(INPUTS) - drop.get("mask", set()))


def test_too_many_liars_end_the_round_without_a_sum() -> None:
    with pytest.raises(ArtifactError, match="false shares of the seed of 'site-0' are among the 6 that arrived: no sum was made"):
        play(OF, INPUTS, change=lambda phase, name, reply: lying(reply) if phase == "unmask" and name in ("site-1", "site-2") else reply)
    with pytest.raises(ArtifactError, match="false shares"):
        play(setup(6, 5), INPUTS, change=spoiled("unmask", lying))


# --- a server that asks for what it must not have -----------------------------------------------------------------------------------------


def asked(phase: Phase, change: Callable[[bytes], bytes], *, name: str = "site-1") -> None:
    """Hand a changed request to the client in the state in which it expects the right one."""
    played = play(OF, INPUTS)
    client.answer(played.before[phase, name], change(played.requests[phase, name]), name, terms(OF), lambda: INPUTS[name])


@pytest.mark.parametrize("phase", PHASES[1:])
@pytest.mark.parametrize("kind", SPOILS)
def test_a_bad_request_is_not_answered(phase: Phase, kind: str) -> None:
    spoil, message = SPOILS[kind]
    if kind == "a request":
        spoil, message = (lambda request: altered(request, way="reply")), "way 'reply', expected 'request'"
    with pytest.raises(ArtifactError, match=message):
        asked(phase, spoil)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_too_few_peers_are_not_enough_to_hide_among(phase: Phase) -> None:
    def fewer(request: bytes) -> bytes:
        if phase == "share":
            return with_body(request, bodies.peers_body(2, 1, bodies.read_peers(unseal(request)[1], [0, 2, 3, 4, 5])[:1]))
        if phase == "mask":
            parcels = bodies.read_parcels(unseal(request)[1], 5)
            return with_body(request, bodies.parcels_body([parcels[0], None, None, None, None]))
        return with_body(request, bodies.survivors_body([True, False, False, False, False]))

    with pytest.raises(QuorumError, match=r"1 neighbours of 'site-1' .* takes 3 with itself: the request was not answered"):
        asked(phase, fewer)


def relisted(change: Callable[[list[bodies.Peer]], list[bodies.Peer]]) -> Callable[[bytes], bytes]:
    return lambda request: with_body(request, bodies.peers_body(6, 1, change(list(bodies.read_peers(unseal(request)[1], [0, 2, 3, 4, 5])))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda peers: [peers[0], peers[1]._replace(mask=peers[0].mask), *peers[2:]], "a public key stands twice"),
        (lambda peers: [peers[0]._replace(mask=peers[0].transport), *peers[1:]], "a public key stands twice"),
        (lambda peers: [peers[0], peers[1]._replace(name="site-1"), *peers[2:]], "names a client twice or out of order"),
        (lambda peers: [peers[1], peers[0], *peers[2:]], "names a client twice or out of order"),
        (lambda peers: [peers[0]._replace(transport=bytes(32)), *peers[1:]], "no usable X25519 key"),
        (lambda peers: peers[:4], "a list of 4 peers, expected 5"),
    ],
)
def test_a_list_that_cannot_be_right_is_not_answered(change: Callable[[list[bodies.Peer]], list[bodies.Peer]], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        asked("share", relisted(change))


def test_the_clients_own_key_under_another_name_is_not_answered() -> None:
    played = play(OF, INPUTS)
    own = unseal(played.replies["advertise", "site-1"])[1][32:]
    with pytest.raises(ArtifactError, match="somebody may pose as two clients"):
        client.answer(
            played.before["share", "site-1"],
            relisted(lambda peers: [peers[0]._replace(mask=own), *peers[1:]])(played.requests["share", "site-1"]),
            "site-1",
            terms(OF),
            lambda: INPUTS["site-1"],
        )


def test_one_list_of_survivors_is_answered_in_a_round() -> None:
    """The second would give the other share of a peer."""
    played = play(OF, INPUTS)
    second = with_body(played.requests["unmask", "site-1"], bodies.survivors_body([False, True, True, True, True]))
    with pytest.raises(ArtifactError, match="answered phase 'unmask' last and was asked for 'unmask': a phase is answered once, and in order"):
        client.answer(played.clients["site-1"], second, "site-1", terms(OF), lambda: INPUTS["site-1"])


def test_phases_are_answered_in_order() -> None:
    played = play(OF, INPUTS)
    for phase in ("mask", "unmask"):
        with pytest.raises(ArtifactError, match="in order"):
            client.answer(played.before["share", "site-1"], played.requests[phase, "site-1"], "site-1", terms(OF), lambda: INPUTS["site-1"])
        with pytest.raises(ArtifactError, match="a round it knows nothing of"):
            client.answer(None, played.requests[phase, "site-1"], "site-1", terms(OF), lambda: INPUTS["site-1"])


def test_a_replayed_invitation_is_not_answered() -> None:
    played = play(OF, INPUTS)
    for number in (2, 3):
        again = altered(played.requests["advertise", "site-1"], round=number)
        with pytest.raises(ArtifactError, match=f"invited to round {number} after round 3 of the same session: the invitation was replayed"):
            client.answer(played.clients["site-1"], again, "site-1", terms(OF), lambda: INPUTS["site-1"])
    state, _ = client.answer(played.clients["site-1"], altered(again, round=4), "site-1", terms(OF), lambda: INPUTS["site-1"])
    assert state.setup.round == 4


@pytest.mark.parametrize(
    "change", [{"length": 6}, {"bits": 21}, {"about": b"x" * 32}, {"threshold": 2, "degree": 5}], ids=["length", "bits", "meaning", "threshold"]
)
def test_an_invitation_to_something_else_is_not_answered(change: dict[str, object]) -> None:
    invitation = seal(Header("advertise", "request", SESSION, 3, "site-1"), bodies.setup_body(OF._replace(**change)))
    with pytest.raises(ArtifactError, match="both ends must have one configuration"):
        client.answer(None, invitation, "site-1", terms(OF)._replace(threshold=3), lambda: INPUTS["site-1"])


def test_a_graph_that_cannot_be_is_not_answered() -> None:
    """An odd degree among more clients than it covers."""
    of = OF._replace(degree=3, threshold=2)
    invitation = seal(Header("advertise", "request", SESSION, 3, "b"), bodies.setup_body(of))
    state, _ = client.answer(None, invitation, "b", terms(of), lambda: INPUTS["site-1"])
    listed = seal(Header("share", "request", SESSION, 3, "b"), bodies.peers_body(9, 1, []))
    with pytest.raises(ArtifactError, match="fits no graph"):
        client.answer(state, listed, "b", terms(of), lambda: INPUTS["site-1"])


@pytest.mark.parametrize(
    "vector",
    [np.zeros(4, np.uint64), np.zeros(5, np.int64), np.zeros((1, 5), np.uint64), np.full(5, 2**20, np.uint64)],
    ids=["length", "type", "shape", "range"],
)
def test_a_vector_that_is_not_encoded_is_refused_before_anything_is_sent(vector: np.ndarray) -> None:
    played = play(OF, INPUTS, until="unmask")
    with pytest.raises(ConfigError, match=r"expected uint64 \[5\] below 2\^20: encode it first"):
        client.mask(played.before["mask", "site-1"], played.requests["mask", "site-1"], vector)


# --- what a server is asked to begin ------------------------------------------------------------------------------------------------------


def test_rounds_without_sense_are_not_begun() -> None:
    for names in (["a", "b"], ["a", "a", "b"], ["a", "b", ""], []):
        with pytest.raises(ConfigError):
            server.begin(OF, names)
    with pytest.raises(ConfigError, match="threshold <= degree"):
        server.begin(Setup(SESSION, 0, 9, 5, 8, 8), [f"{i}" for i in range(9)])


def test_random_bytes_are_never_a_message() -> None:
    played = play(OF, INPUTS, until="mask")
    generator = np.random.default_rng(0)
    for _ in range(200):
        junk = generator.bytes(int(generator.integers(256)))
        with pytest.raises(ArtifactError):
            client.answer(played.clients["site-1"], junk, "site-1", terms(OF), lambda: INPUTS["site-1"])
        # behind a right header a byte can say "nobody shared", which is a message, though nobody is to answer it
        with pytest.raises((ArtifactError, QuorumError)):
            client.answer(
                played.clients["site-1"], seal(Header("mask", "request", SESSION, 3, "site-1"), junk), "site-1", terms(OF), lambda: INPUTS["site-1"]
            )
