"""Rounds under secure aggregation: the engine's bits, exact sums whoever drops out, and the same strategy after every fault."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from hospitals import MakeJob, job_in, write_sites
from secure_bench import EXTRA, Bench, GeometricMedian, Killed, bench, kept, play, sealed, seat, straight
from test_flower_coordinator import Killed as ServerKilled
from test_flower_coordinator import Mortal, final, same
from test_flower_parity import engine

from metabayfl import tree
from metabayfl.data import Schema
from metabayfl.errors import ConfigError, FederationError
from metabayfl.flower import records, site_training, store
from metabayfl.flower.in_process import grid_of, rehearse, run_on
from metabayfl.flower.node_config import Site
from metabayfl.flower.records import SECURE, Record
from metabayfl.flower.round import Gathered
from metabayfl.flower.round_secure import FILE
from metabayfl.flower.strategy import FederatedStrategy
from metabayfl.privacy.secure_aggregation import client, server
from tiny import full_disk

PRIVACY = """
privacy.epsilon = 50.0
privacy.clip = 0.5
privacy.noise_multiplier = 1.0
privacy.answering = 1.0
privacy.source = "seeded"
privacy.sampling = "fixed"
"""


@pytest.fixture(scope="module")
def secure_run(tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame) -> Path:
    """The server's folder of a whole run."""
    folder = tmp_path_factory.mktemp("secure")
    job = job_in(folder, algorithm="fedavg", extra=EXTRA)
    rehearse(job, write_sites(folder, rows))
    return job.out


def equal(one: Gathered, other: Gathered) -> bool:
    return same(one.aggregate.update, other.aggregate.update) and one.clients == other.clients


