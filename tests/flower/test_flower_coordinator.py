"""The server's loop when things go wrong: sites that are late, lost, new or lying, and a server that is killed anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from flwr.app import Context, Message
from hospitals import MakeJob

from metabayfl import tree
from metabayfl.artifact import load_strategy
from metabayfl.errors import ArtifactError, ConfigError, FederationError
from metabayfl.flower.codec import from_content, to_content
from metabayfl.flower.coordinator import Options
from metabayfl.flower.in_process import App, InProcessGrid, grid_of, rehearse, run_on
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import plan
from metabayfl.flower.records import Record
from metabayfl.storage import read_json
from metabayfl.tree_file import load_tree
from metabayfl.types import Tree

NODE = 2
"""The node of the first site; the others follow."""


def final(out: Path) -> Tree:
    return load_tree(out / "checkpoint.safetensors", kind="checkpoint")[0]


def same(a: Tree, b: Tree) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def skipped(out: Path) -> list[dict[str, str]]:
    return [json.loads(line)["skipped"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def changed(grid: InProcessGrid, node: int, change: Callable[[Record], Record], phase: str = "train") -> None:
    """Let one site's replies of a phase be changed on their way."""
    true = grid.apps[node]

    def app(message: Message, context: Context) -> Message:
        reply = true(message, context)
        found = from_content(reply.content)
        return Message(to_content(change(found)), reply_to=message) if found.header.phase == phase else reply

    grid.apps[node] = app


def failing(app: App, when: Callable[[str, int], bool]) -> App:
    """An app whose process dies at some of its messages: by message type and by how many of them came before."""
    count: dict[str, int] = {}

    def run(message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        count[kind] = count.get(kind, 0) + 1
        if when(kind, count[kind]):
            raise MemoryError("killed")
        return app(message, context)

    return run


class Killed(BaseException):
    """The server's process is gone."""


class Mortal(InProcessGrid):
    """A grid whose server dies at its n-th exchange with sites: before it sends, or after the replies were made and not yet read."""

    def __init__(self, grid: InProcessGrid, at: int, *, after_sending: bool) -> None:
        super().__init__(grid.apps, grid._configs, grid._names)
        self.left, self.after_sending = at, after_sending

    def push_messages(self, messages: list[Message]) -> list[str]:
        self.left -= 1
        if self.left == 0 and not self.after_sending:
            raise Killed
        tickets = super().push_messages(messages)
        if self.left == 0:
            raise Killed
        return list(tickets)


@pytest.mark.parametrize(("after_sending", "places"), [(True, range(1, 11)), (False, (2, 5))])
def test_a_server_that_is_killed_at_any_exchange_goes_on_to_the_same_strategy(
    after_sending: bool, places: Sequence[int], whole: Path, sites: list[Site], make_job: MakeJob
) -> None:
    for at in places:
        job, grid = make_job(f"killed-{at}"), Mortal(grid_of(sites), at, after_sending=after_sending)
        try:
            run_on(grid, job)
        except Killed:
            assert read_json(job.out / "status.json")["stage"] == "stopped"
            rehearse(job, sites)
        else:
            assert at > 8  # survey, deviate, enrol, three rounds, two looks, delivery
        assert same(final(job.out), final(whole))
    assert load_strategy(whole / "strategy.safetensors").provenance["rounds"] == 3


@pytest.mark.parametrize("kind", ["query.survey", "query.deviate", "query.enrol", "train", "evaluate", "query.personalize"])
def test_a_site_whose_process_dies_once_loses_nothing(kind: str, whole: Path, sites: list[Site], make_job: MakeJob) -> None:
    grid, hurt = grid_of(sites), make_job("hurt")
    for node in list(grid.apps):
        grid.apps[node] = failing(grid.apps[node], lambda given, count: given == kind and count == 1)
    run_on(grid, hurt)
    assert same(final(hurt.out), final(whole))
    assert skipped(hurt.out) == [{}, {}, {}]
    assert read_json(hurt.out / "status.json")["failed"] == {}


def test_a_reply_that_was_made_and_lost_is_given_again(whole: Path, sites: list[Site], make_job: MakeJob) -> None:
    grid, hurt = grid_of(sites), make_job("hurt")
    true, lost = grid.apps[NODE], []

    def app(message: Message, context: Context) -> Message:
        reply = true(message, context)
        if message.metadata.message_type == "train" and not lost:
            lost.append(reply)
            raise MemoryError("killed after the reply was on the disk")
        return reply

    grid.apps[NODE] = app
    run_on(grid, hurt)
    assert lost
    assert same(final(hurt.out), final(whole))


def test_the_status_says_that_the_first_round_has_begun(sites: list[Site], make_job: MakeJob) -> None:
    grid, job = grid_of(sites), make_job()
    true, seen = dict(grid.apps), []

    def app(message: Message, context: Context) -> Message:
        now = read_json(job.out / "status.json")
        seen.append((message.metadata.message_type, now["stage"], now.get("round"), now.get("rounds")))
        return true[context.node_id](message, context)

    grid.apps.update(dict.fromkeys(true, app))
    run_on(grid, job)
    assert seen[0] == ("query.survey", "waiting for sites", None, None)
    assert next(row for row in seen if row[0] == "train") == ("train", "training", 0, 3)


def test_a_site_that_never_answers_is_left_out_and_reported(sites: list[Site], make_job: MakeJob) -> None:
    grid, job = grid_of(sites), make_job(quorum=1)
    grid.apps[NODE + 1] = failing(grid.apps[NODE + 1], lambda kind, count: kind == "train")
    run_on(grid, job)
    assert [set(row) for row in skipped(job.out)].count({"h1"}) >= 1
    assert all("MemoryError" in reason for row in skipped(job.out) for reason in row.values())
    assert read_json(job.out / "status.json")["stage"] == "done"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda reply: reply._replace(arrays={**reply.arrays, "0/weight": reply.arrays["0/weight"] * float("nan")}), "weight of its message"),
        (lambda reply: reply._replace(arrays={**reply.arrays, "0/update": reply.arrays["0/update"][:9]}), "bytes arrived"),
        (lambda reply: reply._replace(header=reply.header._replace(round=reply.header.round + 1)), "another round"),
        (lambda reply: reply._replace(body={"clients": ["h1", "h1"], "failed": {}}), "client twice"),
    ],
)
def test_the_round_goes_on_without_a_site_that_sends_nonsense(
    change: Callable[[Record], Record], said: str, sites: list[Site], make_job: MakeJob
) -> None:
    grid, job = grid_of(sites), make_job()
    changed(grid, NODE + 1, change)
    run_on(grid, job)
    told = [row["h1"] for row in skipped(job.out) if "h1" in row]
    assert told
    assert all(said in reason for reason in told)
    assert all(torch.isfinite(leaf).all() for leaf in tree.leaves(final(job.out)["meta"]))


