"""The protocol: exact sums whoever drops out, nothing in clear, uniform to the server, and the same after every kill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metabayfl import random, wire
from metabayfl.errors import ArtifactError, QuorumError
from metabayfl.privacy.secure_aggregation import client, graph, keys, masks, packing, secure_sum, server, session, shamir
from metabayfl.privacy.secure_aggregation.fixed_point import digest, encode, encoding, levels, modulus_bits
from metabayfl.privacy.secure_aggregation.messages import PHASES, Phase
from metabayfl.privacy.secure_aggregation.primitives import KEY_BYTES, decrypt, fresh
from secure_round import play, setup, summed, terms, vectors

COUNTED_WHEN_LOST = "unmask"
"""The one phase in which a client that falls silent is in the sum already."""


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("lost", range(6))
def test_the_sum_is_exact_for_up_to_t_drop_outs_and_one_more_at_each_phase(phase: Phase, lost: int) -> None:
    """Nine clients with a threshold of four: five may go."""
    inputs = vectors(9)
    gone = {f"site-{i}" for i in range(1, 1 + lost)}
    played = play(setup(4, 8), inputs, {phase: gone})
    counted = set(inputs) if phase == COUNTED_WHEN_LOST else set(inputs) - gone
    assert set(played.state.survivors) == counted
    assert played.total == summed(inputs, counted)
    assert played.refused == {}


@pytest.mark.parametrize("phase", PHASES)
def test_below_the_threshold_there_is_one_error_and_no_sum(phase: Phase) -> None:
    inputs = vectors(9)
    with pytest.raises(QuorumError, match=r"3 (clients|good shares) .*4 are needed: no sum was made"):
        play(setup(4, 8), inputs, {phase: {f"site-{i}" for i in range(6)}})


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_drop_outs_at_all_phases_give_the_exact_sum_or_an_error(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    threshold = data.draw(st.integers(2, count))
    bits = data.draw(st.integers(1, 64))
    inputs = vectors(count, bits=bits, length=3, seed=count)
    when = data.draw(st.lists(st.sampled_from([None, *PHASES]), min_size=count, max_size=count))
    drop = {phase: {name for name, at in zip(inputs, when, strict=True) if at == phase} for phase in PHASES}
    if sum(at is None for at in when) < threshold:
        with pytest.raises(QuorumError):
            play(setup(threshold, count - 1, bits=bits, length=3), inputs, drop)
        return
    played = play(setup(threshold, count - 1, bits=bits, length=3), inputs, drop)
    assert played.total == summed(inputs, {name for name, at in zip(inputs, when, strict=True) if at in (None, COUNTED_WHEN_LOST)}, bits)


@pytest.mark.parametrize("seed", range(8))
def test_sums_over_a_sparse_graph_are_exact(seed: int) -> None:
    """Forty clients with twelve neighbours each; a fifth goes, spread over the phases."""
    inputs = vectors(40)
    order = np.random.default_rng(seed).permutation(40)[:8]
    drop = {phase: {f"site-{i}" for i in order[2 * at : 2 * at + 2]} for at, phase in enumerate(PHASES)}
    played = play(setup(5, 12, number=seed), inputs, drop)
    assert played.total == summed(inputs, set(inputs) - drop["advertise"] - drop["share"] - drop["mask"])
    assert all(len(state.peers) <= 12 for state in played.clients.values())


def test_fewer_clients_than_invited_may_make_the_graph_complete() -> None:
    inputs = vectors(20)
    played = play(setup(4, 12), inputs, {"advertise": {f"site-{i}" for i in range(9)}})
    assert played.total == summed(inputs, {f"site-{i}" for i in range(9, 20)})


def test_the_whole_session_in_one_call_counts_who_stayed_and_what_it_cost() -> None:
    inputs = vectors(70)
    outcome = secure_sum(inputs, 20, drop={"share": {"site-3"}, "mask": {"site-4"}, "unmask": {"site-5"}})
    assert outcome.total.tolist() == summed(inputs, set(inputs) - {"site-3", "site-4"})
    assert set(outcome.clients) == set(inputs) - {"site-3", "site-4"}
    assert outcome.refused == {}
    assert outcome.costs["site-1"].sent > outcome.costs["site-4"].sent > outcome.costs["site-3"].sent > 0
    assert outcome.costs["site-1"].received > 0
    assert min(outcome.costs["site-1"].seconds, outcome.server_seconds) > 0
    with pytest.raises(QuorumError):
        secure_sum(vectors(4), 20, drop={"mask": {"site-1", "site-2"}})


def test_a_client_without_enough_peers_refuses_and_the_others_go_on() -> None:
    """All four neighbours of one of twelve clients fall silent: it has nobody to hide among, and nobody has a mask with it."""
    inputs, of = vectors(12), setup(3, 4)
    names = sorted(inputs)
    rows = graph.neighbours(graph.seed(of.session, of.round), 12, 4)
    gone = {names[i] for i in rows[5]}
    outcome = session.run(of, inputs, {"share": gone})
    assert list(outcome.refused) == [names[5]]
    assert f"0 neighbours of '{names[5]}' shared their secrets" in outcome.refused[names[5]]
    assert outcome.total.tolist() == summed(inputs, set(inputs) - gone - {names[5]})


# --- what the server sees ---------------------------------------------------------------------------------------------------------------


def test_ten_thousand_masked_messages_of_one_input_are_uniform() -> None:
    """Chi-square over all values of every number, and over pairs of neighbours; the input is fixed, the keys are fresh each time."""
    length, draws = 4, 10_000
    of = setup(2, 1, bits=8, length=length)  # a byte a number, so that the reply can be read as it is
    played = play(of, vectors(2, bits=8, length=length), until="unmask")
    state, request = played.before["mask", "site-1"], played.requests["mask", "site-1"]
    assert state is not None
    fixed = np.array([5, 5, 0, 255], np.uint64)
    bodies = [client.mask(state._replace(root=fresh()), request, fixed)[1][-length - 4 : -4] for _ in range(draws)]
    seen = np.frombuffer(b"".join(bodies), np.uint8).reshape(draws, length).astype(int)
    assert all(stats.chisquare(np.bincount(column, minlength=256)).pvalue > 1e-6 for column in seen.T)
    pairs = seen[:, :-1] // 16 * 16 + seen[:, 1:] // 16
    assert stats.chisquare(np.bincount(pairs.reshape(-1), minlength=256)).pvalue > 1e-6
    assert abs(np.corrcoef(seen.T) - np.eye(length)).max() < 6 / np.sqrt(draws)


@pytest.mark.parametrize("known", ["seed", "masking"])
def test_the_message_stays_uniform_when_one_of_the_two_secrets_is_known(known: str) -> None:
    """What is left when the server has rebuilt the client's seed, as it does of a survivor, or its masking key, as of one that dropped out."""
    of = setup(2, 1, bits=8, length=4)
    played = play(of, vectors(2, bits=8, length=4), until="unmask")
    state, request = played.before["mask", "site-1"], played.requests["mask", "site-1"]
    assert state is not None
    nothing, left = np.zeros(4, np.uint64), []
    for _ in range(1500):
        with_fresh_keys = state._replace(root=fresh())
        hidden = np.frombuffer(client.mask(with_fresh_keys, request, nothing)[1][-8:-4], np.uint8)
        own = masks.add(nothing, [keys.self_mask(client._secret(with_fresh_keys, "seed"), of, "site-1")], [], 8).astype(np.uint8)
        left.append(hidden - own if known == "seed" else own)
    assert stats.chisquare(np.bincount(np.concatenate(left), minlength=256)).pvalue > 1e-6


