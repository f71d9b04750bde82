"""What a run says of itself: its status file, and that in lines for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metabayfl import storage
from metabayfl.errors import ArtifactError
from metabayfl.flower import lock
from metabayfl.privacy import ledger

STATUS, STRATEGY = "status.json", "strategy.safetensors"
"""What a run's folder holds for people."""


def status(out: Path) -> dict[str, Any]:
    """What the run wrote about itself last.

    Raises:
        ArtifactError: if there is no run.
    """
    found = storage.read_json(out / STATUS)
    if not isinstance(found, dict) or not isinstance(found.get("stage"), str):
        raise ArtifactError(f"{out / STATUS} is no status of a run: delete it and go on with --resume")
    return found


def told(out: Path) -> list[str]:
    """Where a run is, in lines for a person.

    Raises:
        ArtifactError: if there is no run.
    """
    now, working = status(out), lock.is_held(out)
    ended = "" if working or now["stage"] in ("submitted", "done", "stopped") else " (no process is at work on it: go on with --resume)"
    rounds = [f"round {now['round']} of {now['rounds']}"] if "round" in now and "rounds" in now else []
    reason = [f"reason: {now['reason']}"] if now.get("reason") else []
    skipped = [f"skipped in this round: {name}: {why}" for name, why in sorted(now.get("skipped", {}).items())]
    delivered = [f"has the strategy: {', '.join(now['delivered'])}"] if now.get("delivered") else []
    failed = [f"has it not: {site}: {why}" for site, why in sorted(now.get("failed", {}).items())]
    return [f"{now['stage']}{ended}", *rounds, *reason, *skipped, *delivered, *failed, *spent(out)]


def spent(out: Path) -> list[str]:
    """What the run has spent of its privacy budget so far, in a line; none where it has no budget."""
    if not (out / ledger.LEDGER).exists():
        return []
    book = ledger.read(out / ledger.LEDGER)
    honest = "" if book.source == "secure" else "; the noise is seeded and protects nobody"
    return [f"privacy: ε = {book.spent:.1f} of {book.budget:g} is spent, at δ = {book.delta:g} after {book.releases} rounds{honest}"]


def finished(out: Path, last: dict[str, Any]) -> str:
    """One line on a run that is done."""
    have, missing = last.get("delivered", []), last.get("failed", {})
    path = out / STRATEGY
    late = "".join(f" · {site} has it not: {reason}" for site, reason in sorted(missing.items()))
    return f"strategy {path} ({path.stat().st_size / 1000:.1f} KB), {last.get('rounds', 0)} rounds · at {', '.join(have) or 'no site'}{late}"
