"""What the server takes from a site: exactly what was asked for, or nothing with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metabayfl import tree
from metabayfl.errors import FederationError
from metabayfl.flower import site
from metabayfl.flower.acceptance import Heard, hear, template
from metabayfl.flower.node_config import Site
from metabayfl.flower.plan import experiment, from_json, prepared, to_json
from metabayfl.flower.records import Header, Record, record, refusal
from metabayfl.flower.registry import Client, Registry, enrolled, load, save, with_site
from metabayfl.flower.round import strategy_array
from metabayfl.storage import read_json
from metabayfl.study import Run

Exchange = tuple[Run, Registry, Header, Record]


@pytest.fixture
def answered(rehearsed: Path, sites: list[Site]) -> Exchange:
    """A reply of site h0 to a request to train, and what the server knows."""
    agreed = from_json(read_json(rehearsed / "server" / "plan.json"))
    run = prepared(agreed, rehearsed)
    header = Header(experiment(agreed), "train", 4)
    meta = run.algorithm.init(torch.tensor(5))
    asked = record(header, {"plan": to_json(agreed), "cohort": ["h0"]}, {"strategy": strategy_array(run, meta)})
    return run, {"h0": Client("h0", "h0", "train", 11), "h1": Client("h1", "h1", "train", 11)}, header, site.answer(sites[0], asked)


def heard(exchange: Exchange, reply: Record, wanted: tuple[str, ...] = ("h0",)) -> Heard:
    run, registry, header, _ = exchange
    return hear(run, registry, header, wanted, reply, template(run))


def test_a_good_reply_is_taken(answered: Exchange) -> None:
    found = heard(answered, answered[3])
    assert list(found.messages) == ["h0"]
    assert found.skipped == {}
    assert float(found.messages["h0"].weight) == 11


def _array(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Record], Record]:
    return lambda reply: reply._replace(arrays={**reply.arrays, name: change(reply.arrays[name])})


def _flipped(value: torch.Tensor) -> torch.Tensor:
    return torch.cat([value[:-1], value[-1:] ^ 1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_array("0/update", lambda value: value[:-1]), "bytes arrived where the tree takes"),
        (_array("0/update", lambda value: value[:0]), "bytes arrived where the tree takes"),
        (_array("0/update", _flipped), "checksum"),
        (_array("0/update", lambda value: value.float()), "has the parts"),
        (_array("0/update", lambda value: value[None]), "has the parts"),
        (_array("0/weight", lambda value: value * float("nan")), "weight of its message"),
        (_array("0/weight", lambda value: value[None]), "weight of its message"),
        (_array("0/weight", lambda value: value.double()), "weight of its message"),
        (_array("0/weight", lambda value: value + 1), "speaks for 12 samples, but it enrolled with 11"),
        (_array("0/weight", lambda value: -value), "speaks for -11 samples"),
        (_array("0/metrics/loss", lambda value: value / 0), "metrics/loss of its message"),
        (lambda reply: reply._replace(arrays={"0/update": reply.arrays["0/update"]}), "has the parts"),
        (lambda reply: reply._replace(arrays={**reply.arrays, "0/extra": torch.zeros(1)}), "has the parts"),
        (lambda reply: reply._replace(arrays={}), "has the parts"),
        (lambda reply: reply._replace(body={"clients": [], "failed": {}}, arrays={}), "no message of it"),
        (lambda reply: reply._replace(body={"clients": [], "failed": {"h0": "it diverged"}}, arrays={}), "it diverged"),
        (lambda reply: reply._replace(body={"clients": [], "failed": {"h0": 7}}, arrays={}), "no message of it"),
    ],
)
def test_a_message_that_cannot_be_is_left_out_with_the_reason(change: Callable[[Record], Record], said: str, answered: Exchange) -> None:
    found = heard(answered, change(answered[3]))
    assert found.messages == {}
    assert said in found.skipped["h0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda reply: reply._replace(header=reply.header._replace(round=3)), "round 3 where 4 was asked for"),
        (lambda reply: reply._replace(header=reply.header._replace(experiment="0" * 64)), "belongs to another run"),
        (lambda reply: reply._replace(header=reply.header._replace(phase="evaluate")), "phase 'evaluate'"),
        (lambda reply: reply._replace(header=reply.header._replace(version="0.0.1")), "install the same metabayfl"),
        (lambda reply: reply._replace(body={"clients": ["h0", "h0"], "failed": {}}), "a client twice"),
        (lambda reply: reply._replace(body={"clients": ["h1"], "failed": {}}), "one that was not asked"),
        (lambda reply: reply._replace(body={"clients": [["h0"]], "failed": {}}), "one that was not asked"),
        (lambda reply: reply._replace(body={"clients": "h0", "failed": {}}), "names no clients"),
        (lambda reply: reply._replace(body={}), "names no clients"),
        (lambda reply: refusal(reply.header, "data", "its log says why"), "data: its log says why"),
        (lambda reply: reply._replace(body={"refused": 3}), "no reason given"),
    ],
)
def test_a_reply_that_belongs_elsewhere_is_left_out_whole(change: Callable[[Record], Record], said: str, answered: Exchange) -> None:
    with pytest.raises(FederationError, match=said):
        heard(answered, change(answered[3]))


def test_infinite_updates_are_left_out_also_where_they_travel_exactly(rehearsed: Path) -> None:
    run = prepared(from_json(read_json(rehearsed / "server" / "plan.json"))._replace(algorithm="fedavg"), rehearsed)
    like, header, registry = template(run), Header("e", "train", 0), {"h0": Client("h0", "h0", "train", 11)}

    def sent() -> Record:
        update = torch.frombuffer(bytearray(run.algorithm.up.encode(like.update, None)), dtype=torch.uint8)
        metrics = {f"0/metrics/{name}": torch.zeros_like(value) for name, value in like.metrics.items()}
        return record(header, {"clients": ["h0"], "failed": {}}, {"0/update": update, "0/weight": torch.tensor(1.0), **metrics})

    assert list(hear(run, registry, header, ["h0"], sent(), like).messages) == ["h0"]
    tree.leaves(like.update)[0].view(-1)[0] = float("inf")
    assert "NaN or infinite" in hear(run, registry, header, ["h0"], sent(), like).skipped["h0"]


def enrolment(site: object = "north", clients: object = (("a", "train", 5),)) -> Record:
    listed = [list(row) for row in clients] if isinstance(clients, tuple) else clients
    return record(Header("e", "enrol", 0), {"site": site, "clients": listed})


@pytest.mark.parametrize(
    "reply",
    [
        enrolment(site=""),
        enrolment(site=3),
        enrolment(clients=()),
        enrolment(clients="all"),
        enrolment(clients=(("a", "train"),)),
        enrolment(clients=(("a", "spy", 5),)),
        enrolment(clients=(("", "train", 5),)),
        enrolment(clients=(("a", "train", 0),)),
        enrolment(clients=(("a", "train", 2**50),)),
        enrolment(clients=(("a", "train", 5.0),)),
        enrolment(clients=(("a", "train", 5), ("a", "train", 6))),
    ],
)
def test_an_enrolment_that_cannot_be_is_refused(reply: Record) -> None:
    with pytest.raises(FederationError, match="site"):
        enrolled(reply, "")


def test_a_site_bears_the_name_that_its_key_was_registered_for() -> None:
    assert enrolled(enrolment(), "north")[0] == "north"
    with pytest.raises(FederationError, match="registered for 'south'"):
        enrolled(enrolment(), "south")


def test_a_client_belongs_to_the_site_that_enrolled_it_first(tmp_path: Path) -> None:
    registry = with_site({}, *enrolled(enrolment(), ""))
    with pytest.raises(FederationError, match="'a' of site 'south' is already at site 'north'"):
        with_site(registry, *enrolled(enrolment("south"), ""))
    moved = with_site(registry, *enrolled(enrolment(clients=(("b", "train", 7),)), ""))
    assert sorted(moved) == ["b"]
    save(tmp_path / "registry.json", moved)
    assert load(tmp_path / "registry.json") == moved
