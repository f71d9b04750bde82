"""The ledger: nothing is released that was not paid for, and the account outlives every crash."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pytest

from metabayfl import storage
from metabayfl.errors import ArtifactError, PrivacyError, StorageError
from metabayfl.privacy import ledger
from metabayfl.privacy.accounting import Plan, epsilon
from metabayfl.privacy.distributed import Grid
from metabayfl.privacy.ledger import Ledger

pytest.importorskip("dp_accounting")

PLAN = Plan(100, 100, 8.0, "all")


def begin(path: Path, source: Literal["seeded", "secure"] = "secure", **changes: Any) -> Ledger:
    given: dict[str, Any] = {"plan": PLAN, "identity": "run", "budget": 1.0, "delta": 1e-5, "source": source, "rounds": 20}
    return ledger.begin(path, **{**given, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ledger.LEDGER


def test_rounds_are_booked_until_the_budget_is_spent_and_never_beyond(path: Path) -> None:
    book, number = begin(path), 0
    while ledger.may_release(book, number):
        book, number = ledger.book(path, book, number), number + 1
    assert number == book.affordable
    assert book.spent == epsilon(PLAN, number, 1e-5) <= 1.0 < epsilon(PLAN, number + 1, 1e-5)
    with pytest.raises(PrivacyError, match="one more would exceed it"):
        ledger.book(path, book, number)


def test_the_account_survives_a_restart(path: Path) -> None:
    book = ledger.book(path, begin(path), 0)
    assert begin(path) == book == ledger.read(path)
    assert json.loads(path.read_text())["releases"] == 1


def test_a_round_is_booked_before_it_is_released(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the booking cannot be written, the caller never comes to the release."""
    book = begin(path)

    def full(*args: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(storage, "write_json", full)
    with pytest.raises(StorageError):
        ledger.book(path, book, 0)
    assert ledger.read(path).releases == 0


def test_a_repeated_round_costs_again_with_fresh_noise_and_nothing_with_the_same_noise(path: Path) -> None:
    fresh, same = begin(path), begin(path.with_name("same.json"), "seeded")
    for number in (0, 1, 0, 1):  # a crash after round 1, before any checkpoint
        fresh, same = ledger.book(path, fresh, number), ledger.book(path.with_name("same.json"), same, number)
    assert (fresh.releases, same.releases) == (4, 2)
    assert ledger.checkpoint_every("secure", 10) == 1
    assert ledger.checkpoint_every("seeded", 10) == 10


def test_a_spent_seeded_ledger_still_lets_paid_rounds_run_again(path: Path) -> None:
    book = begin(path, "seeded", rounds=2, budget=10.0)
    book = ledger.book(path, ledger.book(path, book, 0), 1)
    assert ledger.may_release(book, 1)
    assert not ledger.may_release(book, 2)


@pytest.mark.parametrize("change", [
    {"identity": "other"}, {"plan": dataclasses.replace(PLAN, noise_multiplier=4.0)}, {"budget": 2.0}, {"delta": 1e-6}, {"source": "seeded"},
])  # fmt: skip
def test_a_ledger_of_another_run_is_refused(path: Path, change: dict[str, Any]) -> None:
    begin(path)
    with pytest.raises(ArtifactError, match="belongs to another run"):
        begin(path, **change)


def rewritten(path: Path, **changes: Any) -> None:
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))


@pytest.mark.parametrize(
    "change", [{"releases": 0}, {"spent": 0.0}, {"affordable": 10**6}, {"sha256": "0" * 64}, {"sha256": None}, {"identity": None}]
)
def test_an_altered_ledger_is_refused(path: Path, change: dict[str, Any]) -> None:
    ledger.book(path, begin(path), 0)
    rewritten(path, **change)
    with pytest.raises(ArtifactError, match="altered"):
        begin(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', "\x00", "NaN", "[" * 100_000])
def test_a_file_that_is_no_ledger_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ArtifactError):
        begin(path)


@pytest.mark.parametrize("change", [{"releases": "3"}, {"plan": {"clients": 5}}, {"plan": 7}, {"source": "none"}, {"extra": 1}])
def test_a_ledger_with_a_right_digest_and_wrong_fields_is_refused(path: Path, change: dict[str, Any]) -> None:
    begin(path)
    document = {**json.loads(path.read_text()), **change}
    document.pop("sha256")
    rewritten(path, **change, sha256=ledger._digest(document))
    with pytest.raises(ArtifactError, match="damaged"):
        begin(path)


def test_a_plan_with_a_grid_is_read_as_it_was_written(path: Path) -> None:
    plan = Plan(100, 10, 1.0, "fixed", "skellam", "rdp", Grid(4096.0, 7000, 7))
    assert begin(path, plan=plan).plan == begin(path, plan=plan).plan == plan
