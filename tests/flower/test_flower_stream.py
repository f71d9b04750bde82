"""Asynchronous buffered aggregation over Flower: the engine's numbers where everybody is equally fast, and no wait without end where not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import Context, Message
from hospitals import MakeJob
from test_flower_coordinator import NODE, Killed, Mortal, final, same, skipped
from test_flower_parity import engine

from metabayfl.artifact import load_strategy
from metabayfl.errors import ConfigError, FederationError
from metabayfl.flower.codec import from_content
from metabayfl.flower.in_process import InProcessGrid, grid_of, rehearse, run_on
from metabayfl.flower.network import Patience
from metabayfl.flower.node_config import Site

TOGETHER = "asynchronous.concurrency = 3\nasynchronous.buffer = 3"
APART = "asynchronous.concurrency = 4\nasynchronous.buffer = 2"


def told(out: Path, name: str) -> list[object]:
    return [json.loads(line)[name] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_where_all_come_at_once_the_steps_are_rounds(whole: Path, sites: list[Site], make_job: MakeJob) -> None:
    job = make_job(extra=TOGETHER)
    assert same(rehearse(job, sites).meta, load_strategy(whole / "strategy.safetensors").meta)
    assert told(job.out, "staleness") == [0.0, 0.0, 0.0]
    assert told(job.out, "loss") == told(whole, "loss")


@pytest.mark.parametrize("extra", [APART, APART + '\ndefence.combine = "median"\ndefence.share = 0.0', APART + "\nasynchronous.exponent = 2.0"])
def test_with_more_clients_at_work_than_a_buffer_holds_the_bits_are_the_engines(
    extra: str, tmp_path: Path, rows: pd.DataFrame, sites: list[Site], make_job: MakeJob
) -> None:
    _, strategy, _, metrics = engine(tmp_path, rows, "fedavg", extra=extra)
    job = make_job(extra=extra)
    assert same(rehearse(job, sites).meta, strategy.meta)
    for name in ("loss", "examples", "clients", "staleness"):
        assert told(job.out, name) == [row[name] for row in metrics]
    assert told(job.out, "staleness") == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("at", [4, 6])
def test_a_server_that_is_killed_goes_on_with_the_clients_at_work(at: int, sites: list[Site], make_job: MakeJob) -> None:
    """In one process all replies come at once, so that nothing but the restart could change the order."""
    whole, job = make_job("whole", extra=APART), make_job("killed", extra=APART)
    rehearse(whole, sites)
    with pytest.raises(Killed):
        run_on(Mortal(grid_of(sites), at, after_sending=True), job)
    rehearse(job, sites)
    assert same(final(job.out), final(whole.out))
    assert told(job.out, "staleness") == told(whole.out, "staleness")


def late(grid: InProcessGrid, node: int, until: Callable[[int], bool]) -> list[int]:
    """Let one site fail at its first trainings; returns the versions that it was asked for."""
    true, asked = grid.apps[node], list[int]()

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            asked.append(from_content(message.content).header.round)
            if not until(len(asked)):
                raise MemoryError("killed")
        return true(message, context)

    grid.apps[node] = app
    return asked


def test_a_site_that_dies_once_loses_nothing(sites: list[Site], make_job: MakeJob) -> None:
    whole, job, grid = make_job("whole", extra=APART), make_job("hurt", extra=APART), grid_of(sites)
    rehearse(whole, sites)
    asked = late(grid, NODE, lambda count: count > 1)
    run_on(grid, job)
    assert asked[0] == asked[1]  # the same request again
    assert skipped(job.out) == [{}, {}, {}]


def test_a_site_that_never_answers_does_not_stop_the_others(sites: list[Site], make_job: MakeJob) -> None:
    job, grid = make_job(extra=APART), grid_of(sites)
    late(grid, NODE, lambda count: False)
    run_on(grid, job)
    assert told(job.out, "clients") == [2, 2, 2]
    assert any("MemoryError" in row.get("h0", "") for row in skipped(job.out))


def test_messages_that_are_too_stale_are_left_out(sites: list[Site], make_job: MakeJob) -> None:
    """Of four at work two are used, so the others are a step behind, which is one too many here."""
    job = make_job(extra=APART + "\nasynchronous.max_staleness = 0")
    rehearse(job, sites)
    assert told(job.out, "staleness") == [0.0, 0.0, 0.0]
    assert any("more than 0 steps behind" in reason for row in skipped(job.out) for reason in row.values())


def test_when_nobody_answers_any_more_the_run_stops_with_its_checkpoint(sites: list[Site], make_job: MakeJob) -> None:
    patience = Patience(reply=100.0, resend=30.0)
    job, grid = make_job(extra=APART, retries=1, patience=patience), grid_of(sites)
    for node in range(NODE, NODE + 4):
        late(grid, node, lambda count: count < 2)
    with pytest.raises(FederationError, match=r"came to nothing after asking 2 times \(\d messages came: .*MemoryError.*--resume"):
        run_on(grid, job)
    assert grid.clock.now() < 4 * 100
    rehearse(job, sites)
    assert len(told(job.out, "round")) == 3


def test_at_the_deadline_the_quorum_is_enough(sites: list[Site], make_job: MakeJob) -> None:
    job, grid = make_job(extra="asynchronous.concurrency = 4\nasynchronous.buffer = 4", quorum=3), grid_of(sites)
    late(grid, NODE + 2, lambda count: False)
    run_on(grid, job)
    assert grid.clock.now() < 600  # a little after the last one at work, not the deadline
    assert all(clients >= 3 for clients in told(job.out, "clients"))  # type: ignore[operator]


@pytest.mark.parametrize("other", ["secure.clip = 1.0", "privacy.epsilon = 8.0"])
def test_what_needs_to_know_its_cohort_is_refused(other: str, make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match="asynchronous"):
        make_job(extra=f"{APART}\n{other}")
