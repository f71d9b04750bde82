"""The client's half of the protocol: four steps, each from a state and a request to a new state and a reply.

Only the first step draws at random: 32 bytes from the operating system, from which every key, seed and share of the round comes.
So a step that is repeated gives the same bytes, and a process that was killed before it kept its state may run it again. **Keep the new state
before the reply leaves.** A request that was answered already, to the byte, gets the kept reply again; any other request for a phase that is over is
refused. In particular one list of survivors is answered in a round, so for each peer either a share of its seed or one of its key is given, never
both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metabayfl.errors import ArtifactError, ConfigError, QuorumError
from metabayfl.privacy.secure_aggregation import bodies, graph, keys, masks, packing, records, shamir
from metabayfl.privacy.secure_aggregation.bodies import Peer
from metabayfl.privacy.secure_aggregation.messages import PHASES, Header, Phase, Setup, check_name, expect, seal, unseal
from metabayfl.privacy.secure_aggregation.primitives import KEY_BYTES, NONCE_BYTES, agreement, decrypt, derive, encrypt, fresh, keystream, public_key


class Terms(NamedTuple):
    """What a client takes part in; an invitation to anything else is refused."""

    length: int  # L: numbers in its vector
    bits: int  # b: they are integers modulo 2^b
    about: bytes = bytes(KEY_BYTES)  # digest of what the numbers mean (fixed_point.digest)
    threshold: int = 2  # the smallest t that it accepts: t - 1 clients may collude with the server


class ClientState(NamedTuple):
    """What a client keeps between two messages; secrets are in it, and are dropped as soon as they have served."""

    name: str
    setup: Setup
    phase: Phase  # that was answered last
    asked: bytes  # digest of the request that was answered last
    reply: bytes  # the answer to it
    root: bytes  # the round's 32 secret bytes; empty once the vector is masked
    position: int = 0  # among the clients that advertised keys, by name
    peers: tuple[Peer, ...] = ()  # its neighbours; once the vector is masked, those of them that shared
    inboxes: tuple[bytes, ...] = ()  # keys under which they send shares
    own: bytes = b""  # its own share of its seed
    parcels: tuple[bytes, ...] = ()  # encrypted shares from the peers

    def __repr__(self) -> str:
        """Nothing secret: states end up in logs."""
        return f"ClientState({self.name!r}, round {self.setup.round}, answered {self.phase!r}, {len(self.peers)} peers)"


def answer(state: ClientState | None, request: bytes, name: str, terms: Terms, vector: Callable[[], NDArray[np.uint64]]) -> tuple[ClientState, bytes]:
    """Whatever the server asks: one call for a client that handles a message at a time.

    Args:
        state: what the client kept, None if nothing.
        request: the server's message.
        name: the client's own.
        terms: what it takes part in.
        vector: called in the phase ``mask`` alone, and once in a round: the client's integers, uint64 ``(L,)`` below ``2^b``.

    Returns:
        The state to keep, first, and the reply to send, second.

    Raises:
        ArtifactError: if the request is damaged, foreign, replayed, out of turn, or does not keep to the protocol.
        QuorumError: if too few peers are left to hide among.
    """
    header, _ = unseal(request)
    if state is not None and _digest(request) == state.asked:
        return state, state.reply
    if header.phase == "advertise":
        _refuse_again(state, header)
        return advertise(request, name, terms)
    if state is None:
        raise ArtifactError(
            f"{name!r} was asked for phase {header.phase!r} of a round it knows nothing of: it was not answered; wait for the next round"
        )
    if header.phase == "share":
        return share(state, request)
    return mask(state, request, vector()) if header.phase == "mask" else unmask(state, request)


def advertise(request: bytes, name: str, terms: Terms) -> tuple[ClientState, bytes]:
    """Accept an invitation: two fresh public keys, one to encrypt shares with, one to make masks (Bonawitz et al. 2017, Figure 4, round 0)."""
    header, _ = unseal(request)
    body = expect(request, Header("advertise", "request", header.session, header.round, check_name(name)))
    setup = bodies.read_setup(header, body)
    if (setup.length, setup.bits, setup.about) != (terms.length, terms.bits, terms.about) or setup.threshold < terms.threshold:
        raise ArtifactError(f"the server invites to {setup}, this client takes part in {terms}: both ends must have one configuration")
    state = ClientState(name, setup, "advertise", _digest(request), b"", fresh())
    transport, masking = (public_key(_secret(state, purpose)) for purpose in ("transport", "masking"))
    return _replied(state, request, "advertise", bodies.keys_body(transport, masking))


def share(state: ClientState, request: bytes) -> tuple[ClientState, bytes]:
    """Give every neighbour a share of the masking key and of the self-mask's seed, encrypted for it alone (Figure 4, round 1)."""
    body = _due(state, request, "share")
    position, peers = _listed(state, body)
    setup, seed, agree = state.setup, _secret(state, "seed"), agreement(_secret(state, "transport"))
    places = [place + 1 for place in (position, *(peer.position for peer in peers))]
    coefficients, nonces = _drawn(state, request, len(peers))
    own, *shares = shamir.share(_secret(state, "masking") + seed, places, setup.threshold, coefficients)
    pairs = [keys.parcels(agree(peer.transport), setup, state.name, peer.name) for peer in peers]
    parcels = [
        encrypt(pair.out, nonce, part, _parcel(setup, state.name, peer.name))
        for pair, nonce, part, peer in zip(pairs, nonces, shares, peers, strict=True)
    ]
    state = state._replace(position=position, peers=peers, inboxes=tuple(pair.back for pair in pairs), own=own[KEY_BYTES:])
    return _replied(state, request, "share", bodies.shares_body(keys.commitment(seed, setup, state.name), parcels))


