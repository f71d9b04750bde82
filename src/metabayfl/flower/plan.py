"""What all sites agree on before they train: the config, the algorithm, the seed and, once it is known, the schema."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from metabayfl.config import Config, check_algorithm, train_options
from metabayfl.data import DataOptions, Federation, Schema, in_memory
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.population import PopulationOptions
from metabayfl.errors import ConfigError, FederationError, MetabayflError
from metabayfl.study import Run, prepare
from metabayfl.table import parse

HERE: dict[str, Any] = {"path": (), "root": "", "where": "", "client_names": (), "client_per_file": False, "client": ""}
"""What each site says for itself, and the config's own values do not."""


class Plan(NamedTuple):
    """One federation's agreement; its digest names the experiment."""

    config: Config  # without the places of files
    algorithm: str
    seed: int
    test_share: float  # of every training client's rows, kept out of training to judge its own model by; 0 keeps none
    schema: Schema | None  # None until it is agreed
    run: str = ""  # drawn by the server for each new run, so that one that is repeated is told from one that goes on; no number depends on it


def plan(config: Config, algorithm: str, seed: int, test_share: float = 0.2, schema: Schema | None = None) -> Plan:
    """The plan of a config.

    Raises:
        ConfigError: for what a federation of real sites cannot do.
    """
    check_algorithm(algorithm)
    check(config.data, train_options(config, algorithm))
    if not 0.0 <= test_share < 1.0:
        raise ConfigError(f"test_share is {test_share}, expected a share from 0, below 1")
    return Plan(dataclasses.replace(config, data=dataclasses.replace(config.data, **HERE)), algorithm, seed, test_share, schema)


def check(options: DataOptions, train: TrainOptions) -> None:
    """Refuse options that only make sense where all data are in one place."""
    if options.partition != "natural":
        raise ConfigError(f"data.partition is {options.partition!r}: sites have clients of their own, set it to 'natural'")
    for name in ("train_clients", "validation_clients", "heldout_clients"):
        if getattr(options, name):
            raise ConfigError(
                f"data.{name} draws clients from all that there are, which a federation never knows: name them in validation_ids, heldout_ids"
            )
    if options.flag and options.flag_use == "heldout":
        raise ConfigError(
            "data.flag_use is 'heldout', but a federation holds out clients by name: set it to 'exclude' or 'only', and name them in heldout_ids"
        )
    simulated = {"attack": train.attack, "population": train.population != PopulationOptions()}
    for name, given in simulated.items():
        if given:
            raise ConfigError(f"train.{name} is for simulation: leave it out where clients are real")
    if train.secure is not None and not train.secure.masks:
        raise ConfigError("train.secure.masks is off, which is for simulation: leave it out where clients are real")
    if train.sampler == "diverse":
        raise ConfigError(
            "train.sampler 'diverse' needs a summary of every client's targets, which sites keep to themselves: use uniform, poisson or size"
        )


def role(options: DataOptions, client: str) -> str:
    """``validation``, ``heldout`` or ``train``: what the config says of a client by name, and training where it says nothing."""
    return "validation" if client in options.validation_ids else "heldout" if client in options.heldout_ids else "train"


def to_json(agreed: Plan) -> dict[str, Any]:
    """A table of JSON's own types."""
    table = dataclasses.asdict(agreed.config)
    schema = None if agreed.schema is None else agreed.schema.to_json()
    plain: dict[str, Any] = json.loads(json.dumps({**agreed._asdict(), "config": _given(table), "schema": schema}, allow_nan=False))
    return plain


def _given(table: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that stand for nothing, which a config cannot say."""
    return {name: _given(value) if isinstance(value, dict) else value for name, value in table.items() if value is not None}


def from_json(table: Any) -> Plan:
    """The plan that :func:`to_json` wrote.

    Raises:
        FederationError: if it is none, or one that this library cannot follow.
    """
    try:
        schema = None if table["schema"] is None else Schema.from_json(table["schema"])
        agreed = plan(parse(Config, table["config"], "the plan"), str(table["algorithm"]), int(table["seed"]), float(table["test_share"]), schema)
        return agreed._replace(run=str(table["run"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FederationError(f"the plan of this federation cannot be read: {error}; both ends must run the same metabayfl") from error


def understood(table: Any) -> tuple[Plan, str]:
    """The plan of a request and its experiment.

    Raises:
        FederationError: as :func:`from_json`.
    """
    return _understood(json.dumps(table, sort_keys=True))


@lru_cache(maxsize=8)
def _understood(text: str) -> tuple[Plan, str]:
    agreed = from_json(json.loads(text))
    return agreed, experiment(agreed)


def experiment(agreed: Plan) -> str:
    """The digest by which messages and stored files name the plan."""
    return hashlib.sha256(json.dumps(to_json(agreed), sort_keys=True).encode()).hexdigest()


def prepared(agreed: Plan, out: Path) -> Run:
    """The algorithm and options that a complete plan describes, over a federation whose rows are elsewhere.

    Raises:
        FederationError: if the plan has no schema, or names what this library lacks.
    """
    if agreed.schema is None:
        raise FederationError("the plan has no schema yet: agree on one first")
    nobody = in_memory((), (), ())
    federation = Federation(agreed.config.name, nobody, nobody, nobody, agreed.schema, experiment(agreed))
    try:
        return prepare(agreed.config, agreed.algorithm, agreed.seed, federation, out)
    except MetabayflError as error:
        raise FederationError(f"the plan of this federation cannot be followed: {error}") from error


def kept_out(share: float, rows: int, fewest: int) -> int:
    """How many of a training client's rows are kept out of training: none where fewer than ``fewest`` would be left.

    Example:
        >>> kept_out(0.2, 100, 2), kept_out(0.2, 3, 2), kept_out(0.2, 2, 2), kept_out(0.0, 100, 2)
        (20, 1, 0, 0)
    """
    return min(max(round(share * rows), 1), max(rows - fewest, 0)) if share else 0
