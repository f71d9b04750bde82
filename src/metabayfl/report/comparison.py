"""Several studies side by side: the same figures of all their algorithms, and what keeps them from being compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabayfl.errors import ConfigError
from metabayfl.report import parts, words
from metabayfl.report.page import document
from metabayfl.report.sections import Study, gathered, page_sections
from metabayfl.report.svg import Markup, element, escape
from metabayfl.report.table import algorithms, is_regression

BETWEEN = ": "
"""Between a study's name and an algorithm's."""


class Compared(NamedTuple):
    """Studies as one, whose algorithms are named ``study: algorithm``, with the reasons why they may not be comparable."""

    study: Study
    notes: tuple[str, ...]


def labels(directories: Sequence[Path]) -> list[str]:
    """Names of studies: the last part of each path, and more of it where names would be the same.

    Raises:
        ConfigError: if two paths are the same directory.

    Example:
        >>> labels([Path("runs/old/digits"), Path("runs/new/digits"), Path("heart")])
        ['old/digits', 'new/digits', 'heart']
    """
    whole = [directory.resolve().parts[1:] for directory in directories]
    if len(set(whole)) < len(whole):
        raise ConfigError(f"one of {', '.join(map(str, directories))} is named twice: name every study once")
    return ["/".join(parts[-_needed(parts, whole) :]) for parts in whole]


def _needed(parts: tuple[str, ...], whole: Sequence[tuple[str, ...]]) -> int:
    """How many last parts tell this path from all others."""
    return next(count for count in range(1, len(parts) + 1) if sum(other[-count:] == parts[-count:] for other in whole) == 1)


def compared(studies: Mapping[str, Study]) -> Compared:
    """The studies as one.

    Raises:
        ConfigError: if a regression stands beside a classification.
    """
    kinds = {name: is_regression(study.summary) for name, study in studies.items()}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} is a {'regression' if kind else 'classification'}" for name, kind in kinds.items())
        raise ConfigError(f"{told}: they have no figures in common; compare studies of one kind")
    notes = (*_data(studies), *_seeds(studies))
    summary = {
        "title": " and ".join(studies),
        "algorithms": {f"{name}{BETWEEN}{key}": entry for name, study in studies.items() for key, entry in algorithms(study.summary).items()},
        "comparable": not notes,
    }
    rows = [{**row, "algorithm": f"{name}{BETWEEN}{row['algorithm']}"} for name, study in studies.items() for row in study.rows]
    figures = {f"{name}{BETWEEN}{key}": entries for name, study in studies.items() for key, entries in study.figures.items()}
    return Compared(gathered(summary, rows, figures), (*notes, *_versions(studies)))


def _data(studies: Mapping[str, Study]) -> Iterator[str]:
    """Studies are on the same data if they had the same clients and samples at every seed that they share."""
    known = {name: _fingerprints(study.summary) for name, study in studies.items()}
    for name in (name for name, found in known.items() if not found):
        yield f"{name} does not say which data it was on."
    for one, other in itertools.combinations((name for name, found in known.items() if found), 2):
        shared = known[one].keys() & known[other].keys()
        apart = sorted(seed for seed in shared if known[one][seed] != known[other][seed])
        if apart:
            yield f"{one} and {other} were on different data: at seed {apart[0]} their clients, samples or splits are not the same."


def _fingerprints(summary: Mapping[str, Any]) -> dict[int, str]:
    return {one["seed"]: one["fingerprint"] for one in summary.get("about", {}).get("data", ())}


def _seeds(studies: Mapping[str, Study]) -> Iterator[str]:
    seeds = {name: tuple(study.summary.get("seeds", ())) for name, study in studies.items()}
    if len(set(seeds.values())) > 1:
        told = ", ".join(f"{name} {', '.join(map(str, own)) or 'none'}" for name, own in seeds.items())
        yield f"The seeds differ ({told}): means are over different splits."


def _versions(studies: Mapping[str, Study]) -> Iterator[str]:
    """Other versions give other rounding, and seldom more: worth a word, and no reason not to compare."""
    found = {name: study.summary.get("versions", {}) for name, study in studies.items()}
    for package in dict.fromkeys(itertools.chain(*found.values())):
        versions = {name: own.get(package, "unknown") for name, own in found.items()}
        if len(set(versions.values())) > 1:
            yield f"{package} differs ({', '.join(f'{name} {version}' for name, version in versions.items())}): times and last digits may."


def comparison_page(found: Compared) -> Markup:
    """The page of several studies: the notes, the tables, and the pictures of all their algorithms."""
    title = f"Comparison: {found.study.summary['title']}"
    warning = [parts.paragraph(words.APART, "facts")] if not found.study.summary["comparable"] else []
    header = element("header", element("h1", escape(title)), *warning, *(parts.paragraph(note, "facts") for note in found.notes))
    return document(title, header, page_sections(found.study), element("footer", parts.paragraph(words.METHOD)))
