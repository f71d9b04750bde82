"""From what a strategy says of itself to the algorithm and the schema that its numbers belong to."""

from __future__ import annotations

from typing import Any

from metabayfl import random, tree_file
from metabayfl.algorithms import ALGORITHMS
from metabayfl.artifact import Strategy
from metabayfl.calibration import template
from metabayfl.data.schema import Schema
from metabayfl.errors import ArtifactError, ConfigError, ModelError, SchemaError
from metabayfl.models import build_model
from metabayfl.types import Algorithm, Model


def rebuilt(strategy: Strategy, model: Model | None, where: str) -> tuple[Algorithm, Schema]:
    """The algorithm and the schema, checked against the strategy's numbers.

    Args:
        strategy: from a file.
        model: in place of the one that the specification names, where that is a user's own.
        where: names the file in messages.

    Raises:
        ArtifactError: if the specification names what this library lacks, or the numbers do not fit it.
    """
    try:
        schema = Schema.from_json(strategy.schema)
        network = model or _network(strategy.spec["model"], schema)
        algorithm = ALGORITHMS[strategy.spec["algorithm"]](network, **strategy.spec["arguments"])
    except (AttributeError, KeyError, TypeError, SchemaError, ConfigError, ModelError) as error:
        raise ArtifactError(f"{where} has a specification that this library cannot rebuild ({error}): was it written by another version?") from error
    tree_file.fit(strategy.meta, algorithm.init(random.key(0)), where)
    if strategy.calibration:
        tree_file.fit(strategy.calibration, template(schema.outputs if schema.kind == "classification" else 0, schema.outputs), where)
    return algorithm, schema


def _network(table: dict[str, Any], schema: Schema) -> Model:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items() if key != "name"}
    return build_model(table["name"], schema.input_shape, schema.outputs, schema.kind, **options)
