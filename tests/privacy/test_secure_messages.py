"""Messages and states as bytes: what was written is read, and nothing else is."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabayfl.errors import ArtifactError, ConfigError
from metabayfl.privacy.secure_aggregation import bodies, client, records, server
from metabayfl.privacy.secure_aggregation.bodies import PARCEL_BYTES, Peer
from metabayfl.privacy.secure_aggregation.client import ClientState
from metabayfl.privacy.secure_aggregation.messages import PHASES, Header, Setup, check_name, checked, expect, seal, unseal
from metabayfl.privacy.secure_aggregation.server import ServerState
from secure_round import SESSION, play, setup, vectors

HEADER = Header("share", "reply", SESSION, 7, "Kantonsspital Zürich")
PEERS = [Peer(position, f"site-{position}", bytes([position] * 32), bytes([position + 100] * 32)) for position in (2, 5, 9)]
flags = st.lists(st.booleans(), max_size=20)


def resealed(data: bytes) -> bytes:
    """The same message with a right checksum."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def test_header_and_body_survive() -> None:
    for body in (b"", b"body", bytes(1000)):
        assert unseal(seal(HEADER, body)) == (HEADER, body)
        assert expect(seal(HEADER, body), HEADER) == body


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("phase", "mask", "phase 'mask', expected 'share'"),
        ("way", "request", "way 'request', expected 'reply'"),
        ("session", bytes(16), f"session {'00' * 16}, expected {SESSION.hex()}"),
        ("round", 6, "round 6, expected 7"),
        ("client", "another", "client 'another', expected 'Kantonsspital Zürich'"),
    ],
)
def test_a_message_from_elsewhere_is_refused_by_the_field_that_differs(field: str, value: object, shown: str) -> None:
    with pytest.raises(ArtifactError, match=f"the message has {shown}: it is foreign, replayed or late"):
        expect(seal(HEADER._replace(**{field: value}), b"body"), HEADER)


