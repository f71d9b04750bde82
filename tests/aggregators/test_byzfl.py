"""Our rules against byzfl 0.0.11's on the same inputs: as it answered once, and as it answers here where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metabayfl.aggregators import clipping, coordinates, geometric, krum, mixing, screening
from metabayfl.attacks import AttackOptions, build_attack
from metabayfl.random import key
from metabayfl.types import Message

FILE = Path(__file__).with_name("byzfl_reference.json")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "byzfl_reference.py"
CASES = json.loads(FILE.read_text(encoding="utf-8"))


def clipped(matrix: Tensor) -> Tensor:
    return screening.bound_blocks(Message({"all": matrix}, torch.ones(len(matrix)), {}), {"all": 1.5}).update["all"]


def sent(name: str, strength: float) -> Callable[[Tensor], Tensor]:
    """What a hostile client sends that sees the rows of ``matrix``; it stands behind them."""

    def attack(matrix: Tensor) -> Tensor:
        messages = Message({"all": torch.cat([matrix, torch.zeros_like(matrix[:1])])}, torch.ones(len(matrix) + 1), {})
        last = torch.arange(len(matrix) + 1) == len(matrix)
        return build_attack(AttackOptions(name, strength=strength), "classification", 2).messages(messages, last, key(0)).update["all"][-1]

    return attack


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "median": lambda x: coordinates.median(x, 3),
    "trimmed_mean": lambda x: coordinates.trimmed_mean(x, 3),
    "krum": lambda x: krum.krum(x, 3),
    "multi_krum": lambda x: krum.multi_krum(x, 3),
    "geometric_median": lambda x: geometric.geometric_median(x, 3, passes=3, smoothing=0.1),
    "geometric_median_long": lambda x: geometric.geometric_median(x, 3, passes=60),
    "centred_clipping": lambda x: clipping.clip_around(x, torch.zeros_like(x[0]), 0.7, steps=4),
    "nearest_neighbour_mixing": lambda x: mixing.nearest_neighbour_mixing(x, 3),
    "mixed_trimmed_mean": lambda x: coordinates.trimmed_mean(mixing.nearest_neighbour_mixing(x, 3), 3),
    "clipped": clipped,
    "inner_product": sent("inner_product", 0.5),
    "a_little": sent("a_little", 1.2),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RULES)
def test_agrees_with_byzfl(case: str, name: str) -> None:
    given = torch.tensor(CASES[case]["inputs"], dtype=torch.float64)
    expected = torch.tensor(CASES[case]["outputs"][name], dtype=torch.float64)
    torch.testing.assert_close(RULES[name](given), expected, rtol=1e-9, atol=1e-9)


def test_every_answer_is_compared() -> None:
    assert all(set(case["outputs"]) == set(RULES) for case in CASES.values())


def test_byzfl_still_gives_these_answers(tmp_path: Path) -> None:
    pytest.importorskip("byzfl")
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "today.json")], check=True)
    today = json.loads((tmp_path / "today.json").read_text(encoding="utf-8"))
    for name, case in CASES.items():
        assert today[name]["inputs"] == case["inputs"]
        for rule, expected in case["outputs"].items():
            torch.testing.assert_close(torch.tensor(today[name]["outputs"][rule]), torch.tensor(expected), rtol=1e-6, atol=1e-9)
