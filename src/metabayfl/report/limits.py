"""What a study cannot show, each said only where its own numbers say so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from metabayfl.report import kept
from metabayfl.report.card_part import span
from metabayfl.report.sections import Study
from metabayfl.report.table import algorithms

FEW = 30
"""Fewer clients than this are few: a mean over 30 is still uncertain by a fifth of their spread."""


def limits(study: Study, name: str) -> tuple[str, ...]:
    """Sentences on the strategy of the algorithm ``name``."""
    return (*_clients(study), *_seeds(study), *_classes(study, name), *_supports(study, name), *_doubt(study, name), *_others(study, name))


def _clients(study: Study) -> Iterable[str]:
    groups: Mapping[str, Any] = study.summary["about"]["data"][0]["clients"]
    known, judged = groups["training"]["clients"], groups["held-out"]["clients"]
    yield f"It learned from {_count(known)} and knows nothing of clients that are unlike all of them."
    if judged < FEW:
        yield f"It was judged on {_count(judged)} a seed: the next one may be served better or worse than the figures say."
    if groups["validation"]["clients"] and groups["validation"]["clients"] < FEW:
        yield f"The round whose strategy is kept was chosen on {_count(groups['validation']['clients'])}."
    if study.summary["about"]["privacy"] and groups["validation"]["clients"]:
        sums = " and the sums that the file carries" if study.summary["about"]["strategy"]["calibrated"] else ""
        yield f"The privacy spent covers training clients alone: what validation clients gave, the choice of the round{sums}, has no noise."


def _count(number: int) -> str:
    return f"{number:,} client" + ("" if number == 1 else "s")


def _seeds(study: Study) -> Iterable[str]:
    seeds = study.summary["seeds"]
    if len(seeds) == 1:
        yield "There is one seed: how far the figures vary with the split and the start was not measured."
    elif len(seeds) < 10:
        share = 1 / math.sqrt(2 * (len(seeds) - 1))  # standard error of a standard deviation of normal numbers, over it
        yield f"There are {len(seeds)} seeds: the standard deviations over them are themselves uncertain, by about {100 * share:.0f} %."


def _classes(study: Study, name: str) -> Iterable[str]:
    found = [entry["classes"] for entry in study.entries(name) if "classes" in entry]
    if not found:
        return
    tested = [sum(column) for column in zip(*(one["test"] for one in found), strict=True)]
    absent = [label for label, count in zip(found[0]["name"], tested, strict=True) if not count]
    if absent:
        yield f"No held-out client had a test sample of class {', '.join(absent)}: how well it is recognised was not measured."
    never = [label for label, *counts in zip(found[0]["name"], *(one["shown"] for one in found), strict=True) if not any(counts)]
    if never:
        yield f"No held-out client adapted on a sample of class {', '.join(never)}."


def _supports(study: Study, name: str) -> Iterable[str]:
    sizes = [size for entry in study.entries(name) for size in entry["clients"].get("support", ())]
    if sizes:
        yield f"Held-out clients adapted on {span(min(sizes), max(sizes))} samples: with fewer or more the quality was not measured here."


def _doubt(study: Study, name: str) -> Iterable[str]:
    entries = study.entries(name)
    if kept.has(entries, "total") and not kept.has(entries, "epistemic"):
        yield "It has no epistemic uncertainty: it cannot tell a case unlike its samples from one that is ambiguous."
    if any(entry["mean"].get("auroc_unseen") is None for key, entry in algorithms(study.summary).items() if key == name) and kept.has(
        entries, "total"
    ):
        yield "Whether doubt singles out classes that a client never showed was not measured on these clients."


def _others(study: Study, name: str) -> Iterable[str]:
    found = algorithms(study.summary)
    own = found[name]["mean"].get("nll")
    better = [other for other in study.order if own is not None and (nll := found[other]["mean"].get("nll")) is not None and nll < own]
    if better:
        yield f"On these data {' and '.join(better)} had a lower NLL: look at the comparison before you use this strategy."
    elif len(found) == 1:
        yield "It was compared with no other algorithm on these data."
