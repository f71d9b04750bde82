"""What a study says of itself: plain JSON, from the strategy, the options, the federations and the ledgers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from metabayfl import config, storage
from metabayfl.artifact import load_strategy
from metabayfl.data import build_federation
from metabayfl.data.federation import Federation, in_memory
from metabayfl.engine.options import TrainOptions
from metabayfl.privacy import ledger
from metabayfl.privacy.accounting import Plan
from metabayfl.provenance import about, data_facts
from tiny import write_patients


def test_data_facts_count_clients_and_samples_without_their_data(tmp_path: Path) -> None:
    federation = build_federation(config.read(write_patients(tmp_path, "outcome")).data, 3)
    facts = data_facts(federation, 3)
    assert facts["seed"] == 3
    assert facts["fingerprint"] == federation.fingerprint
    assert facts["clients"]["training"] == {"clients": 6, "samples": 84, "fewest": 14, "most": 14}
    text = json.dumps(facts)
    assert not [name for name in federation.train.ids if f'"{name}"' in text]


def test_a_group_without_clients_has_no_samples(tmp_path: Path) -> None:
    whole = build_federation(config.read(write_patients(tmp_path, "outcome")).data, 0)
    few = in_memory(["a", "b"], [(np.zeros((rows, 2), np.float32), np.zeros(rows, np.int64)) for rows in (3, 5)], [1, 1])
    facts = data_facts(Federation("two", few, in_memory([], [], []), few, whole.schema, "f" * 64), 0)
    assert facts["clients"]["training"] == {"clients": 2, "samples": 8, "fewest": 3, "most": 5}
    assert facts["clients"]["validation"] == {"clients": 0, "samples": 0, "fewest": 0, "most": 0}


def test_about_is_plain_json_of_the_strategy_and_its_training(digits_study: Path) -> None:
    path = digits_study / "strategy.safetensors"
    plan = Plan(clients=100, cohort=10, noise_multiplier=1.0, sampling="poisson", mechanism="gaussian", accountant="rdp", grid=None)
    book = ledger.Ledger("run", plan, budget=8.0, delta=1e-5, source="secure", affordable=9, releases=4, spent=2.5)
    found = about(load_strategy(path), TrainOptions(rounds=7), [], [(5, book)])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["strategy"]["bytes"] == path.stat().st_size
    assert found["strategy"]["digest"] == load_strategy(path).digest()
    assert found["training"]["rounds"] == 7
    (spent,) = found["privacy"]
    assert (spent["seed"], spent["spent"], spent["releases"], spent["source"]) == (5, 2.5, 4, "secure")
    written = storage.read_json(digits_study / "summary.json")["about"]
    assert written["strategy"] == found["strategy"]
    assert written["inputs"] == found["inputs"]
