"""A site answers each request once, tells its own log what is wrong, and the server nothing about its data."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from metabayfl import personal
from metabayfl.artifact import load_strategy
from metabayfl.flower import records, site, site_training, store
from metabayfl.flower.node_config import Site, from_node, to_node
from metabayfl.flower.plan import Plan, experiment, from_json, prepared, to_json
from metabayfl.flower.records import REASON, REFUSED, Header, Record, record
from metabayfl.flower.registry import enrolled
from metabayfl.flower.round import strategy_array
from metabayfl.flower.site_data import read
from metabayfl.storage import read_json
from tiny import full_disk

Logs = pytest.LogCaptureFixture


@pytest.fixture
def agreed(rehearsed: Path) -> Plan:
    """A plan with its schema."""
    return from_json(read_json(rehearsed / "server" / "plan.json"))


def request(agreed: Plan, phase: str = "train", number: int = 0, scale: float = 1.0, **body: object) -> Record:
    run = prepared(agreed, Path("nowhere"))
    meta = run.algorithm.init(torch.tensor(5))
    meta["z"]["full"]["dense0"]["weight"] += scale - 1
    header = Header(experiment(agreed), phase, number)
    return record(header, {"plan": to_json(agreed), "cohort": ["h0"], **body}, {"strategy": strategy_array(run, meta)})


def refused(reply: Record) -> str:
    assert set(reply.body) == {REFUSED, REASON}
    assert not reply.arrays
    return str(reply.body[REASON])


def test_the_same_request_again_gets_the_kept_reply_without_a_second_training(
    agreed: Plan, sites: list[Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(agreed)
    first = site.answer(sites[0], asked)
    assert first.body["clients"] == ["h0"]
    monkeypatch.setattr(site_training, "client_message", None)  # a second training would fail
    again = site.answer(sites[0], asked)
    assert records.digest(again) == records.digest(first)
    assert again.header == asked.header


def test_another_strategy_in_the_same_round_is_another_request(agreed: Plan, sites: list[Site]) -> None:
    first, second = site.answer(sites[0], request(agreed)), site.answer(sites[0], request(agreed, scale=2.0))
    assert not torch.equal(first.arrays["0/update"], second.arrays["0/update"])


def test_a_round_from_long_ago_is_refused(agreed: Plan, sites: list[Site]) -> None:
    site.answer(sites[0], request(agreed, number=5))
    assert "train of round 3 was asked for, but this site has answered round 5" in refused(site.answer(sites[0], request(agreed, number=3)))
    assert site.answer(sites[0], request(agreed, number=4)).body["clients"] == ["h0"]  # the server was killed before its checkpoint


def test_a_repeated_run_of_the_same_plan_begins_anew(agreed: Plan, sites: list[Site]) -> None:
    site.answer(sites[0], request(agreed, number=5))
    assert site.answer(sites[0], request(agreed._replace(run="another"), number=0)).body["clients"] == ["h0"]


def test_a_full_disk_is_told_and_nothing_is_kept_or_sent(agreed: Plan, sites: list[Site], caplog: Logs) -> None:
    asked = request(agreed)
    with full_disk():
        reply = site.answer(sites[0], asked)
    assert reply.body[REFUSED] == "storage"
    assert "could not write to its disk" in refused(reply)
    assert "ulimit" in caplog.text  # the remedy, where somebody can act
    assert store.kept_reply(sites[0].folder, asked.header, records.digest(asked)) is None
    assert not list(sites[0].folder.rglob("*.tmp"))
    assert site.answer(sites[0], asked).body["clients"] == ["h0"]  # with room again it goes on


def test_a_full_disk_at_the_end_leaves_no_half_of_a_model(agreed: Plan, sites: list[Site], rehearsed: Path) -> None:
    data = (rehearsed / "server" / "strategy.safetensors").read_bytes()
    asked = request(agreed, "personalize")._replace(arrays={"strategy": torch.frombuffer(bytearray(data), dtype=torch.uint8)})
    with full_disk(len(data)):
        assert "could not write to its disk" in refused(site.answer(sites[0], asked))
    assert not list(sites[0].folder.rglob("posterior.safetensors"))
    assert site.answer(sites[0], asked).counts == {"clients": 1}


def _version(asked: Record, agreed: Plan) -> Record:
    return asked._replace(header=asked.header._replace(version="0.0.1"))


def _protocol(asked: Record, agreed: Plan) -> Record:
    return asked._replace(header=asked.header._replace(protocol=99))


def _experiment(asked: Record, agreed: Plan) -> Record:
    return asked._replace(header=asked.header._replace(experiment="0" * 64))


def _no_plan(asked: Record, agreed: Plan) -> Record:
    return asked._replace(body={})


def _bad_plan(asked: Record, agreed: Plan) -> Record:
    return asked._replace(body={**asked.body, "plan": {**to_json(agreed), "config": {"name": 3}}})


def _phase(asked: Record, agreed: Plan) -> Record:
    return asked._replace(header=asked.header._replace(phase="steal"))


def _stranger(asked: Record, agreed: Plan) -> Record:
    return asked._replace(body={**asked.body, "cohort": ["h1"]})


def _twice(asked: Record, agreed: Plan) -> Record:
    return asked._replace(body={**asked.body, "cohort": ["h0", "h0"]})


def _cut_strategy(asked: Record, agreed: Plan) -> Record:
    return asked._replace(arrays={"strategy": asked.arrays["strategy"][:-1]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_version, "the server runs metabayfl 0.0.1"),
        (_protocol, "install the same"),
        (_experiment, "another experiment than its plan's"),
        (_no_plan, "plan of this federation cannot be read"),
        (_bad_plan, "plan of this federation cannot be read"),
        (_phase, "a request of phase 'steal'"),
        (_stranger, "'h1', which is no training client of this site"),
        (_twice, "names no clients, or one of them twice"),
        (_cut_strategy, "the server's strategy cannot be used"),
    ],
)
def test_a_request_that_cannot_be_is_refused_with_the_reason(change: object, said: str, agreed: Plan, sites: list[Site]) -> None:
    reply = site.answer(sites[0], change(request(agreed), agreed))  # type: ignore[operator]
    assert said in refused(reply)


def _rewritten(where: Site, **columns: object) -> Site:
    pd.read_csv(where.data).assign(**columns).to_csv(where.data, index=False)
    return where


SECRET = 987654.25


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"age": SECRET}, "987654"),  # another unit
        ({"age": "old"}, "age"),
        ({"outcome": ["well", "cured"] * 7}, "cured"),
        ({"sex": ["f", "x"] * 7}, ""),
    ],
)
def test_what_does_not_fit_the_schema_is_told_to_the_log_and_not_to_the_server(
    columns: dict[str, object], said: str, agreed: Plan, sites: list[Site], caplog: Logs
) -> None:
    reply = site.answer(_rewritten(sites[0], **columns), request(agreed, "enrol"))
    if said:
        assert said in caplog.text
        assert "log" in refused(reply)
        assert said not in json.dumps(reply.body)
    else:  # a category that is new has a column of its own
        assert enrolled(reply, "h0")[0] == "h0"


@pytest.mark.parametrize("kept", [1, 0])
def test_too_few_samples_are_an_error_at_the_site(kept: int, agreed: Plan, sites: list[Site], caplog: Logs) -> None:
    pd.read_csv(sites[0].data).head(kept).to_csv(sites[0].data, index=False)
    assert "its log says why" in refused(site.answer(sites[0], request(agreed, "enrol")))
    assert "no client with" in caplog.text or "no row" in caplog.text


def test_a_missing_file_is_an_error_at_the_site(agreed: Plan, sites: list[Site], caplog: Logs) -> None:
    sites[0].data.unlink()
    assert refused(site.answer(sites[0], request(agreed, "enrol")))
    assert "check the site's --data" in caplog.text


def test_a_client_that_diverges_is_named_and_the_others_are_sent(
    tmp_path: Path, agreed: Plan, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "two.csv"
    rows[rows["hospital"].isin(["h0", "h1"])].to_csv(file, index=False)
    both, true_message = Site("two", file, tmp_path / "two", "hospital"), site_training.client_message

    def one_is_nan(local: object, run: object, meta: object, name: str, number: int) -> object:
        message, key = true_message(local, run, meta, name, number)  # type: ignore[arg-type]
        return (message._replace(weight=message.weight * float("nan")) if name == "h1" else message), key

    monkeypatch.setattr(site_training, "client_message", one_is_nan)
    reply = site.answer(both, request(agreed, cohort=["h1", "h0"]))
    assert reply.body["clients"] == ["h0"]
    assert list(reply.body["failed"]) == ["h1"]


def test_own_test_rows_stay_out_of_training(agreed: Plan, sites: list[Site]) -> None:
    local = read(sites[0], agreed)
    (train,), (whole,) = local.train, local.everyone
    assert len(train.rows) == train.support == 11
    assert len(whole.rows) == 14
    assert set(whole.rows[: whole.support]) == set(train.rows)
    again = read(sites[0], agreed)
    assert np.array_equal(again.everyone[0].rows, whole.rows)


def test_every_client_ends_with_its_own_model_and_report(agreed: Plan, sites: list[Site], rehearsed: Path) -> None:
    folder = store.client_home(rehearsed / "kept" / "h0", experiment(agreed), "h0")
    model = personal.load_personal(folder / "posterior.safetensors")
    frame = pd.read_csv(sites[0].data)
    assert len(model.support.mask) == len(frame)  # made from all samples
    assert model.predict(frame).probabilities is not None
    told = read_json(folder / "report.json")
    assert (told["samples"], told["samples_judged"], told["role"]) == (14, 3, "train")
    assert 0 <= told["figures"]["accuracy"] <= 1
    assert told["strategy"] == load_strategy(rehearsed / "server" / "strategy.safetensors").digest()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<!DOCTYPE html>" in page
    assert "the strategy was trained without them" in page


def test_names_of_clients_cannot_leave_the_sites_folder(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "a/b", "..", ".", "x" * 300, "ward 7", "ä"):
        home = store.client_home(tmp_path, "e" * 64, name)
        assert home.resolve().parent == (tmp_path / ("e" * 16) / "clients").resolve()
        assert len(home.name) < 200
    assert store.client_home(tmp_path, "e", "x" * 300) != store.client_home(tmp_path, "e", "x" * 301)


def test_an_unforeseen_error_keeps_its_text_at_the_site(agreed: Plan, sites: list[Site], monkeypatch: pytest.MonkeyPatch, caplog: Logs) -> None:
    from flwr.app import Context, Message, RecordDict

    from metabayfl.flower import client_app
    from metabayfl.flower.codec import from_content
    from metabayfl.flower.flower_transport import outgoing
    from metabayfl.flower.in_process import grid_of

    def broken(*_: object) -> Record:
        raise ZeroDivisionError("patient 4711")

    grid_of(sites)
    monkeypatch.setattr(client_app, "answer", broken)
    reply = client_app.client_app(lambda _: sites[0])(outgoing(2, request(agreed), 5.0), Context(1, 2, {}, RecordDict(), {}))
    assert isinstance(reply, Message)
    assert refused(from_content(reply.content)) == "the site met a ZeroDivisionError; its log has the trace"
    assert "patient 4711" in caplog.text


def test_a_node_without_its_config_says_what_it_lacks() -> None:
    from flwr.app import Context, RecordDict

    from metabayfl.errors import ConfigError
    from metabayfl.flower.client_app import site_of_node

    with pytest.raises(ConfigError, match="folder = None, expected a text"):
        site_of_node(Context(1, 2, {"site": "a", "data": "b"}, RecordDict(), {}))
    with pytest.raises(ConfigError, match="secure-only = 'yes', expected true or false"):
        site_of_node(Context(1, 2, {"site": "a", "data": "b", "folder": "c", "secure-only": "yes"}, RecordDict(), {}))


def test_a_site_can_insist_on_secure_aggregation(agreed: Plan, sites: list[Site]) -> None:
    for phase in ("survey", "enrol", "train"):
        told = refused(site.answer(sites[0]._replace(secure_only=True), request(agreed, phase)))
        assert told == "site 'h0' takes part under secure aggregation alone (--secure-only), and the plan has none: set [train.secure]"


def test_a_node_says_what_its_site_is(tmp_path: Path) -> None:
    for own in (Site("basel", tmp_path / "a b.csv", tmp_path), Site("bern", tmp_path / "x.npz", tmp_path, "ward", secure_only=True)):
        assert from_node(to_node(own)) == own


def test_the_log_names_the_site_and_the_request(agreed: Plan, sites: list[Site], caplog: Logs) -> None:
    with caplog.at_level(logging.ERROR):
        site.answer(sites[0], _stranger(request(agreed, number=3), agreed))
    assert "site h0, train of round 3" in caplog.text