def test_every_flipped_bit_and_every_cut_is_refused() -> None:
    data = seal(HEADER, b"body")
    for i in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[i // 8] ^= 1 << i % 8
        with pytest.raises(ArtifactError):
            unseal(bytes(damaged))
    for size in range(len(data)):
        with pytest.raises(ArtifactError):
            unseal(data[:size])


@pytest.mark.parametrize(
    ("place", "value", "message"), [(0, 88, "kind b'XSA'"), (3, 2, "version 2"), (4, 4, "phase 4"), (5, 2, "way 2"), (26, 60, "a name of 60")]
)
def test_a_right_checksum_does_not_help_a_wrong_header(place: int, value: int, message: str) -> None:
    data = bytearray(seal(HEADER, b"body"))
    data[place] = value
    with pytest.raises(ArtifactError, match=message):
        unseal(resealed(bytes(data)))


def test_a_name_that_is_no_text_is_refused() -> None:
    data = bytearray(seal(HEADER, b"body"))
    data[30] = 0xFF
    with pytest.raises(ArtifactError, match="no UTF-8 text"):
        unseal(resealed(bytes(data)))


@pytest.mark.parametrize("name", ["", "x" * 256, "ü" * 128])
def test_names_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 255"):
        check_name(name)


@given(flags)
def test_parcels_survive(there: list[bool]) -> None:
    parcels = tuple(bytes([i] * PARCEL_BYTES) if is_there else None for i, is_there in enumerate(there))
    body = bodies.parcels_body(parcels)
    assert bodies.read_parcels(body, len(there)) == parcels
    assert len(body) == -(-len(there) // 8) + sum(there) * PARCEL_BYTES


@given(flags)
def test_survivors_and_shares_survive(there: list[bool]) -> None:
    assert bodies.read_survivors(bodies.survivors_body(there), len(there)) == tuple(there)
    shares = tuple(bytes([i] * 32) if is_there else None for i, is_there in enumerate(there))
    assert bodies.read_revealed(bodies.revealed_body(b"o" * 32, shares), len(there)) == (b"o" * 32, shares)


def test_lists_of_peers_survive() -> None:
    body = bodies.peers_body(12, 3, PEERS)
    assert bodies.read_place(body) == (12, 3)
    assert bodies.read_peers(body, [2, 5, 9]) == tuple(PEERS)


@pytest.mark.parametrize("size", [0, 3, 4, 5, 20, 100, -1])
def test_lists_of_peers_of_another_length_are_refused(size: int) -> None:
    body = bodies.peers_body(12, 3, PEERS)[:size]
    with pytest.raises(ArtifactError, match="send"):
        bodies.read_place(body) and bodies.read_peers(body, [2, 5, 9])


def test_lists_with_more_peers_or_an_impossible_place_are_refused() -> None:
    with pytest.raises(ArtifactError, match="does not fit this round"):
        bodies.read_peers(bodies.peers_body(12, 3, PEERS), [2, 5])
    with pytest.raises(ArtifactError, match="client number 12 of 12"):
        bodies.read_place(bodies.peers_body(12, 12, PEERS))


@pytest.mark.parametrize("extra", [b"\0", None])
def test_bodies_of_another_length_are_refused(extra: bytes | None) -> None:
    def other(body: bytes) -> bytes:
        return body + extra if extra else body[:-1]

    reads = [
        lambda: bodies.read_setup(HEADER, other(bodies.setup_body(setup(2, 4)))),
        lambda: bodies.read_keys(other(bytes(64))),
        lambda: bodies.read_shares(other(bodies.shares_body(bytes(32), [bytes(PARCEL_BYTES)] * 2)), 2),
        lambda: bodies.read_parcels(other(bodies.parcels_body([bytes(PARCEL_BYTES), None])), 2),
        lambda: bodies.read_survivors(other(bodies.survivors_body([True] * 9)), 9),
        lambda: bodies.read_revealed(other(bodies.revealed_body(bytes(32), [bytes(32), None])), 2),
    ]
    for read in reads:
        with pytest.raises(ArtifactError, match="it does not fit this round, and was not used"):
            read()


def test_flags_for_peers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ArtifactError, match="yes or no to 3 peers"):
        bodies.read_survivors(b"\x08", 3)


def test_a_setup_survives_and_one_without_sense_is_refused() -> None:
    given_setup = setup(2, 4)._replace(about=b"a" * 32)
    header = Header("advertise", "request", SESSION, 3, "a")
    assert bodies.read_setup(header, bodies.setup_body(given_setup)) == given_setup
    with pytest.raises(ArtifactError, match="makes no sense, and was not answered"):
        bodies.read_setup(header, bodies.setup_body(given_setup._replace(threshold=6)))
    for change in (
        {"threshold": 1},
        {"bits": 0},
        {"bits": 65},
        {"length": 0},
        {"session": b"short"},
        {"about": b""},
        {"round": -1},
        {"degree": 70_000},
    ):
        with pytest.raises(ConfigError, match="expected 16 bytes"):
            checked(given_setup._replace(**change))


# --- states on the disk -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states() -> tuple[ClientState, ServerState]:
    played = play(setup(2, 3), vectors(4), until="unmask")
    return played.clients["site-1"], played.state


def test_states_survive(states: tuple[ClientState, ServerState]) -> None:
    assert client.from_bytes(client.to_bytes(states[0])) == states[0]
    assert server.from_bytes(server.to_bytes(states[1])) == states[1]


def test_damaged_states_are_refused(states: tuple[ClientState, ServerState]) -> None:
    data = client.to_bytes(states[0])
    damaged = [b"", b"{}", b"[]", b"\xff", data[:-1], data[:500], data + b"x", b"[" * 100_000, data.replace(b"site-1", b"site-2", 1)]
    for other in [*damaged, server.to_bytes(states[1])]:
        with pytest.raises(ArtifactError, match="no whole ClientState of format 1"):
            client.from_bytes(other)


@pytest.mark.parametrize(
    ("index", "value"),
    [(5, 7), (5, "not base64!"), (1, ["%"]), (2, "begin"), (3, 5), (6, True), (6, 1.0), (7, {}), (7, [[1]]), (8, "text"), (9, None)],
)
def test_states_with_fields_of_another_type_are_refused(states: tuple[ClientState, ServerState], index: int, value: object) -> None:
    document = json.loads(client.to_bytes(states[0]))
    document["value"][index] = value
    del document["sha256"]
    resigned = document | {"sha256": records._digest(document)}
    with pytest.raises(ArtifactError, match="no whole ClientState"):
        client.from_bytes(json.dumps(resigned).encode())


def test_a_state_that_contradicts_itself_is_refused(states: tuple[ClientState, ServerState]) -> None:
    with pytest.raises(ArtifactError, match="contradicts itself"):
        client.from_bytes(client.to_bytes(states[0]._replace(inboxes=states[0].inboxes[:1])))


def test_what_is_printed_of_a_state_is_not_secret(states: tuple[ClientState, ServerState]) -> None:
    shown = f"{states[0]} {states[0]!r} {[states[0]]}"
    assert shown.startswith("ClientState('site-1', round 3, answered 'mask', 3 peers)")
    assert not any(repr(secret)[2:-1] in shown for secret in states[0].inboxes)


def test_phases_are_in_order() -> None:
    assert PHASES == ("advertise", "share", "mask", "unmask")
    assert Setup._field_defaults == {"about": bytes(32)}
