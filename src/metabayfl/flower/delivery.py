"""The end of a federation at a site: its strategy, and each client's own model with a report on rows that took no part in training.

The model that a client keeps is made from all its samples. The report judges one made without the test rows, so its figures are of unseen samples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metabayfl import personal, random, storage
from metabayfl.artifact import strategy_from_bytes
from metabayfl.data import Schema
from metabayfl.data.federation import Member
from metabayfl.data.raw import take
from metabayfl.errors import ArtifactError, FederationError
from metabayfl.evaluation import evaluate, summarise
from metabayfl.flower.plan import Plan, role
from metabayfl.flower.site_data import Local, encoded, raw_targets
from metabayfl.flower.store import POSTERIOR, STRATEGY
from metabayfl.personal import PersonalStrategy
from metabayfl.report.page import document
from metabayfl.report.parts import paragraph
from metabayfl.report.svg import Markup, element, escape

_SHOWN = {
    "accuracy": "right predictions (accuracy)",
    "nll": "surprise by the truth (NLL, nats)",
    "brier": "squared error of probabilities (Brier)",
    "ece": "error of the stated confidence (ECE)",
    "accuracy_at_80_coverage": "accuracy when the most doubtful fifth is referred",
    "rmse": "root mean squared error",
    "crps": "continuous ranked probability score",
    "coverage_90": "share of truths inside the 90 % interval",
}


def deliver(folder: Path, data: bytes, agreed: Plan, local: Local, place: Callable[[str], Path]) -> int:
    """Write the strategy into ``folder``, and into ``place(client)`` each client's posterior and report; returns the number of clients.

    Raises:
        FederationError: if the strategy is not of this federation.
        StorageError: if something could not be written; what was written before is whole.
    """
    ready = _rebuilt(data, agreed)
    storage.write_bytes(folder / STRATEGY, data)
    for member in local.everyone:
        home = place(member.id)
        own = ready.personalize(take(local.raw, member.rows), raw_targets(local.raw, member.rows))
        own.save(home / POSTERIOR)
        facts = report(ready, local, member, agreed)
        storage.write_json(home / "report.json", facts)
        storage.write_text(home / "report.html", page(facts))
    return len(local.everyone)


def _rebuilt(data: bytes, agreed: Plan) -> PersonalStrategy:
    try:
        ready = personal.rebuild(strategy_from_bytes(data))
    except ArtifactError as error:
        raise FederationError(f"the server's final strategy cannot be used: {error}") from error
    if ready.schema != agreed.schema or ready.strategy.spec["algorithm"] != agreed.algorithm:
        raise FederationError("the server's final strategy is of another schema or algorithm than this federation agreed on")
    return ready


def report(ready: PersonalStrategy, local: Local, member: Member, agreed: Plan) -> dict[str, Any]:
    """What a client may want to know of its model, with the figures of its own test rows where it has any."""
    tests = len(member.rows) - member.support
    part = role(agreed.config.data, member.id)
    return {
        "client": member.id,
        "role": part,
        "samples": len(member.rows),
        "samples_judged": tests,
        "note": _note(part, tests),
        "figures": _figures(ready, local, member, ready.schema) if tests else {},
        "strategy": ready.strategy.digest(),
        "provenance": ready.strategy.provenance,
    }


def _note(part: str, tests: int) -> str:
    if not tests:
        return "The client has too few samples to keep some for a test, so there is nothing to judge its model by."
    source = "the strategy was trained without them" if part != "validation" else "they helped to choose the strategy, so the figures may flatter it"
    return f"Judged on {tests} samples that the judged model was not made from; {source}. The saved model is made from all samples."


def _figures(ready: PersonalStrategy, local: Local, member: Member, schema: Schema) -> dict[str, Any]:
    own = encoded(local, schema, [member])
    found = summarise(evaluate(ready.algorithm, ready.strategy.meta, own, schema, random.fold(random.key(0), "own report")))
    return {name: found[name] for name in _SHOWN if name in found}


def page(facts: dict[str, Any]) -> Markup:
    """The report as one HTML file."""
    title = f"{facts['client']}: its own model"
    rows = [
        element("tr", element("th", escape(_SHOWN[name]), scope="row"), element("td", escape(_text(value))))
        for name, value in facts["figures"].items()
    ]
    return document(
        title,
        element(
            "header", element("h1", escape(title)), paragraph(f"{facts['samples']} samples, {facts['samples_judged']} of them to judge by", "facts")
        ),
        element("section", paragraph(facts["note"], "shown"), element("table", element("tbody", *rows))),
        element("footer", paragraph(f"strategy {facts['strategy'][:12]} after {facts['provenance'].get('rounds', '?')} rounds")),
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