def windows(data: bytes) -> set[bytes]:
    return {data[i : i + 8] for i in range(len(data) - 7)}


def test_nothing_that_matters_is_in_the_transcript_in_clear() -> None:
    tree = {"update": {"z": torch.zeros(30)}, "weight": torch.zeros(()), "metrics": {"loss": torch.zeros(()), "loss_weight": torch.zeros(())}}
    how = encoding(tree, {"update": 1.0, "weight": levels(16), "metrics": 1e4}, bits=16, cohort=6)
    inputs, told = {}, b""
    for i in range(6):
        key = random.key(i)
        value = {"update": {"z": 2 * random.uniform(key, (30,)) - 1}, "weight": torch.tensor(731.0 + i)}
        value["metrics"] = {"loss": torch.tensor(1234.567 + i), "loss_weight": torch.tensor(731.0 + i)}
        vector = encode(how, value, random.uniform(key, (33,), torch.float64).numpy())
        inputs[f"site-{i}"] = vector
        told += packing.pack(vector, modulus_bits(how)) + vector.astype("<u8").tobytes() + vector.astype("<u4").tobytes()
        told += b"".join(wire.raw_bytes(leaf) + wire.raw_bytes(leaf.double()) for leaf in wire.ordered(value).values())
    of = setup(3, 5, bits=modulus_bits(how), length=33)._replace(about=digest(how))
    played = play(of, inputs, {"mask": {"site-4"}, "unmask": {"site-5"}})
    assert played.total == summed(inputs, {f"site-{i}" for i in (0, 1, 2, 3, 5)}, modulus_bits(how))
    hidden = told
    for i in range(6):
        state = played.before["mask" if i != 4 else "share", f"site-{i}"]
        assert state is not None
        hidden += state.root + b"".join(client._secret(state, purpose) for purpose in ("transport", "masking", "seed", "shares"))
        hidden += b"".join(state.inboxes)
    assert windows(played.transcript).isdisjoint(windows(hidden))
    assert len(windows(hidden)) > 5000


