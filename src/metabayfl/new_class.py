"""A class that the federation never saw: one more row of a conjugate classification head's prior.

The new class's mean is one more draw from where class means lie. So its prior is centred on the mean of the others' ``mu0``, and per feature its
variance is that of the others around it plus their own::

    v_j = var_c(mu0_cj) + mean_c 1/(t kappa_cj)    k_C = mean_j [ -log(t v_j) - k - k_M_j ]

its share ``log a`` is the mean of the others'. The rows of the old classes stay as they are, so that their odds among each other do too; a client
needs nothing else, and nothing leaves it.
"""

from __future__ import annotations

import dataclasses

import torch

from metabayfl.artifact import Strategy
from metabayfl.compression import CODECS
from metabayfl.data.schema import Schema
from metabayfl.errors import ConfigError, SchemaError
from metabayfl.heads.conjugate_classification import kappa
from metabayfl.types import Tree


def with_class(strategy: Strategy, name: str) -> Strategy:
    """The strategy with one more class, the last; its provenance names the digest that it comes from.

    What was measured on validation clients does not hold for it any more, so that it has no figures and no calibration of theirs.

    Args:
        strategy: of meta_bayfl, classification.
        name: of the class, not one of the schema's.

    Raises:
        ConfigError: if the strategy has no conjugate classification head.
        SchemaError: if the name is empty, not a text, or known already.
    """
    prior = strategy.meta.get("head", {})
    if not isinstance(prior, dict) or "mu0" not in prior:
        raise ConfigError(f"this strategy of {strategy.spec.get('algorithm')} has no conjugate head for classes: a new class needs one of meta_bayfl")
    schema = Schema.from_json(strategy.schema)
    if not isinstance(name, str) or not name.strip():
        raise SchemaError(f"class {name!r}: expected a name")
    if name in schema.classes:
        raise SchemaError(f"class {name!r} is one of the schema's already: give its samples to personalize or update as they are")
    meta = CODECS[strategy.codec]().round_trip({**strategy.meta, "head": row_more(prior)}, None)
    provenance = {**strategy.provenance, "new_class": name, "derived_from": strategy.digest()}
    wider = dataclasses.replace(schema, classes=(*schema.classes, name))
    return dataclasses.replace(strategy, meta=meta, schema=wider.to_json(), provenance=provenance, figures={}, calibration={})


def row_more(prior: Tree) -> Tree:
    """A conjugate classification head's prior with one more class, by the equations above."""
    t, centre = torch.exp(prior["log_t"]), prior["mu0"].mean(0)
    spread = prior["mu0"].var(0, correction=1) + (1.0 / (t * kappa(prior))).mean(0)
    width = (-torch.log(t * spread) - prior["k"] - prior["k_M"]).mean()
    rows = {"mu0": centre, "k_C": width, "log_a": prior["log_a"].mean()}
    return {**prior, **{name: torch.cat([prior[name], row.unsqueeze(0)]) for name, row in rows.items()}}