def test_the_strategy_without_a_site_is_that_of_the_others(sites: list[Site], make_job: MakeJob) -> None:
    """Skipping a client is the same as a cohort without it: nothing of it is left in the sum."""
    one, two = make_job("one"), make_job("two")
    for job, change in ((one, lambda reply: reply._replace(arrays={})), (two, lambda reply: reply._replace(body={"clients": [], "failed": {}}))):
        grid = grid_of(sites)
        changed(grid, NODE + 1, change)
        run_on(grid, job)
    assert same(final(one.out), final(two.out))


def test_below_the_quorum_the_round_is_asked_again_and_then_the_run_stops_with_its_checkpoint(
    whole: Path, sites: list[Site], make_job: MakeJob
) -> None:
    grid, job = grid_of(sites), make_job(quorum=3, retries=2)
    asked: list[int] = []

    def refusing(app: App) -> App:
        def run(message: Message, context: Context) -> Message:
            if message.metadata.message_type == "train" and message.metadata.group_id == "1":
                asked.append(message.metadata.dst_node_id)
                return Message(
                    to_content(Record(from_content(message.content).header, {"refused": "data", "reason": "no"}, {}, {})), reply_to=message
                )
            return app(message, context)

        return run

    for node in list(grid.apps):
        grid.apps[node] = refusing(grid.apps[node])
    with pytest.raises(
        FederationError, match=r"round 2 came to nothing after asking 3 times .0 clients answered where 3 are needed: .*go on with --resume"
    ):
        run_on(grid, job)
    assert len(asked) == 9  # three clients, three times
    assert len(skipped(job.out)) == 1
    rehearse(job, sites)
    assert same(final(job.out), final(whole))


def test_too_few_sites_end_the_wait_with_the_reasons(sites: list[Site], make_job: MakeJob) -> None:
    sites[2].data.write_text("age,sex\n")
    grid, job = grid_of(sites), make_job()
    with pytest.raises(FederationError, match=r"5 of 6 sites could be used within 600 s: data: the site's data cannot be used.*log says why; start"):
        run_on(grid, job)
    assert grid.clock.now() == pytest.approx(600, abs=5)
    assert rehearse(make_job("fewer", sites=5), sites).provenance["sites"] == 5