@pytest.mark.parametrize(
    "extra",
    [
        EXTRA,
        GeometricMedian,
        EXTRA + PRIVACY,
        EXTRA + PRIVACY + 'privacy.mechanism = "discrete_gaussian"',
    ],
    ids=["mean", "geometric median", "central noise", "noise by clients"],
)
def test_a_run_gives_the_engines_bits(extra: str, tmp_path: Path, rows: pd.DataFrame, sites: list[Site], make_job: MakeJob) -> None:
    _, strategy, _, metrics = engine(tmp_path, rows, "fedavg", extra=extra)
    job = make_job(algorithm="fedavg", extra=extra)
    assert same(rehearse(job, sites).meta, strategy.meta)
    told = [json.loads(line) for line in (job.out / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "examples", "clients", "clipped"):
        assert [row[name] for row in told] == [row[name] for row in metrics]
    assert not (job.out / FILE).exists()
    assert not list(tmp_path.rglob("secure/*"))  # nothing secret is left at a site


def test_several_clients_at_a_site_are_summed_there_to_the_engines_bits(tmp_path: Path, rows: pd.DataFrame, make_job: MakeJob) -> None:
    _, strategy, federation, _ = engine(tmp_path, rows, "fedavg", extra=EXTRA)
    sites = []
    for name, hospitals in {"north": ["h0", "h3", "h5"], "south": ["h1", "h2", "h4"]}.items():
        rows[rows["hospital"].isin(hospitals)].to_csv(tmp_path / f"{name}.csv", index=False)
        sites.append(Site(name, tmp_path / f"{name}.csv", tmp_path / "kept" / name, "hospital"))
    assert same(rehearse(make_job(sites=2, algorithm="fedavg", extra=EXTRA, schema=federation.schema), sites).meta, strategy.meta)


@pytest.mark.parametrize("phase", SECURE)
def test_the_sum_is_exact_without_a_site_that_drops_out(phase: str, on: Bench) -> None:
    gathered = play(on, drop={phase: {"h1"}})
    state = kept(on)
    there = {"h1", "h2", "h3"} if phase == "unmask" else {"h2", "h3"}  # after its vector came it is in the sum
    assert set(server.result(state).clients) == there
    own = [[int(number) for number in np.frombuffer(seat(on, name).share.vector, "<u8")] for name in sorted(there)]
    assert server.result(state).total.tolist() == [sum(column) % 2**state.setup.bits for column in zip(*own, strict=True)]
    assert gathered.clients == len(there)
    assert gathered.skipped == ({} if phase == "unmask" else {"h1": "site 'h1': no reply"})


@pytest.mark.parametrize("phase", SECURE)
def test_a_server_that_is_killed_in_any_phase_goes_on_in_the_same_session(phase: str, on: Bench, tmp_path: Path) -> None:
    """Half of the sites have answered when it dies."""
    count: list[str] = []

    def dying(name: str, request: Record) -> Record:
        count.append(request.header.phase)
        if count.count(phase) == 3:
            raise Killed
        return straight(on, name, request)

    with pytest.raises(Killed):
        play(on, dying)
    session = kept(on).setup.session
    gathered = play(on)
    assert kept(on).setup.session == session
    assert seat(on, "h2").sessions == (session,)
    assert equal(gathered, play(on._replace(secret=on.secret._replace(out=tmp_path / "again"))))
    assert gathered.skipped == {}


@pytest.mark.parametrize("phase", SECURE)
def test_a_site_that_is_killed_after_it_kept_its_state_gives_the_same_reply(phase: str, on: Bench) -> None:
    first = list[Record]()

    def lost_once(name: str, request: Record) -> Record:
        reply = straight(on, name, request)
        if request.header.phase == phase and name == "h1":
            first.append(reply)
            again = straight(on, name, request)
            assert records.digest(again) == records.digest(reply)
        return reply

    assert play(on, lost_once).skipped == {}
    assert first


def test_a_sites_state_is_for_its_owner_alone_and_its_secrets_go_when_they_have_served(on: Bench) -> None:
    play(on)
    path = store.seat_path(on.sites["h2"].folder, on.experiment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    state = client.from_bytes(seat(on, "h2").state)
    assert (state.root, state.own, state.inboxes, state.parcels) == (b"", b"", (), ())


@pytest.mark.parametrize("phase", SECURE[1:])
def test_below_the_threshold_the_round_is_repeated_in_a_new_session_with_new_keys(phase: str, on: Bench, tmp_path: Path) -> None:
    more = on._replace(secret=on.secret._replace(setting=on.secret.setting._replace(retries=1)))
    whole = play(on._replace(secret=on.secret._replace(out=tmp_path / "whole")))
    seen, left = list[Record](), [phase]

    def answer(name: str, request: Record) -> Record:
        if request.header.phase == phase and name != "h2" and len(left) <= 2:
            left.append(name)
            return records.refusal(request.header, "storage", "the disk is full")
        return straight(on, name, request)

    assert equal(play(more, answer, seen=seen), whole)
    assert len(seat(on, "h2").sessions) == 3  # the whole one's, the one that failed, and the one that did not
    keys = [sealed(record) for record in seen if record.header.phase == "advertise" and "clients" in record.counts]
    assert len(set(keys)) == len(keys) == 6


def test_a_round_that_never_has_enough_sites_ends_with_the_reasons(on: Bench) -> None:
    on = on._replace(secret=on.secret._replace(setting=on.secret.setting._replace(retries=2)))
    with pytest.raises(FederationError, match=r"round 1 came to nothing after asking 3 times \(1 clients sent their vectors, 2 are needed.*--resume"):
        play(on, drop={"mask": {"h2", "h1"}})
    assert not (on.secret.out / FILE).exists()
    assert play(on).clients == 3  # a later start has all its tries again


def test_below_the_quorum_nothing_is_unmasked(on: Bench) -> None:
    on, seen = on._replace(secret=on.secret._replace(setting=on.secret.setting._replace(quorum=3))), list[Record]()
    with pytest.raises(FederationError, match=r"2 clients are left where 3 are needed \(no reply\)"):
        play(on, drop={"mask": {"h1"}}, seen=seen)
    assert "unmask" not in {record.header.phase for record in seen}


def test_a_sum_with_too_little_noise_is_never_unmasked(tmp_path: Path, sites: list[Site], schema: Schema) -> None:
    on, seen = bench(tmp_path, sites, schema, extra=EXTRA + PRIVACY + 'privacy.mechanism = "discrete_gaussian"'), list[Record]()
    with pytest.raises(FederationError, match="2 clients are left where 3 are needed"):
        play(on, drop={"mask": {"h1"}}, seen=seen)
    assert "unmask" not in {record.header.phase for record in seen}
    assert play(on).clients == 3


def test_a_client_that_diverges_takes_no_part_and_is_named(on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    true_message = site_training.client_message

    def nan(local: object, run: object, meta: object, name: str, number: int) -> object:
        message, key = true_message(local, run, meta, name, number)  # type: ignore[arg-type]
        return (message._replace(weight=message.weight * float("nan")) if name == "h1" else message), key

    monkeypatch.setattr(site_training, "client_message", nan)
    seen = list[Record]()
    gathered = play(on, seen=seen)
    assert "its training diverged" in gathered.skipped["h1"]
    assert gathered.clients == 2
    assert {record.header.phase for record in seen if "h1" in str(record.body.get("cohort"))} == {"advertise"}


def test_a_client_with_too_many_samples_takes_no_part_and_no_number_is_told(
    tmp_path: Path, sites: list[Site], schema: Schema, rows: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    more = pd.concat([rows[rows["hospital"] == "h1"].drop(columns="hospital")] * 2)
    more.to_csv(sites[1].data, index=False)
    gathered = play(bench(tmp_path, sites, schema, extra=EXTRA + "\nsecure.most_samples = 20"))
    assert list(gathered.skipped) == ["h1"]
    assert "28" not in gathered.skipped["h1"]
    assert "28 samples" in caplog.text  # in the site's own log


def test_the_passes_of_a_geometric_median_train_once_and_outlive_the_server(
    tmp_path: Path, sites: list[Site], schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = bench(tmp_path, sites, schema, extra=GeometricMedian)
    whole, passes = play(on), list[str]()
    again = on._replace(secret=on.secret._replace(out=tmp_path / "again"))

    def dying(name: str, request: Record) -> Record:
        passes.append(request.header.phase)
        if passes.count("share") == 8:  # the second site in the third pass
            raise Killed
        return straight(on, name, request)

    monkeypatch.setattr(site_training, "client_message", None)  # the messages of the round are kept
    with pytest.raises(Killed):
        play(again, dying)
    assert equal(play(again), whole)
    paths = [store.messages_path(own.folder, on.experiment) for own in on.sites.values()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths if path.exists()] == [0o600] * 3


def test_a_full_disk_at_a_site_lets_nothing_leave(on: Bench) -> None:
    def answer(name: str, request: Record) -> Record:
        if name != "h1" or request.header.phase != "share":
            return straight(on, name, request)
        with full_disk():
            reply = straight(on, name, request)
        assert not reply.arrays
        return reply

    gathered = play(on, answer)
    assert "could not write to its disk" in gathered.skipped["h1"]
    assert gathered.clients == 2


def test_a_damaged_state_at_a_site_is_told_and_the_round_goes_on(on: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def answer(name: str, request: Record) -> Record:
        if name == "h1" and request.header.phase == "mask":
            path = store.seat_path(on.sites[name].folder, on.experiment)
            path.write_bytes(path.read_bytes()[:-20])
        return straight(on, name, request)

    assert "what this site kept of its round is damaged" in play(on, answer).skipped["h1"]
    assert "delete it" in caplog.text


def test_a_site_answers_one_request_at_a_time(on: Bench) -> None:
    """A request that is sent again while it is being answered must not draw other keys."""
    folder = on.sites["h2"].folder
    with store.alone(folder, on.experiment):
        handle = os.open(store.seat_path(folder, on.experiment).with_name("lock"), os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)


def test_a_cohort_at_one_site_is_left_out_since_its_sum_would_be_the_sites_message(on: Bench) -> None:
    alone = {name: own._replace(site="h0") for name, own in on.registry.items()}
    gathered = play(on._replace(registry=alone))
    assert len(gathered.skipped) == 3
    assert all("its own message" in reason for reason in gathered.skipped.values())
    assert not any(leaf.any() for leaf in tree.leaves(gathered.aggregate.update))


def test_a_state_of_another_cohort_is_not_used(on: Bench) -> None:
    with pytest.raises(FederationError):
        play(on, drop={"share": {"h0", "h1", "h2", "h3"}})
    with pytest.raises(Killed):
        play(on, lambda name, request: _die())
    session = kept(on).setup.session
    moved = {**on.registry, "h1": on.registry["h1"]._replace(site="elsewhere")}
    changed = on._replace(registry=moved, sites={**on.sites, "elsewhere": on.sites["h1"]._replace(name="elsewhere")})
    assert play(changed).clients == 3
    assert kept(on).setup.session != session


def _die() -> Record:
    raise Killed


@pytest.mark.parametrize("at", [5, 8])
def test_a_run_whose_server_is_killed_between_any_two_phases_ends_with_the_same_strategy(
    at: int, secure_run: Path, sites: list[Site], make_job: MakeJob
) -> None:
    job, grid = make_job(algorithm="fedavg", extra=EXTRA), Mortal(grid_of(sites), at, after_sending=True)
    with pytest.raises(ServerKilled):
        run_on(grid, job)
    rehearse(job, sites)
    assert same(final(job.out), final(secure_run))


def test_what_secure_aggregation_cannot_do_is_refused(make_job: MakeJob, sites: list[Site]) -> None:
    with pytest.raises(ConfigError, match="masks is off"):
        make_job(extra="secure.masks = false")
    with pytest.raises(ConfigError, match="median needs each"):
        rehearse(make_job(extra=EXTRA + '\ndefence.combine = "median"'), sites)
    job, grid = make_job("own loop", extra=EXTRA), grid_of(sites)
    with pytest.raises(Exception, match="call this strategy's start"):
        FlowerStrategy.start(FederatedStrategy(job, grid.clock), grid, ArrayRecord(), num_rounds=1)