def mask(state: ClientState, request: bytes, vector: NDArray[np.uint64]) -> tuple[ClientState, bytes]:
    """The vector plus the client's own mask and the masks it shares with its peers (Figure 4, round 2).

    ``y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)  (mod 2^b)`` over the neighbours ``v`` that shared.
    """
    parcels = bodies.read_parcels(_due(state, request, "mask"), len(state.peers))
    there = [i for i, parcel in enumerate(parcels) if parcel is not None]
    peers = tuple(state.peers[i] for i in there)
    _require(state, len(peers), "shared their secrets")
    setup, agree = state.setup, agreement(_secret(state, "masking"))
    pairs = [keys.pair_mask(agree(peer.mask), setup, state.name, peer.name) for peer in peers]
    after = [key for key, peer in zip(pairs, peers, strict=True) if peer.position > state.position]
    before = [key for key, peer in zip(pairs, peers, strict=True) if peer.position < state.position]
    hidden = masks.add(_checked(vector, setup), [keys.self_mask(_secret(state, "seed"), setup, state.name), *after], before, setup.bits)
    inboxes = tuple(state.inboxes[i] for i in there)
    state = state._replace(root=b"", peers=peers, inboxes=inboxes, parcels=tuple(parcel for parcel in parcels if parcel is not None))
    return _replied(state, request, "mask", packing.pack(hidden, setup.bits))


def unmask(state: ClientState, request: bytes) -> tuple[ClientState, bytes]:
    """For each peer a share: of its seed if its vector arrived, of its masking key if it dropped out (Figure 4, round 4)."""
    alive = bodies.read_survivors(_due(state, request, "unmask"), len(state.peers))
    _require(state, sum(alive), "sent their vectors")
    shares = [_opened(state, i) for i in range(len(state.peers))]
    given = [pair and (pair[KEY_BYTES:] if there else pair[:KEY_BYTES]) for pair, there in zip(shares, alive, strict=True)]
    body = bodies.revealed_body(state.own, given)
    return _replied(state._replace(inboxes=(), parcels=(), own=b""), request, "unmask", body)


def to_bytes(state: ClientState) -> bytes:
    """A state for the disk; it holds secrets, so nobody but the client may read that file."""
    return records.to_bytes(state)


def from_bytes(data: bytes) -> ClientState:
    """The inverse of :func:`to_bytes`.

    Raises:
        ArtifactError: if the bytes are damaged or no client's state.
    """
    state = records.from_bytes(ClientState, data)
    if len(state.inboxes) not in (0, len(state.peers)) or len(state.parcels) not in (0, len(state.peers)):
        raise ArtifactError(f"the state of {state.name!r} contradicts itself: this round is lost, wait for the next")
    return state


