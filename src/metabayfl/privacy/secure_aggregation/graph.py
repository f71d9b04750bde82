"""Who masks with whom: the regular graph of Bell, Bonawitz, Gascon, Lepoint and Raykova 2020 (section 3, the semi-honest protocol).

The clients stand in a ring in an order that the round's public seed draws, and each has as neighbours the ``k / 2`` next to it on either side: a
Harary graph under a random permutation. Masks and shares go to neighbours alone, so a client's work grows with the logarithm of the cohort. Three
events must be unlikely for that to be as good as the complete graph (their E1, E2 and E3); :func:`choose` bounds their probabilities.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metabayfl.errors import ConfigError

LARGEST_COHORT = 2**16 - 1
"""Each client needs a place of its own for its shares (:data:`metabayfl.privacy.secure_aggregation.shamir.ORDER`)."""


SMALL_COHORT = 64
"""Up to here all mask with all: little would be saved, and a share of so few clients is too coarse a number to rely on."""


class Choice(NamedTuple):
    """The graph of a cohort: ``degree`` neighbours for each client, ``threshold`` shares to rebuild a secret."""

    degree: int
    threshold: int


def seed(session: bytes, number: int) -> bytes:
    """The round's public seed: everybody can compute it, and nobody chooses it once the session's name is drawn."""
    return hashlib.sha256(b"metabayfl secure aggregation graph" + session + number.to_bytes(4, "little")).digest()


@functools.lru_cache(8)
def neighbours(seed: bytes, count: int, degree: int) -> NDArray[np.int64]:
    """The neighbours of all clients, who are numbered from 0 to ``count - 1``.

    Args:
        seed: 32 public bytes; they draw the order in the ring.
        count: clients.
        degree: ``k``; an even number, or at least ``count - 1``, which gives the complete graph.

    Returns:
        Shape ``(count, min(degree, count - 1))``, ascending in each row.

    Example:
        >>> neighbours(bytes(32), 4, 2).tolist()
        [[2, 3], [2, 3], [0, 1], [0, 1]]
    """
    if degree < count - 1 and (degree < 2 or degree % 2):
        raise ConfigError(f"a graph of degree {degree} among {count} clients: expected an even degree from 2, or {count - 1} and more")
    if degree >= count - 1:
        rows = np.stack([np.delete(np.arange(count), i) for i in range(count)])
    else:
        numbers = np.frombuffer(hashlib.shake_256(seed + count.to_bytes(4, "little")).digest(8 * count), "<u8")
        ring = np.argsort(numbers, kind="stable")
        steps = np.concatenate([np.arange(1, degree // 2 + 1), -np.arange(1, degree // 2 + 1)])
        rows = np.empty((count, degree), np.int64)
        rows[ring] = np.sort(ring[(np.arange(count)[:, None] + steps) % count], 1)
    rows.flags.writeable = False  # it is cached
    return rows


@functools.lru_cache(64)
def choose(cohort: int, *, colluding: float = 0.1, dropouts: float = 0.3, failure: float = 2.0**-40) -> Choice:
    """The smallest degree, and a threshold for it, with which all goes well but for a probability of ``failure``.

    Each of three events may have a third of it, over the draw of the ring, with ``n`` clients of whom ``c`` collude with the server and ``d``
    drop out (their places in the ring being no better than random: both are settled without regard to the seed):

    - E1, somebody's privacy: a client has ``t`` colluding neighbours, who could rebuild both of its secrets. At most
      ``n P[Hyp(n - 1, c, k) >= t]``.
    - E2, somebody's privacy: honest survivors fall into parts, whose sums would come out one by one. Two runs of ``k / 2`` neighbours in the ring
      must then be missing, so at most ``n (n - 1) / 2`` times the probability that ``k`` given clients all collude or dropped out.
    - E3, the round: a client's secret cannot be rebuilt. A dropped client's key needs ``t`` of ``k`` neighbours, a survivor's seed needs ``t`` of its
      ``k`` neighbours and itself: at most ``d P[Hyp(n - 1, d - 1, k) > k - t] + (n - d) P[Hyp(n - 1, d, k) > k + 1 - t]``.

    Of the thresholds that these leave, the one nearest to a majority of the ``k + 1`` holders of a seed is taken: with a majority a server that tells
    different clients different stories about who survived gains nothing, unless clients help it. The complete graph needs no luck: there
    ``c < t <= n - d`` is enough.

    Args:
        cohort: ``n`` clients that are asked.
        colluding: the assumed share of clients that tell the server what they know.
        dropouts: the share of clients that may fall silent on the way.
        failure: the probability, over the draw of the graph, that the cohort's privacy or the round is lost.

    Raises:
        ConfigError: if no threshold does it, not even in the complete graph.

    Example:
        >>> choose(3), choose(10), choose(1000, colluding=0.05, dropouts=0.05)
        (Choice(degree=2, threshold=2), Choice(degree=9, threshold=6), Choice(degree=36, threshold=19))
    """
    if not 2 <= cohort <= LARGEST_COHORT:
        raise ConfigError(f"secure aggregation among {cohort} clients: expected 2 to {LARGEST_COHORT}; a cohort of one has nobody to hide among")
    if not (0 <= colluding < 1 and 0 <= dropouts < 1 and 0 < failure < 1):
        raise ConfigError(f"colluding = {colluding}, dropouts = {dropouts}, failure = {failure:g}: expected shares from 0 below 1")
    bad, gone = _part(colluding, cohort), _part(dropouts, cohort)
    sparse = range(2, cohort - 1, 2) if cohort > SMALL_COHORT else range(0)
    for degree in [*sparse, cohort - 1]:
        least, most = _thresholds(cohort, degree, bad, gone, failure / 3)
        if least <= most:
            return Choice(degree, min(max((degree + 1) // 2 + 1, least), most))
    raise ConfigError(
        f"of {cohort} clients {bad} may collude and {gone} drop out, which leaves no threshold: lower the shares "
        f"(colluding = {colluding}, dropouts = {dropouts}), or ask more clients"
    )


def _part(share: float, cohort: int) -> int:
    return math.floor(share * cohort + 1e-9)  # 0.29 * 100 is a little below 29


def _thresholds(n: int, k: int, bad: int, gone: int, failure: float) -> tuple[int, int]:
    """The least threshold that E1 allows and the largest that E3 does; an empty range where E2 is too likely."""
    if k < n - 1 and _disconnected(n, k, bad + gone) > failure:
        return 1, 0
    seen = n * _tails(n - 1, bad, k)[2:]
    least = 2 + int(np.argmax(seen <= failure))
    owner, others = _tails(n - 1, max(gone - 1, 0), k), _tails(n - 1, gone, k)
    lost = gone * owner[:-1] + (n - gone) * others[1:]  # for the thresholds k + 1, k, ...
    return least, k + 1 - int(np.argmax(lost <= failure))


def _disconnected(n: int, k: int, missing: int) -> float:
    """The bound on E2."""
    if k > missing:
        return 0.0
    log = _log_factorials(n)
    return math.exp(math.log(n * (n - 1) / 2) + log[n - k] - log[missing - k] - log[n] + log[missing])


def _tails(population: int, marked: int, draws: int) -> NDArray[np.float64]:
    """``P[X >= i]`` for ``i`` from 0 to ``draws + 2`` where ``X`` counts the marked ones among so many draws without replacement."""
    log, chances = _log_factorials(population), np.zeros(draws + 3)
    hits = np.arange(max(0, marked + draws - population), min(marked, draws) + 1)
    misses = draws - hits
    ways = log[marked] - log[hits] - log[marked - hits] + log[population - marked] - log[misses] - log[population - marked - misses]
    chances[hits] = np.exp(ways - log[population] + log[draws] + log[population - draws])
    return np.cumsum(chances[::-1])[::-1]


@functools.lru_cache(8)
def _log_factorials(largest: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, largest + 1)))])
