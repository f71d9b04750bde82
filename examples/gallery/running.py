"""What every script of the gallery does around its own subject: the command line, training with the library's own study, and tables on the screen.

A script's ``main`` takes :class:`Options`. ``--out`` is the folder for the picture and the study; ``--quick`` trains for two rounds, to see that
everything runs and nothing more: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabayfl import storage, study
from metabayfl.config import Config
from metabayfl.data.locate import find
from metabayfl.errors import MetabayflError

QUICK = {"rounds": 2, "validate_every": 1}


class Options(NamedTuple):
    """What the command line says."""

    out: Path
    quick: bool


def start(main: Callable[[Options], None], about: str) -> None:
    """Run a script; what a user can mend, such as a missing file, ends it with one line."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the picture and the study")
    parser.add_argument("--quick", action="store_true", help="two rounds and one seed, only to see that it runs")
    given = parser.parse_args()
    try:
        main(Options(given.out, given.quick))
    except MetabayflError as error:
        sys.exit(f"error: {error}")


def data_file(config: Config, name: str) -> Path:
    """One of a config's files, looked for where the config's data are; a missing one is an error that names it."""
    return find(name, config.data, Path.cwd())


def train(config: Config, names: Sequence[str], seeds: Sequence[int], options: Options) -> dict[str, Any]:
    """Compare algorithms over seeds on held-out clients; a run that ``out`` holds is not repeated.

    Returns:
        By algorithm: ``mean`` and ``sd`` over seeds of each figure, and ``kept``, one entry a seed of what its pictures need.
    """
    out, seeds = folder(config, options), seeds[:1] if options.quick else seeds
    for event in study.compare(shortened(config) if options.quick else config, tuple(names), tuple(seeds), out):
        if isinstance(event, study.Scored):
            print(f"{config.name}: {event.algorithm}, seed {event.seed}: trained and judged", file=sys.stderr)
    found, kept = storage.read_json(out / "summary.json")["algorithms"], storage.read_json(out / "figures.json")
    return {name: {**found[name], "kept": kept[name]} for name in names}


def shortened(config: Config) -> Config:
    """The same study with next to no training."""
    tables = {name: {**table, "train": {**table.get("train", {}), **QUICK}} for name, table in config.algorithm.items()}
    few = {name: {**table, **({"adapt_steps": 2} if "adapt_steps" in table else {})} for name, table in tables.items()}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **QUICK), algorithm=few)


def folder(config: Config, options: Options) -> Path:
    """Where a study lies; a quick one lies apart, since it is another study."""
    return options.out / "studies" / (f"{config.name}_quick" if options.quick else config.name)


def strategy_file(config: Config, options: Options, name: str = "meta_bayfl", seed: int = 0) -> Path:
    """What a client downloads, from one run of :func:`train`."""
    return study.run_directory(name, seed, folder(config, options)) / "strategy.safetensors"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation over seeds, as text; of one seed the value alone."""
    sd = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{sd}"


def figure(entry: dict[str, Any], key: str, factor: float = 1.0, digits: int = 1) -> str:
    """One figure of one algorithm, over its seeds."""
    return spread([factor * one[key] for one in entry["per_seed"]], digits)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: the first to the left, the others to the right."""
    widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header))]
    print(f"\n{title}")
    for row in (header, *rows):
        print("  ".join(f"{cell:<{width}}" if at == 0 else f"{cell:>{width}}" for at, (cell, width) in enumerate(zip(row, widths, strict=True))))
