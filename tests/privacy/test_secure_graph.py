"""Who masks with whom: the graph's shape, and its parameters against exact probabilities and against draws."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from metabayfl.errors import ConfigError
from metabayfl.privacy.secure_aggregation.graph import LARGEST_COHORT, SMALL_COHORT, Choice, choose, neighbours, seed


def connected(rows: np.ndarray, there: np.ndarray) -> bool:
    """Whether the clients in ``there`` hang together."""
    reached, frontier = set(), [int(np.flatnonzero(there)[0])]
    while frontier:
        node = frontier.pop()
        if node not in reached:
            reached.add(node)
            frontier += [int(other) for other in rows[node] if there[other]]
    return len(reached) == there.sum()


@pytest.mark.parametrize(("count", "degree"), [(5, 2), (6, 4), (9, 8), (100, 12), (101, 38), (7, 20), (2, 1), (1, 2)])
def test_the_graph_is_regular_mutual_and_connected(count: int, degree: int) -> None:
    rows = neighbours(seed(bytes(16), 1), count, degree)
    assert rows.shape == (count, min(degree, count - 1))
    edges = {(i, int(j)) for i, row in enumerate(rows) for j in row}
    assert len(edges) == rows.size
    assert all(i != j and (j, i) in edges for i, j in edges)
    assert all((np.diff(row) > 0).all() for row in rows)
    assert connected(rows, np.ones(count, bool))


def test_the_graph_is_the_seeds_and_another_in_every_round() -> None:
    graphs = [neighbours(seed(bytes(16), number), 50, 6).tolist() for number in (1, 2, 1)]
    assert graphs[0] == graphs[2] != graphs[1]
    assert neighbours(seed(b"x" * 16, 1), 50, 6).tolist() != graphs[0]


def test_all_places_in_the_ring_are_as_likely() -> None:
    """How often clients 0 and 1 are neighbours: ``k / (n - 1)`` of 2,000 rounds, within five standard deviations."""
    met = sum(1 in neighbours(seed(bytes(16), number), 21, 4)[0] for number in range(2000))
    assert abs(met - 400) < 5 * math.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.parametrize("degree", [3, 1, 0])
def test_odd_degrees_are_refused(degree: int) -> None:
    with pytest.raises(ConfigError, match="expected an even degree from 2, or 9"):
        neighbours(bytes(32), 10, degree)


def chance(population: int, marked: int, draws: int, least: int) -> Fraction:
    """``P[X >= least]`` of a hypergeometric count, in whole numbers."""
    hits = range(max(least, 0), min(marked, draws) + 1)
    return Fraction(sum(math.comb(marked, i) * math.comb(population - marked, draws - i) for i in hits), math.comb(population, draws))


def failures(n: int, bad: int, gone: int, k: int, t: int) -> list[Fraction]:
    """The bounds on E1, E2 and E3, from their definitions."""
    seen = n * chance(n - 1, bad, k, t)
    cut = math.comb(n, 2) * Fraction(math.comb(bad + gone, k), math.comb(n, k))
    lost = (n - gone) * chance(n - 1, gone, k, k + 2 - t) + (gone * chance(n - 1, gone - 1, k, k + 1 - t) if gone else 0)
    return [seen, cut, lost]


@pytest.mark.parametrize("cohort", [65, 100, 300, 1000])
@pytest.mark.parametrize(("colluding", "dropouts"), [(0.1, 0.3), (0.05, 0.05), (0.2, 0.3), (0.0, 0.1), (0.3, 0.0)])
def test_the_degree_is_the_smallest_that_fails_rarely_enough(cohort: int, colluding: float, dropouts: float) -> None:
    bad, gone = round(colluding * cohort - 0.499999), round(dropouts * cohort - 0.499999)
    degree, threshold = choose(cohort, colluding=colluding, dropouts=dropouts)
    limit = Fraction(2.0**-40) / 3 * (1 + Fraction(1, 10**6))
    assert max(failures(cohort, bad, gone, degree, threshold)) <= limit
    smaller = (failures(cohort, bad, gone, degree - 2, t) for t in range(2, degree))
    assert degree == 2 or all(max(found) > limit * Fraction(999999, 1000000) for found in smaller)


@pytest.mark.parametrize("cohort", [3, 4, 10, 33, SMALL_COHORT])
def test_small_cohorts_have_the_complete_graph_and_a_majority(cohort: int) -> None:
    assert choose(cohort) == Choice(cohort - 1, cohort // 2 + 1)


def test_the_threshold_gives_way_to_what_is_assumed() -> None:
    assert choose(2) == Choice(1, 2)
    assert choose(10, colluding=0.75, dropouts=0.1) == Choice(9, 8)
    assert choose(10, colluding=0.1, dropouts=0.75) == Choice(9, 3)


def test_in_a_thousand_draws_nothing_fails_more_often_than_allowed() -> None:
    """With 100 clients and a failure allowed in a tenth of the rounds."""
    n, allowed = 100, 0.1
    degree, threshold = choose(n, colluding=0.2, dropouts=0.3, failure=allowed)
    bad, alive = np.arange(n) < 20, np.arange(n) < 70  # who they are does not matter: their places in the ring are drawn
    failed = 0
    for number in range(1000):
        rows = neighbours(seed(bytes(16), number), n, degree)
        seen = bad[rows].sum(1).max() >= threshold
        lost = ((alive[rows].sum(1) + alive) < threshold).any()
        failed += seen or lost or not connected(rows, alive & ~bad)
    assert degree < 40
    assert failed <= 1000 * allowed + 5 * math.sqrt(1000 * allowed)


@pytest.mark.parametrize("cohort", [1, 0, LARGEST_COHORT + 1])
def test_cohorts_of_one_or_too_many_are_refused(cohort: int) -> None:
    with pytest.raises(ConfigError, match="a cohort of one has nobody to hide among"):
        choose(cohort)


def test_shares_that_leave_no_threshold_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 may collude and 5 drop out"):
        choose(10, colluding=0.5, dropouts=0.5)
    with pytest.raises(ConfigError, match=r"colluding = 1\.0"):
        choose(10, colluding=1.0)
