"""A made-up study in the three files' shapes, small and seeded, shared by the tests of the report."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from metabayfl import storage
from metabayfl.engine.options import TrainOptions

CLASS_KEYS = ("accuracy", "nll", "brier", "ece", "ece_worst_client", "accuracy_worst_decile", "auroc_unseen", "accuracy_at_80_coverage")
REGRESSION_KEYS = ("rmse", "nll", "crps", "coverage_90")
COST_KEYS = ("bytes_up", "bytes_down", "adapt_ms", "predict_ms", "train_seconds", "peak_memory_mb", "rounds")


def summary(names: tuple[str, ...], *, regression: bool = False, seeds: int = 2) -> dict[str, Any]:
    keys = (*(REGRESSION_KEYS if regression else CLASS_KEYS), *COST_KEYS)
    entries = {}
    for at, name in enumerate(names):
        rows = [dict.fromkeys(keys, 0.5 + 0.01 * at + 0.001 * seed) | {"bytes_up": 4000.0 * at, "bytes_down": 4000.0 * at} for seed in range(seeds)]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        entries[name] = {"mean": mean, "sd": dict.fromkeys(mean, 0.05 if seeds > 1 else 0.0), "per_seed": rows}
    own = about("meta_bayfl" if "meta_bayfl" in names else names[0], regression=regression, seeds=seeds)
    return {"title": "toy", "seeds": list(range(seeds)), "versions": {"metabayfl": "0"}, "algorithms": entries, "about": own}


def about(name: str, *, regression: bool = False, seeds: int = 2) -> dict[str, Any]:
    """What the strategy is: of the algorithm ``name``, and every text from data is ``name`` too where it is hostile."""
    hostile = "<" in name
    said = name if hostile else "age"
    groups = {"training": 8, "validation": 2, "held-out": 6}
    clients = {role: {"clients": count, "samples": 40 * count, "fewest": 30, "most": 50} for role, count in groups.items()}
    kinds = {"classes": [], "targets": ["y"]} if regression else {"classes": ["a", "b", "c"], "targets": []}
    return {
        "strategy": {
            "algorithm": name,
            "arguments": {"rounds": 12},
            "model": {"name": "mlp", "hidden": [16, 8]},
            "seed": 0,
            "rounds": 12,
            "best_round": 9,
            "codec": "int8",
            "numbers": 455,
            "bytes": 5347,
            "digest": "d" * 64,
            "calibrated": True,
        },
        "inputs": {
            "kind": "regression" if regression else "classification",
            "form": "table",
            "shape": [3],
            "features": [{"name": said, "categories": []}, {"name": "sex", "categories": ["f", "m"]}],
            **kinds,
        },
        "data": [
            {"seed": seed, "name": said, "fingerprint": f"{seed:064d}", "notes": [said] if hostile else [], "clients": clients}
            for seed in range(seeds)
        ],
        "training": storage.plain(dataclasses.asdict(TrainOptions(rounds=12))),
        "privacy": [],
    }


def metrics(names: tuple[str, ...], seeds: int = 2, rounds: int = 12) -> list[dict[str, Any]]:
    return [
        {"algorithm": name, "seed": seed, "round": at, "loss": 2.0 / at + 0.1 * seed, "validation": 1.0 / at if at % 3 == 0 else None}
        for name in names
        for seed in range(seeds)
        for at in range(1, rounds + 1)
    ]


def _spread(rng: np.random.Generator, count: int, scale: float) -> dict[str, Any]:
    values = rng.exponential(scale, count)
    return {"n": count, "quantiles": np.quantile(values, np.linspace(0, 1, 101)).tolist() if count else []}


def class_entry(seed: int = 0, clients: int = 6, *, epistemic: bool = True) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    groups = {
        kind: {"right": _spread(rng, 80, 0.2), "wrong": _spread(rng, 20, 0.8), "unseen": _spread(rng, 50, 1.0)} for kind in ("total", "epistemic")
    }
    middles = (np.arange(15) + 0.5) / 15
    return {
        "reliability": {"examples": rng.integers(0, 30, 15).tolist(), "confidence": middles.tolist(), "accuracy": rng.uniform(size=15).tolist()},
        "clients": {
            "id": [f"client {at}" for at in range(clients)],
            "n": [20] * clients,
            "support": [10] * clients,
            "accuracy": rng.uniform(0.5, 1, clients).tolist(),
            "nll": rng.uniform(0.1, 1, clients).tolist(),
        },
        "classes": {"name": ["a", "b", "c"], "test": [60, 60, 0], "shown": [clients, clients, 1]},
        "uncertainty": {"total": groups["total"], "epistemic": groups["epistemic"] if epistemic else None},
        "referral": {"referred": [0.0, 0.2, 0.4], "accuracy": [0.8, 0.9, 0.95]},
    }


def regression_entry(seed: int = 0, clients: int = 6, targets: tuple[str, ...] = ("y",)) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    true = rng.normal(10, 3, 150)
    mean = true + rng.normal(0, 1, 150)
    points = {"true": true.tolist(), "mean": mean.tolist(), "low": (mean - 1.6).tolist(), "high": (mean + 1.6).tolist()}
    return {
        "points": [{"target": target, **points} for target in targets],
        "coverage": {"nominal": [0.1, 0.5, 0.9], "observed": [0.12, 0.48, 0.91]},
        "clients": {
            "id": [f"client {at}" for at in range(clients)],
            "n": [25] * clients,
            "support": [10] * clients,
            "rmse": rng.uniform(0.5, 2, clients).tolist(),
            "nll": rng.uniform(0.1, 1, clients).tolist(),
        },
    }


NAMES = ("fedavg", "local", "meta_bayfl")


def class_study() -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    kept = {name: [class_entry(seed, epistemic=name == "meta_bayfl") for seed in range(2)] for name in NAMES}
    return summary(NAMES), metrics(("fedavg", "meta_bayfl")), kept


def regression_study() -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    kept = {name: [regression_entry(seed, targets=("motor", "total")) for seed in range(2)] for name in NAMES}
    return summary(NAMES, regression=True), metrics(("fedavg", "meta_bayfl")), kept
