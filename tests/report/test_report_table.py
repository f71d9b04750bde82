"""The comparison table as text and as cells."""

from __future__ import annotations

from typing import Any

import pytest
import report_data as data

from metabayfl.errors import ArtifactError
from metabayfl.report import comparison_table
from metabayfl.report.table import CLASSIFICATION, COST, REGRESSION, table


def entry(mean: dict[str, float | None], sd: dict[str, float | None] | None = None, seeds: int = 3) -> dict[str, Any]:
    return {"mean": mean, "sd": sd or {}, "per_seed": [{}] * seeds}


def study(**entries: Any) -> dict[str, Any]:
    return {"algorithms": entries}


def test_rows_come_by_rising_nll_and_unknown_last() -> None:
    found = comparison_table(study(a=entry({"nll": None, "accuracy": 0.1}), b=entry({"nll": 0.5}), c=entry({"nll": 0.2})))
    assert [row[0] for row in found] == ["algorithm", "c", "b", "a"]


def test_shares_are_percent_with_their_spread() -> None:
    found = comparison_table(study(a=entry({"accuracy": 0.88642}, {"accuracy": 0.0042}), b=entry({"accuracy": 0.7}, {"accuracy": 0.1})))
    assert found[1:] == [["a", "88.6 ± 0.4 *"], ["b", "70.0 ± 10.0"]]


def test_one_seed_has_no_spread_and_a_column_without_any_shows_none() -> None:
    assert comparison_table(study(a=entry({"accuracy": 0.5}, {"accuracy": 0.0}, seeds=1)))[1] == ["a", "50.0"]
    both = comparison_table(study(a=entry({"bytes_up": 4000.0}, {"bytes_up": 0.0}), b=entry({"bytes_up": 9000.0}, {"bytes_up": 0.0})), ("bytes_up",))
    assert both[1:] == [["a", "4.0 *"], ["b", "9.0"]]


@pytest.mark.parametrize(
    "key, values, best",
    [
        ("accuracy", (0.8, 0.9, 0.85), {1}),
        ("nll", (0.8, 0.3, 0.85), {1}),
        ("ece", (0.0201, 0.0199, 0.05), {0, 1}),  # the same as shown
        ("accuracy", (0.5, 0.5, 0.5), set()),
        ("bytes_up", (0.0, 5e3, 9e3), {1}),  # sending nothing wins nothing
        ("train_seconds", (0.0, 0.0, 9.0), set()),
        ("rounds", (10, 20, 30), set()),
    ],
)
def test_the_best_of_a_column(key: str, values: tuple[float, ...], best: set[int]) -> None:
    found = table(study(**{f"a{at}": entry({key: value}) for at, value in enumerate(values)}), (*CLASSIFICATION, *COST))
    assert {int(row.name[1]) for row in found.rows if row.cells[0].best} == best


def test_coverage_is_best_near_its_promise() -> None:
    found = table(study(a=entry({"rmse": 1.0, "coverage_90": 0.97}), b=entry({"rmse": 1.0, "coverage_90": 0.88})), REGRESSION)
    at = [column.key for column in found.columns].index("coverage_90")
    assert [row.cells[at].best for row in found.rows] == [False, True]


def test_default_columns_fit_a_terminal() -> None:
    assert len(comparison_table(data.summary(data.NAMES))[0]) <= 8
    assert comparison_table(data.summary(data.NAMES, regression=True))[0][:3] == ["algorithm", "RMSE", "NLL"]


@pytest.mark.parametrize("summary", [{}, {"algorithms": []}, {"algorithms": {"a": {}}}])
def test_what_is_no_summary_is_refused(summary: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"summary\.json"):
        comparison_table(summary)
