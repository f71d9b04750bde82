"""Secure aggregation over records: what does not belong is refused, and nothing of a single site is in what travels."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from secure_bench import Bench, bench, kept, play, sealed, seat, straight

from metabayfl import tree
from metabayfl.data import Schema
from metabayfl.engine.cohort import by_columns, upload_key
from metabayfl.engine.rounds import round_key
from metabayfl.errors import FederationError
from metabayfl.flower import records, site, site_training
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import from_json
from metabayfl.flower.records import SECURE, Record
from metabayfl.flower.round import draw, train_requests
from metabayfl.flower.round_secure import FILE
from metabayfl.flower.site_data import read
from metabayfl.privacy.secure_aggregation import packing, server
from metabayfl.privacy.secure_aggregation.messages import seal, unseal


def _flipped(reply: Record) -> Record:
    data = reply.arrays["message"].clone()
    data[-9] ^= 1
    return reply._replace(arrays={"message": data})


def _of_another_site(reply: Record) -> Record:
    header, body = unseal(sealed(reply))
    return _with(reply, seal(header._replace(client="h3"), body))


def _of_another_session(reply: Record) -> Record:
    header, body = unseal(sealed(reply))
    return _with(reply, seal(header._replace(session=bytes(16)), body))


def _of_another_round(reply: Record) -> Record:
    return reply._replace(header=reply.header._replace(round=7))


def _of_another_phase(reply: Record) -> Record:
    return reply._replace(header=reply.header._replace(phase="train"))


def _without_message(reply: Record) -> Record:
    return reply._replace(arrays={"message": reply.arrays["message"].float()})


def _with(reply: Record, sealed: bytes) -> Record:
    return reply._replace(arrays={"message": records.as_array(sealed)})


@pytest.mark.parametrize("clients", [None, [], ["h3"], ["h1", "h1"], [1], [["h1"]]])
def test_a_site_that_names_other_clients_than_it_was_asked_for_is_left_out(clients: object, on: Bench) -> None:
    def answer(name: str, request: Record) -> Record:
        reply = straight(on, name, request)
        return reply._replace(body={"clients": clients, "failed": {}}) if (name, request.header.phase) == ("h1", "advertise") else reply

    gathered = play(on, answer)
    assert gathered.clients == 2
    assert "names" in gathered.skipped["h1"]


@pytest.mark.parametrize("phase", ["advertise", "mask", "unmask"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_flipped, "checksum does not fit"),
        (_of_another_site, "foreign, replayed or late"),
        (_of_another_session, "foreign, replayed or late"),
        (_of_another_round, "another round"),
        (_of_another_phase, "another request"),
        (_without_message, "no message of secure aggregation"),
    ],
)
def test_the_round_goes_on_without_a_site_whose_reply_does_not_belong(
    change: Callable[[Record], Record], said: str, phase: str, on: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def answer(name: str, request: Record) -> Record:
        reply = straight(on, name, request)
        return change(reply) if (name, request.header.phase) == ("h1", phase) else reply

    gathered = play(on, answer)
    if phase == "unmask":  # its vector is in the sum, and the others' shares are enough
        assert gathered.skipped == {}
        assert said in caplog.text
    else:
        assert said in gathered.skipped["h1"]
    assert gathered.clients == (3 if phase == "unmask" else 2)


def told(on: Bench, request: Record, name: str = "h2") -> str:
    reply = site.answer(on.sites[name], request)
    assert not reply.arrays
    return str(reply.body["reason"])


def test_a_site_refuses_what_is_replayed_foreign_or_in_clear(on: Bench, tmp_path: Path, sites: list[Site], schema: Schema) -> None:
    first, second = list[Record](), list[Record]()
    other = on._replace(secret=on.secret._replace(out=tmp_path / "other"))
    play(on, seen=first)
    play(other, seen=second)
    of = {request.header.phase: request for request in first if request.header.phase in SECURE and _for_h2(request)}
    assert set(of) == set(SECURE)
    assert "is over at this site" in told(on, of["advertise"])
    assert "is over at this site" in told(on, of["unmask"])
    newest = {request.header.phase: request for request in second if _for_h2(request)}
    assert "the invitation was replayed" in told(on, newest["advertise"])
    assert "a phase is answered once" in told(on, newest["share"])
    assert site.answer(on.sites["h2"], newest["unmask"]).arrays  # the last request again has its reply again
    assert "holds a message of another" in told(on, newest["mask"]._replace(header=newest["share"].header))
    assert "was not invited to it" in told(on, newest["share"], "h0")
    later = on._replace(state=on.state._replace(round=4))
    play(later)
    assert "the request was replayed, or the server went back" in told(on, newest["unmask"])
    clear = train_requests(on.secret.setting, draw(on.secret.setting.run, on.registry, 0), on.state)["h2"]
    assert "no message leaves this site in clear" in told(on, clear)
    plain = bench(tmp_path, sites, schema, extra="")
    plan, experiment = plain.secret.setting.plan, plain.experiment
    unasked = of["advertise"]._replace(header=of["advertise"].header._replace(experiment=experiment), body={**of["advertise"].body, "plan": plan})
    assert "agreed on no secure aggregation" in told(plain, unasked)
    assert "2 parties" not in told(plain, unasked._replace(body={**unasked.body, "parties": 1}))


def _for_h2(record: Record) -> bool:
    header, _ = unseal(sealed(record))
    return header.client == "h2" and header.way == "request"


@pytest.mark.parametrize(
    "change",
    [
        {"clients": 4},
        {"population": 5},
        {"parties": 2},
    ],
)
def test_a_site_masks_for_nothing_else_than_what_it_is_asked_for(change: dict[str, int], on: Bench) -> None:
    def answer(name: str, request: Record) -> Record:
        return straight(on, name, request._replace(body={**request.body, **change}) if request.header.phase == "advertise" else request)

    with pytest.raises(FederationError, match="both ends must have one configuration"):
        play(on, answer)


def _pieces(on: Bench, name: str) -> list[bytes]:
    """What a site's message would look like in clear: numbers in single and double precision, encoded, weighted, and as integers."""
    run, plan = on.secret.setting.run, from_json(on.secret.setting.plan)
    message, key = site_training.client_message(read(on.sites[name], plan), run, by_columns(on.state.server.meta), name, round_key(0, 0))
    numbers = torch.cat([leaf.flatten() for leaf in tree.leaves(message.update)])
    vector = np.frombuffer(seat(on, name).share.vector, "<u8").astype(np.uint64)
    packed = packing.pack(vector, kept(on).setup.bits)
    pieces = [run.algorithm.up.encode(message.update, upload_key(key))[-64:], vector.tobytes()[:64], message.weight.numpy().tobytes()]
    pieces += [value.numpy().tobytes() for value in message.metrics.values()]
    for values in (numbers, numbers * message.weight):
        pieces += [pair.numpy().tobytes() for pair in values.split(2)]
        pieces += [value.double().numpy().tobytes() for value in values]
    pieces += [number.tobytes() for number in vector] + [packed[at : at + 8] for at in range(0, len(packed) - 8, 8)]
    return [piece for piece in pieces if len(set(piece)) > 2]  # zeros are everywhere