def test_for_each_peer_one_kind_of_share_is_revealed_and_the_other_never_leaves() -> None:
    played = play(setup(3, 5), vectors(6), {"mask": {"site-2"}})
    withheld = b""
    for name in played.state.survivors:
        state = played.before["unmask", name]
        assert state is not None
        for peer, key, parcel in zip(state.peers, state.inboxes, state.parcels, strict=True):
            pair = decrypt(key, parcel, keys.named("parcel", state.setup, peer.name, name))
            masking, seed = pair[:KEY_BYTES], pair[KEY_BYTES:]
            given, kept = (masking, seed) if peer.name == "site-2" else (seed, masking)
            assert given in played.replies["unmask", name]
            withheld += kept
    assert windows(played.transcript).isdisjoint(windows(withheld))


def test_colluders_below_the_threshold_have_too_few_shares_of_either_secret() -> None:
    """The server and two of six clients with a threshold of three: what they hold of a survivor's key is two shares, whose secret is another."""
    played = play(setup(3, 5), vectors(6))
    target = played.before["mask", "site-0"]
    assert target is not None
    held = []
    for name in ("site-1", "site-2"):
        state = played.before["unmask", name]
        assert state is not None
        at = [peer.name for peer in state.peers].index("site-0")
        pair = decrypt(state.inboxes[at], state.parcels[at], keys.named("parcel", state.setup, "site-0", name))
        held.append((state.position + 1, pair[:KEY_BYTES]))
    with pytest.raises(ArtifactError, match="2 shares"):
        shamir.combine(held, 3)
    assert shamir.combine(held, 2) != client._secret(target, "masking")


# --- killed and resumed -----------------------------------------------------------------------------------------------------------------


def no_second_vector() -> np.ndarray:
    raise AssertionError("a vector is masked once")


def test_a_request_that_comes_again_gets_the_same_bytes() -> None:
    played = play(setup(3, 5), vectors(6), {"mask": {"site-2"}})
    for (phase, name), reply in played.replies.items():
        before, request = played.before[phase, name], played.requests[phase, name]
        if phase == "advertise":
            continue
        state, again = client.answer(before, request, name, terms(setup(3, 5)), lambda name=name: vectors(6)[name])
        assert again == reply, "killed before the state was kept"
        kept = client.from_bytes(client.to_bytes(state))
        assert client.answer(kept, request, name, terms(setup(3, 5)), no_second_vector) == (kept, reply), "killed after"


@pytest.mark.parametrize("phase", PHASES)
def test_a_server_killed_in_a_phase_asks_again_and_ends_with_the_same_sum(phase: Phase) -> None:
    inputs = vectors(5)
    of = setup(3, 4)
    played = play(of, inputs, until=phase)
    state, clients = server.from_bytes(server.to_bytes(played.state)), dict(played.clients)
    half = dict(list(state.requests.items())[:3])
    for name, request in half.items():  # these replies are lost with the server
        clients[name], _ = client.answer(clients.get(name), request, name, terms(of), lambda name=name: inputs[name])
    while state.phase != "done":
        arrived = []
        for name, request in state.requests.items():
            clients[name], reply = client.answer(clients.get(name), request, name, terms(of), lambda name=name: inputs[name])
            arrived.append((name, reply))
        state, refused = server.advance(state, arrived)
        assert refused == {}
    assert server.result(state).total.tolist() == summed(inputs, set(inputs))


def test_secrets_are_dropped_when_they_have_served() -> None:
    played = play(setup(3, 5), vectors(6))
    assert played.before["mask", "site-1"].root
    after_mask, after_unmask = played.before["unmask", "site-1"], played.clients["site-1"]
    assert after_mask.root == b""
    assert after_mask.inboxes
    assert (after_unmask.root, after_unmask.inboxes, after_unmask.parcels, after_unmask.own) == (b"", (), (), b"")


def test_keys_are_fresh_in_every_round_and_session() -> None:
    played = [play(setup(2, 2, number=number), vectors(3), until="mask") for number in (1, 1, 2)]
    public = [key for record in played for member in record.state.members for key in (member.transport, member.mask)]
    assert len(set(public)) == len(public) == 18


def test_the_sum_does_not_depend_on_the_keys_or_on_the_order_of_replies() -> None:
    inputs = vectors(6)
    assert play(setup(3, 5), inputs).total == play(setup(3, 5), dict(reversed(inputs.items()))).total


def test_results_come_only_at_the_end() -> None:
    state = server.begin(setup(2, 3), vectors(4))
    with pytest.raises(ArtifactError, match="still waits for the replies of phase 'advertise'"):
        server.result(state)
    done = play(setup(2, 3), vectors(4)).state
    with pytest.raises(ArtifactError, match="this round is over"):
        server.advance(done, [])
