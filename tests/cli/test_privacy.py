"""What a private training costs, as the command tells it: its figures are those of dp-accounting, called here on its own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny import run, write_digits

dp = pytest.importorskip("dp_accounting")
pld = pytest.importorskip("dp_accounting.pld")
rdp = pytest.importorskip("dp_accounting.rdp")

Capture = pytest.CaptureFixture[str]
Run = Callable[..., str]

ADD, REPLACE = dp.NeighboringRelation.ADD_OR_REMOVE_ONE, dp.NeighboringRelation.REPLACE_ONE
ROW = re.compile(r"(\d+) │ +(-|[\d.]+) │ +([\d.]+) ")


def written(folder: Path, table: str) -> Path:
    """A config with 8 training clients, cohorts of 2, 3 rounds, and this table of privacy."""
    return write_digits(folder, ("cohort = 4", "cohort = 2"), ("[algorithm.fedavg]", f"[train.privacy]\n{table}\n[algorithm.fedavg]"))


def shown(config: Path, capsys: Capture, *words: str) -> tuple[dict[str, str], dict[int, tuple[str, str]]]:
    """The lines of the plan by their first words, and the costs by the number of rounds."""
    assert run("privacy", config, *words) == 0
    out = capsys.readouterr().out
    lines = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in out.splitlines()]
    costs = {int(found[1]): (found[2], found[3]) for found in ROW.finditer(out)}
    return {line[0]: line[1] for line in lines if len(line) == 2}, costs


def spent(accountant: Any, event: Any, rounds: int) -> str:
    return f"{accountant.compose(dp.SelfComposedDpEvent(event, rounds)).get_epsilon(1e-5):.4f}"


def test_epsilon_printed_equals_dp_accountings(tmp_path: Path, capsys: Capture) -> None:
    plan, costs = shown(written(tmp_path, "epsilon = 3.0\nnoise_multiplier = 2.5\nclip = 0.5"), capsys)
    event = dp.PoissonSampledDpEvent(0.25, dp.GaussianDpEvent(2.5))
    assert sorted(costs) == [1, 2, 3, 6, 12]
    for rounds, figures in costs.items():
        assert figures == (spent(pld.PLDAccountant(ADD), event, rounds), spent(rdp.RdpAccountant(None, ADD), event, rounds))
    assert plan["noise multiplier"].startswith("2.5: ")
    assert plan["cohort"] == "2 of 8 clients: each client on its own, with probability 0.25"
    assert plan["budget"] == "epsilon 3 at delta 1e-05, by PLD"


def test_epsilon_of_fixed_cohorts_equals_dp_accountings(tmp_path: Path, capsys: Capture) -> None:
    _, costs = shown(written(tmp_path, 'noise_multiplier = 4.0\nsampling = "fixed"'), capsys)
    event = dp.SampledWithoutReplacementDpEvent(8, 2, dp.GaussianDpEvent(2.0))
    assert costs[3] == ("-", spent(rdp.RdpAccountant(None, REPLACE), event, 3))


def test_the_noise_that_is_found_spends_the_budget_and_not_more(tmp_path: Path, capsys: Capture) -> None:
    plan, costs = shown(written(tmp_path, "epsilon = 4.0"), capsys)
    assert 3.98 < float(costs[3][0]) <= 4.0
    assert plan["rounds"] == "3 planned; the budget bears all of them"


def test_a_budget_that_is_too_small_says_when_training_stops(tmp_path: Path, capsys: Capture) -> None:
    plan, costs = shown(written(tmp_path, "epsilon = 1.5\nnoise_multiplier = 1.5"), capsys)
    assert float(costs[1][0]) <= 1.5 < float(costs[2][0])
    assert plan["rounds"] == "3 planned; the budget bears 1, then training stops"


def test_noise_on_the_mean_is_the_noise_multiplier_times_the_bound_over_the_cohort(tmp_path: Path, capsys: Capture) -> None:
    plan, _ = shown(written(tmp_path, "noise_multiplier = 2.0\nclip = 0.5"), capsys, "--algorithm", "fedavg")
    numbers = 64 * 16 + 16 + 16 * 8 + 8 + 8 * 10 + 10
    assert plan["message"] == f"{numbers:,} numbers, with a Euclidean norm of at most 0.5"
    norm = 2.0 / 2 * math.sqrt(numbers)
    assert plan["noise on the mean"].startswith(f"{2.0 * 0.5 / 2:.4g} on each number; {norm:.3g} of the bound in norm")


def test_under_secure_aggregation_every_clients_share_is_told(tmp_path: Path, capsys: Capture) -> None:
    table = 'noise_multiplier = 3.0\nmechanism = "skellam"\nsteps = 1024\nanswering = 0.5\nclip = 2.0'
    plan, costs = shown(written(tmp_path, table), capsys)
    assert plan["mechanism"].startswith("Skellam noise, a share from every client")
    deviation = 3.0 * 1024  # one client's noise alone is the multiplier times the bound in steps
    assert plan["a client's share"].startswith(f"noise of deviation {deviation:.4g} steps of {2.0 / 1024:.4g}, within ")
    assert "those of 1 out of 2 are counted on" in plan["a client's share"]
    assert plan["noise on the mean"].startswith(f"{3.0 * math.sqrt(2) * 2.0 / 2:.4g} on each number")
    assert all(figures[0] == "-" for figures in costs.values())


def test_clipping_that_adapts_and_bounds_by_block_are_told(tmp_path: Path, capsys: Capture) -> None:
    plan, _ = shown(written(tmp_path, "noise_multiplier = 2.0\nquantile = 0.5\nindicator_noise = 2.0"), capsys)
    assert "1, at the start: it then follows the quantile 0.5 of the clients' norms" in plan["message"]
    spread = (2.0**-2 - 4.0**-2) ** -0.5 / 2  # Andrew et al. 2021, Theorem 1
    assert plan["noise on the mean"].startswith(f"{spread:.4g} on each number")
    plan, _ = shown(written(tmp_path, "noise_multiplier = 2.0\nclip = {z = 3.0, head = 4.0}"), capsys)
    assert "at most 5 (z 3, head 4)" in plan["message"]


@pytest.mark.parametrize(("table", "words", "message"), [
    (None, (), "tiny asks for no privacy: add a table [train.privacy]"),
    ("epsilon = 1.0", ("--algorithm", "local"), "the algorithm 'local' sends nothing"),
    ("epsilon = 1.0", ("--algorithm", "fedavgg"), "unknown algorithm 'fedavgg': did you mean 'fedavg'"),
    ("epsilon = -1.0", (), "epsilon is -1.0, expected a number above 0"),
])  # fmt: skip
def test_a_config_without_a_plan_is_one_clear_error(tmp_path: Path, refused: Run, table: str | None, words: tuple[str, ...], message: str) -> None:
    config = write_digits(tmp_path) if table is None else written(tmp_path, table)
    assert message in refused("privacy", config, *words)
