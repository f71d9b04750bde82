"""Where a study's figures come from, as small plain JSON: what its model card says beside them.

``summary.json`` holds it under ``about``::

    strategy   {algorithm, arguments, model, seed, rounds, best_round, codec, numbers, bytes, digest, calibrated}
    inputs     {kind, form, shape, features, classes, targets}    features by name, with their categories
    data       one for each seed: {seed, name, fingerprint, notes, clients: {training | validation | held-out: {...}}}
    training   the options of the strategy's training
    privacy    one for each seed with a ledger: {seed, spent, releases, budget, delta, source, mechanism, sampling}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from metabayfl import storage, tree
from metabayfl.artifact import Strategy
from metabayfl.data.federation import Clients, Federation
from metabayfl.engine.options import TrainOptions
from metabayfl.privacy.ledger import Ledger


def about(strategy: Strategy, options: TrainOptions, data: Sequence[dict[str, Any]], ledgers: Sequence[tuple[int, Ledger]]) -> dict[str, Any]:
    """Everything that the module's docstring lists.

    Args:
        strategy: the one that the study ships.
        options: of its training.
        data: what :func:`data_facts` says of every seed.
        ledgers: of the runs of the strategy's algorithm, with their seeds; none without privacy.
    """
    return {
        "strategy": _strategy(strategy),
        "inputs": _inputs(strategy.schema),
        "data": list(data),
        "training": storage.plain(dataclasses.asdict(options)),
        "privacy": [_spent(seed, ledger) for seed, ledger in ledgers],
    }


def data_facts(federation: Federation, seed: int) -> dict[str, Any]:
    """Who took part at one seed, without anybody's data; ``fewest`` and ``most`` are samples of a client."""
    groups = {"training": federation.train, "validation": federation.validation, "held-out": federation.heldout}
    return {
        "seed": seed,
        "name": federation.name,
        "fingerprint": federation.fingerprint,
        "notes": list(federation.notes),
        "clients": {role: _group(clients) for role, clients in groups.items()},
    }


def _group(clients: Clients) -> dict[str, int]:
    sizes = clients.sizes.tolist()
    return {"clients": len(sizes), "samples": sum(sizes), "fewest": min(sizes, default=0), "most": max(sizes, default=0)}


def _strategy(strategy: Strategy) -> dict[str, Any]:
    known = strategy.provenance
    return {
        **strategy.spec,
        **{name: known[name] for name in ("seed", "rounds", "best_round")},
        "codec": strategy.codec,
        "numbers": tree.size(strategy.meta),
        "bytes": len(strategy.to_bytes()),
        "digest": strategy.digest(),
        "calibrated": bool(strategy.calibration),
    }


def _inputs(schema: dict[str, Any]) -> dict[str, Any]:
    features = [{"name": item["name"], "categories": item["categories"]} for item in schema["features"]]
    facts = {name: schema[name] for name in ("kind", "form", "classes", "targets")}
    return {**facts, "shape": schema["input_shape"], "features": features}


def _spent(seed: int, ledger: Ledger) -> dict[str, Any]:
    facts = {name: getattr(ledger, name) for name in ("spent", "releases", "budget", "delta", "source")}
    return {"seed": seed, **facts, "mechanism": ledger.plan.mechanism, "sampling": ledger.plan.sampling}
