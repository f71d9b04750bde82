"""What secure aggregation costs: run by hand, ``python benchmarks/secure_aggregation.py [--quick]``.

Every row is two whole rounds in one process, every message as bytes, all clients run: one in which nobody is lost, and one in which a tenth falls
silent after it shared its secrets, which is the dearest moment for the server. Times are CPU seconds on one thread; a client's is the median over
the clients of the first round, the server's the whole of its round without sending or writing anything.

The limit is what no program in this protocol can avoid with these primitives: two key agreements for each neighbour, and the keystream of its masks
at the cipher's own rate. Both are measured here, in the same run, with nothing around them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from metabayfl.privacy.secure_aggregation import Setup, masks, packing, server, session
from metabayfl.privacy.secure_aggregation.primitives import agreement, fresh, public_key, stream

COHORTS, LENGTHS = (10, 100, 1000), (2_000, 7_000, 100_000)
CODE_BITS = 16
LOST = 0.1
ASSUMED = {"colluding": 0.1, "dropouts": 0.3}


class Primitives(NamedTuple):
    """What this machine's library does alone."""

    agreement: float  # seconds of one X25519 exchange, its keys loaded
    keystream: float  # bytes per second of ChaCha20 into memory that is there
    addition: float  # bytes per second of adding words


class Row(NamedTuple):
    """One cohort and length."""

    setup: Setup
    cohort: int
    sent: int
    received: int
    client: float  # seconds
    server: float
    server_lost: float


def seconds(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of one call, the best of five."""
    rounds = []
    for _ in range(5):
        begun = time.process_time()
        for _ in range(repeats):
            work()
        rounds.append((time.process_time() - begun) / repeats)
    return min(rounds)


def primitives() -> Primitives:
    agree, public = agreement(fresh()), public_key(fresh())
    block, buffer = bytes(masks.BLOCK_BYTES), bytearray(masks.BLOCK_BYTES)
    source = stream(fresh())
    words, mask = np.zeros(masks.BLOCK_BYTES // 4, np.uint32), np.frombuffer(buffer, np.uint32)
    cipher = seconds(lambda: source.update_into(block, buffer), 500)
    added = seconds(lambda: np.add(words, mask, out=words), 2000)
    return Primitives(seconds(lambda: agree(public), 500), masks.BLOCK_BYTES / cipher, masks.BLOCK_BYTES / added)


def measure(cohort: int, length: int) -> Row:
    """Two rounds; both sums are checked."""
    bits = CODE_BITS + (cohort - 1).bit_length()
    vector = np.random.default_rng(5).integers(0, 2**CODE_BITS, length, dtype=np.uint64)
    inputs = {f"client-{number:04d}": vector for number in range(cohort)}
    lost = set(list(inputs)[:: round(1 / LOST)])
    plan = server.plan(cohort, length, bits, **ASSUMED)
    outcomes = [session.run(plan, inputs, drop) for drop in ({}, {"mask": lost})]
    for outcome, counted in zip(outcomes, (cohort, cohort - len(lost)), strict=True):
        if not np.array_equal(outcome.total, vector * np.uint64(counted) & packing.largest(bits)):
            raise AssertionError(f"the sum of {counted} clients is wrong")
    costs = list(outcomes[0].costs.values())
    sent, received, client = (statistics.median(getattr(cost, field) for cost in costs) for field in ("sent", "received", "seconds"))
    return Row(plan, cohort, round(sent), round(received), client, *(outcome.server_seconds for outcome in outcomes))


def limit(row: Row, alone: Primitives) -> tuple[float, float]:
    """Keystream bytes of a client, and the seconds that it cannot do without."""
    peers = min(row.setup.degree, row.cohort - 1)
    keystream = (peers + 1) * row.setup.length * masks.word(row.setup.bits).itemsize
    return keystream, 2 * peers * alone.agreement + keystream / alone.keystream


def line(row: Row, alone: Primitives) -> str:
    """A row of the table."""
    setup = row.setup
    keystream, least = limit(row, alone)
    plain = packing.packed_bytes(setup.length, setup.bits)
    cells = [f"{row.cohort:,}", f"{setup.length:,}", setup.degree, setup.threshold, setup.bits, f"{plain / 1e3:.1f}", f"{row.sent / 1e3:.1f}"]
    cells += [
        f"{row.received / 1e3:.1f}",
        f"{keystream / 1e6:.2f}",
        f"{1e3 * row.client:.1f}",
        f"{1e3 * least:.1f}",
        f"{100 * least / row.client:.0f} %",
    ]
    return "| " + " | ".join(str(cell) for cell in [*cells, f"{1e3 * row.server:.0f}", f"{1e3 * row.server_lost:.0f}"]) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the cohort of 1,000")
    cohorts = COHORTS[:-1] if parser.parse_args().quick else COHORTS
    alone = primitives()
    print(f"X25519 {1e6 * alone.agreement:.0f} us, ChaCha20 {alone.keystream / 1e9:.2f} GB/s, addition {alone.addition / 1e9:.1f} GB/s, one thread\n")
    print(
        "| clients | numbers | k | t | bits | packed, kB | sent, kB | received, kB | keystream, MB | client, ms | limit, ms | limit/client ", end=""
    )
    print("| server, ms | server, a tenth lost, ms |\n" + "|---" * 14 + "|")
    for cohort in cohorts:
        for length in LENGTHS:
            print(line(measure(cohort, length), alone), flush=True)


if __name__ == "__main__":
    main()
