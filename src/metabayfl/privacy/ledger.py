"""What was spent: a file that survives restarts and says, before a round is released, whether the budget bears it.

A round is *booked* before its result is released, so that a crash between the two can only count too much. What a repeated round costs depends on
its noise. With noise from a seed, the same round of the same run releases the same numbers again, and nothing more is learned: it is booked once.
With noise from the operating system, a repeated round is a new look at the same clients with new noise, and is booked again, unless the first
result was stored: so a run with such noise writes its checkpoint after every round (:func:`checkpoint_every`).

The file's digest shows damage and careless edits; whoever can write the file can write the digest too. Keep it where only the server writes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metabayfl import storage
from metabayfl.errors import ArtifactError, ConfigError, PrivacyError
from metabayfl.privacy.accounting import Plan, affordable_rounds, epsilon
from metabayfl.table import parse

LEDGER = "privacy.json"
FORMAT = 1


@dataclass(frozen=True)
class Ledger:
    """The state of one run's account.

    Attributes:
        identity: names everything that decides the run's numbers; a ledger serves one run.
        plan: what one round is.
        budget: the ``epsilon`` that all rounds together may cost.
        delta: goes with it.
        source: of the noise, ``seeded`` or ``secure``.
        affordable: releases that the budget bears.
        releases: releases booked so far.
        spent: their ``epsilon``.
        format: version of the file.
    """

    identity: str
    plan: Plan
    budget: float
    delta: float
    source: Literal["seeded", "secure"]
    affordable: int
    releases: int = 0
    spent: float = 0.0
    format: int = FORMAT


def begin(path: Path, plan: Plan, *, identity: str, budget: float, delta: float, source: Literal["seeded", "secure"], rounds: int) -> Ledger:
    """The ledger at ``path``, made if there is none.

    Args:
        path: the file.
        plan: of the run.
        identity: of the run.
        budget: ``epsilon``.
        delta: of the guarantee.
        source: of the noise.
        rounds: most rounds of the run; no more are ever afforded.

    Raises:
        ArtifactError: if the file found is damaged, altered, or of another run.
    """
    if path.exists():
        return _require_same(read(path), path, Ledger(identity, plan, budget, delta, source, 0))
    most = rounds if source == "seeded" else 2 * rounds  # repeated rounds count
    new = Ledger(identity, plan, budget, delta, source, affordable_rounds(plan, budget, delta, most))
    _write(path, new)
    return new


def may_release(ledger: Ledger, number: int) -> bool:
    """Whether the round ``number``, from 0, may run: it was paid for already, or one more release is within the budget."""
    return _is_paid(ledger, number) or ledger.releases < ledger.affordable


def book(path: Path, ledger: Ledger, number: int) -> Ledger:
    """Write down that round ``number``, from 0, is about to be released; it may be once this returns.

    Raises:
        PrivacyError: if the budget does not bear it.
        StorageError: if it could not be written: then the round must not be released.
    """
    if _is_paid(ledger, number):
        return ledger
    if ledger.releases >= ledger.affordable:
        raise PrivacyError(
            f"{path}: {ledger.releases} releases have spent epsilon {ledger.spent:.4g} of {ledger.budget:g}, and one more would exceed it: "
            "stop here, or start a new run on clients that were in none"
        )
    releases = ledger.releases + 1
    new = dataclasses.replace(ledger, releases=releases, spent=epsilon(ledger.plan, releases, ledger.delta))
    _write(path, new)
    return new


def checkpoint_every(source: str, wanted: int) -> int:
    """Rounds between two checkpoints: every round where repeating one costs anew."""
    return 1 if source == "secure" else wanted


def read(path: Path) -> Ledger:
    """The ledger in a file.

    Raises:
        ArtifactError: if there is none, or it is damaged, altered or of another version.
    """
    document = storage.read_json(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f"{path} is no privacy ledger of format {FORMAT}: do not go on without the true one, what was spent is not known")
    digest = document.pop("sha256", None)
    if digest != _digest(document):
        raise ArtifactError(f"{path} was altered after it was written: restore it; what was spent is not known without it")
    try:
        return parse(Ledger, document, str(path))
    except ConfigError as error:
        raise ArtifactError(f"{path} is a damaged privacy ledger: {error}") from error


def _is_paid(ledger: Ledger, number: int) -> bool:
    return ledger.source == "seeded" and number < ledger.releases


def _require_same(found: Ledger, path: Path, wanted: Ledger) -> Ledger:
    for name in ("identity", "plan", "budget", "delta", "source"):
        if getattr(found, name) != getattr(wanted, name):
            raise ArtifactError(
                f"{path} belongs to another run: its {name} is {getattr(found, name)}, expected {getattr(wanted, name)}; choose another --out"
            )
    return found


def _write(path: Path, ledger: Ledger) -> None:
    document = storage.plain(dataclasses.asdict(ledger))
    storage.write_json(path, {**document, "sha256": _digest(document)})


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