def test_a_site_that_joins_later_is_enrolled_and_drawn(sites: list[Site], make_job: MakeJob) -> None:
    job, grid = make_job(sites=5), grid_of(sites)
    late = grid.apps.pop(NODE)
    true = grid.apps[NODE + 1]

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            grid.apps.setdefault(NODE, late)
        return true(message, context)

    grid.apps[NODE + 1] = app
    strategy = run_on(grid, job)
    assert strategy.provenance["training_clients"] == 4
    assert "h0" in read_json(job.out / "status.json")["delivered"]


def test_a_site_that_leaves_is_skipped_and_gets_its_strategy_when_it_is_back(sites: list[Site], make_job: MakeJob) -> None:
    job, grid = make_job(), grid_of(sites)
    true, gone = grid.apps[NODE], []

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            gone.append(grid.apps.pop(NODE))
            raise MemoryError("unplugged")
        return true(message, context)

    grid.apps[NODE] = app
    run_on(grid, job)
    status = read_json(job.out / "status.json")
    assert gone
    assert "h0" in status["failed"]
    assert status["delivered"] == ["h1", "h2", "h3", "h4", "h5"]
    assert grid.clock.now() < 600  # the grace for one that is gone, not the deadline
    before = final(job.out)
    rehearse(job, sites)
    assert read_json(job.out / "status.json")["delivered"] == ["h0", "h1", "h2", "h3", "h4", "h5"]
    assert same(final(job.out), before)


def test_two_sites_with_one_client_name_are_told_apart_by_who_came_first(tmp_path: Path, rows: pd.DataFrame, make_job: MakeJob) -> None:
    sites = []
    for name, hospitals in {"north": ["h0", "h1", "h4"], "south": ["h1", "h2", "h3"]}.items():
        rows[rows["hospital"].isin(hospitals)].to_csv(tmp_path / f"{name}.csv", index=False)
        sites.append(Site(name, tmp_path / f"{name}.csv", tmp_path / "kept" / name, "hospital"))
    with pytest.raises(FederationError, match=r"1 of 2 sites could be used .*client 'h1' of site 'south' is already at site 'north'"):
        rehearse(make_job(sites=2), sites)


def test_a_site_under_anothers_name_is_refused(sites: list[Site], make_job: MakeJob) -> None:
    grid, job = grid_of(sites), make_job(sites=6)
    grid._names = {**grid._names, NODE: "h9"}
    with pytest.raises(FederationError, match="registered for 'h9'"):
        run_on(grid, job)


def test_another_plan_in_the_same_folder_is_refused(sites: list[Site], make_job: MakeJob) -> None:
    rehearse(make_job(), sites)
    with pytest.raises(ArtifactError, match="another plan"):
        rehearse(make_job(seed=1), sites)


def test_sites_that_do_not_fit_together_are_named(sites: list[Site], make_job: MakeJob) -> None:
    pd.read_csv(sites[3].data).assign(age=["young", "old"] * 7).to_csv(sites[3].data, index=False)
    with pytest.raises(FederationError, match=r"the sites 'h0' and 'h3' do not fit together: .*features"):
        rehearse(make_job(), sites)


def test_a_missed_look_keeps_the_best_of_the_others(sites: list[Site], make_job: MakeJob) -> None:
    """Round 2's look is missed, round 3's is made."""
    grid, job = grid_of(sites), make_job()
    true, count = grid.apps[NODE + 4], []

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "evaluate":
            count.append(1)
            if len(count) <= 3:
                raise MemoryError
        return true(message, context)

    grid.apps[NODE + 4] = app
    strategy = run_on(grid, job)
    assert "validation" in skipped(job.out)[1]["h4"]
    assert strategy.provenance["best_round"] == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 'sampler = "diverse"'},
        {"extra": 'attack.name = "sign_flip"'},
        {"test_share": 1.0},
        {"sites": 0},
        {"quorum": 0},
        {"retries": -1},
        {"algorithm": "nonsense"},
    ],
)
def test_what_a_federation_cannot_do_is_refused_before_it_starts(changes: dict[str, object], make_job: MakeJob) -> None:
    with pytest.raises(ConfigError):
        make_job(**changes)


def test_a_synthetic_partition_has_no_sites(make_job: MakeJob) -> None:
    from metabayfl import config as configs

    with pytest.raises(ConfigError, match=r"name them in validation_ids|set it to 'natural'"):
        plan(configs.read("digits"), "fedavg", 0)
    with pytest.raises(ConfigError, match="expected 1 or more"):
        Options(sites=0)