def _replied(state: ClientState, request: bytes, phase: Phase, body: bytes) -> tuple[ClientState, bytes]:
    reply = seal(Header(phase, "reply", state.setup.session, state.setup.round, state.name), body)
    return state._replace(phase=phase, asked=_digest(request), reply=reply), reply


def _due(state: ClientState, request: bytes, phase: Phase) -> bytes:
    """The request's body, if it is the one that comes next."""
    body = expect(request, Header(phase, "request", state.setup.session, state.setup.round, state.name))
    if PHASES.index(phase) != PHASES.index(state.phase) + 1:
        raise ArtifactError(f"{state.name!r} answered phase {state.phase!r} last and was asked for {phase!r}: a phase is answered once, and in order")
    return body


def _refuse_again(state: ClientState | None, header: Header) -> None:
    if state is not None and header.session == state.setup.session and header.round <= state.setup.round:
        raise ArtifactError(
            f"{state.name!r} was invited to round {header.round} after round {state.setup.round} of the same session: the invitation was replayed, "
            f"and not answered; a round that failed is repeated in a new session"
        )


def _listed(state: ClientState, body: bytes) -> tuple[int, tuple[Peer, ...]]:
    """The client's position and its neighbours, after all that can be checked of them."""
    setup = state.setup
    count, position = bodies.read_place(body)
    try:
        row = graph.neighbours(graph.seed(setup.session, setup.round), count, setup.degree)[position]
    except ConfigError as error:
        raise ArtifactError(f"the server's list fits no graph ({error}): it was not answered") from error
    peers = bodies.read_peers(body, row.tolist())
    _require(state, len(peers), "advertised keys")
    names = [peer.name for peer in sorted([*peers, Peer(position, state.name, b"", b"")])]
    if names != sorted(set(names)):
        raise ArtifactError("the server's list names a client twice or out of order: it was not answered")
    public = [public_key(_secret(state, purpose)) for purpose in ("transport", "masking")] + [
        key for peer in peers for key in (peer.transport, peer.mask)
    ]
    if len(set(public)) != len(public):
        raise ArtifactError("a public key stands twice in the server's list: somebody may pose as two clients, so it was not answered")
    return position, peers


def _drawn(state: ClientState, request: bytes, count: int) -> tuple[bytes, list[bytes]]:
    """Coefficients of the shares and nonces of the parcels: the same for the same request, others for any other, so no nonce comes back."""
    size = shamir.coefficient_bytes(2 * KEY_BYTES, state.setup.threshold)
    drawn = keystream(derive(_secret(state, "shares"), _digest(request)), size + count * NONCE_BYTES)
    return drawn[:size], [drawn[start : start + NONCE_BYTES] for start in range(size, len(drawn), NONCE_BYTES)]


def _require(state: ClientState, peers: int, what: str) -> None:
    if peers + 1 < state.setup.threshold:
        raise QuorumError(
            f"{peers} neighbours of {state.name!r} {what}; to hide among them takes {state.setup.threshold} with itself: the request was not answered"
        )


def _checked(vector: NDArray[np.uint64], setup: Setup) -> NDArray[np.uint64]:
    if vector.dtype != np.uint64 or vector.shape != (setup.length,) or (vector > packing.largest(setup.bits)).any():
        raise ConfigError(f"a vector of {vector.dtype} {list(vector.shape)}, expected uint64 [{setup.length}] below 2^{setup.bits}: encode it first")
    return vector


def _opened(state: ClientState, i: int) -> bytes | None:
    """A peer's pair of shares; None if it sent something that cannot be opened, which must not cost this client its place."""
    try:
        return decrypt(state.inboxes[i], state.parcels[i], _parcel(state.setup, state.peers[i].name, state.name))
    except ArtifactError:
        return None


def _parcel(setup: Setup, sender: str, receiver: str) -> bytes:
    return keys.named("parcel", setup, sender, receiver)


def _secret(state: ClientState, purpose: str) -> bytes:
    return derive(state.root, keys.named(purpose, state.setup, state.name))


def _digest(request: bytes) -> bytes:
    return hashlib.sha256(request).digest()