def _bytes(record: Record) -> bytes:
    """A record without the plan and the strategy, which are for all."""
    words = {name: value for name, value in record.body.items() if name != "plan"}
    arrays = [value.numpy().tobytes() for name, value in record.arrays.items() if name != "strategy"]
    return b"|".join([json.dumps([words, record.counts]).encode(), *arrays])


def test_nothing_of_a_single_site_is_in_what_travels_or_at_the_server(on: Bench, tmp_path: Path, sites: list[Site], schema: Schema) -> None:
    seen = list[Record]()
    play(on, seen=seen)
    names = server.result(kept(on)).clients
    travelled = b"|".join([*(_bytes(record) for record in seen), (on.secret.out / FILE).read_bytes()])
    for name in names:
        assert len(pieces := _pieces(on, name)) > 200
        assert not [piece for piece in pieces if piece in travelled]
    plain = bench(tmp_path, sites, schema, extra="")
    drawn = draw(plain.secret.setting.run, plain.registry, 0)
    clear = _bytes(straight(plain, names[0], train_requests(plain.secret.setting, drawn, plain.state)[names[0]]))
    assert len([piece for piece in _pieces(on, names[0]) if piece in clear]) > 20  # what the search would find


def test_the_log_of_the_server_names_who_dropped_out_and_no_number(on: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        play(on, drop={"mask": {"h1"}})
    assert [entry.getMessage() for entry in caplog.records] == ["round 0, mask, site h1: no reply"]
