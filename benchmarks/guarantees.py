"""What prediction sets, referral and novelty are worth on held-out clients, at several levels, by how the thresholds were found.

    OMP_NUM_THREADS=1 METABAYFL_DATA=DIR python benchmarks/guarantees.py runs/dirichlet --config fashion_mnist_dirichlet

reads the strategies that ``metabayfl compare fashion_mnist_dirichlet --out runs/dirichlet`` left in the study's directory, one for each seed. Nothing
is trained or tuned here; every row asks the held-out clients once. With ``--draws 25`` it asks so often, each time with other rows of the client as
its own samples: where one client is held out, its twenty samples alone decide much of what comes out.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from metabayfl import config as configs
from metabayfl import personal, random
from metabayfl.calibration import temperature
from metabayfl.data import Clients, Federation, build_federation
from metabayfl.data.raw import Array
from metabayfl.evaluation import ClientCoverage, Promised, coverage, evaluate, metrics
from metabayfl.evaluation.scores import class_scores
from metabayfl.personal import PersonalStrategy
from metabayfl.uncertainty import refer, threshold_for_share
from spread import spread

LEVELS = (0.8, 0.9, 0.95)

Seeds: TypeAlias = list[tuple[int, PersonalStrategy, Federation]]


def strategies(study: Path, algorithm: str) -> list[tuple[int, PersonalStrategy]]:
    """The study's strategies of one algorithm, by seed."""
    found = sorted((int(path.parent.name.rpartition("seed")[2]), path) for path in study.glob(f"runs/{algorithm}-seed*/strategy.safetensors"))
    if not found:
        raise SystemExit(f"{study} holds no strategy of {algorithm}: run metabayfl compare CONFIG --algorithms {algorithm} --out {study}")
    return [(seed, personal.load(path)) for seed, path in found]


def redrawn(clients: Clients, draws: int, seed: int) -> Clients:
    """Every client ``draws`` times: as it is, then with its rows in other orders, the first of them its own samples."""

    def read(position: int) -> tuple[Array, Array]:
        at, draw = divmod(position, draws)
        x, y = clients.read(at)
        order = np.random.default_rng([seed, at, draw]).permutation(len(y)) if draw else np.arange(len(y))
        return x[order], y[order]

    ids = tuple(f"{name}, draw {draw}" if draw else name for name in clients.ids for draw in range(draws))
    return Clients(ids, clients.sizes.repeat(draws), clients.support.repeat(draws), read)


def asked(one: PersonalStrategy, federation: Federation, seed: int, promised: Promised, *, table: bool) -> list[ClientCoverage]:
    key = random.fold(random.key(seed), "heldout")
    known = one.strategy.calibration if table else {}
    return coverage(one.algorithm, one.strategy.meta, federation.heldout, known, key, promised)


def share(clients: list[ClientCoverage], field: str) -> float:
    return 100 * sum(getattr(client, field) for client in clients) / sum(client.tests for client in clients)


def set_rows(seeds: Seeds) -> Iterator[list[str]]:
    """Coverage of sets: wanted, reached by all cases together, and by the clients one by one."""
    by_what = ("client", "class") if seeds[0][1].schema.kind == "classification" else ("client",)
    for level in LEVELS:
        for by in by_what:
            for table in (True, False):
                found = [asked(one, federation, seed, Promised(coverage=level, by=by), table=table) for seed, one, federation in seeds]
                clients = [[100 * client.covered / client.tests for client in each] for each in found]
                yield [
                    f"{100 * level:g}",
                    by,
                    "own and others" if table else "own alone",
                    spread([share(each, "covered") for each in found], 1),
                    spread([statistics.pstdev(each) for each in clients], 1),
                    spread([min(each) for each in clients], 1),
                    spread([share(each, "size") / 100 for each in found], 2),
                ]


class Referred(NamedTuple):
    """What came of referral on one seed, in percent of all cases."""

    referred: float
    passed: float  # answered without a person, and wrong
    wrong: float  # without any referral

    @property
    def right(self) -> float | None:
        """Percent right of what was answered; None where everything was referred."""
        return 100 - 100 * self.passed / (100 - self.referred) if self.referred < 100 else None


def by_threshold(seeds: Seeds, promised: Promised, fields: tuple[str, str]) -> list[Referred]:
    found = [asked(one, federation, seed, promised, table=True) for seed, one, federation in seeds]
    return [Referred(share(each, fields[0]), share(each, fields[1]), share(each, "wrong")) for each in found]


def by_rank(seeds: Seeds, wanted: float) -> list[Referred]:
    """Exactly this share of each client's batch is referred, the least certain cases."""
    out = []
    for seed, one, federation in seeds:
        held = evaluate(
            one.algorithm, one.strategy.meta, federation.heldout, federation.schema, random.fold(random.key(seed), "heldout"), unseen_cap=0
        )
        hits = [(client.probs.argmax(1) == client.y, refer_share(client.total, wanted)) for client in class_scores(held)]
        right, referred = (np.concatenate(parts) for parts in zip(*hits, strict=True))
        out.append(Referred(100 * float(referred.mean()), 100 * float((~right & ~referred).mean()), 100 * float((~right).mean())))
    return out


def refer_share(total: NDArray[np.float64], wanted: float) -> NDArray[np.bool_]:
    scores = torch.from_numpy(total)
    return refer(scores, threshold_for_share(scores, wanted)).numpy()


def referral_rows(seeds: Seeds) -> Iterator[list[str]]:
    """Referral of a share of the batch, at a threshold for a share, and for an error: asked for, and what came of it."""
    for wanted in (0.1, 0.2, 0.3):
        yield referral_row(f"{100 * wanted:g} % of the batch", by_rank(seeds, wanted))
    for wanted in (0.1, 0.2, 0.3):
        yield referral_row(f"threshold for {100 * wanted:g} %", by_threshold(seeds, Promised(refer_share=wanted), ("referred", "wrong_accepted")))
    for wanted in (0.02, 0.05, 0.1):
        fields = ("referred_for_error", "wrong_for_error")
        yield referral_row(f"{100 * wanted:g} % answered and wrong", by_threshold(seeds, Promised(refer_error=wanted), fields))


def referral_row(asked_for: str, found: list[Referred]) -> list[str]:
    gains = [(each.right, each.right - (100 - each.wrong)) for each in found if each.right is not None]
    columns = zip(*gains, strict=True) if gains else ([math.nan], [math.nan])
    fewer = "" if len(gains) == len(found) else f" ({len(gains)} of {len(found)} seeds)"
    right, gain = (spread(list(column), 1) for column in columns)
    return [asked_for, spread([each.referred for each in found], 1), spread([each.passed for each in found], 1), right + fewer, gain]


def temperature_rows(name: str, seeds: Seeds) -> Iterator[list[str]]:
    """NLL and ECE as the model says and after temperature scaling on the validation clients."""
    plain, after, found = [], [], []
    for seed, one, federation in seeds:
        fitted, held = (
            evaluate(one.algorithm, one.strategy.meta, group, federation.schema, random.fold(random.key(seed), purpose), unseen_cap=0)
            for group, purpose in ((federation.validation, "calibration"), (federation.heldout, "heldout"))
        )
        best = temperature.fit(sum(temperature.sums(torch.from_numpy(c.probs), torch.from_numpy(c.y)) for c in class_scores(fitted)))
        probs, y = (np.concatenate([getattr(client, field) for client in class_scores(held)]) for field in ("probs", "y"))
        scaled = temperature.scaled(torch.from_numpy(probs), best).numpy()
        plain.append((metrics.nll(probs, y), 100 * metrics.ece(probs, y)))
        after.append((metrics.nll(scaled, y), 100 * metrics.ece(scaled, y)))
        found.append(best)
    yield [name, "as it is", "1", *(spread(list(column), digits) for column, digits in zip(zip(*plain, strict=True), (3, 1), strict=True))]
    yield [name, "scaled", spread(found, 2), *(spread(list(column), digits) for column, digits in zip(zip(*after, strict=True), (3, 1), strict=True))]


def show(title: str, columns: list[str], rows: Iterator[list[str]]) -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--config", required=True)
    parser.add_argument("--algorithms", default="meta_bayfl", help="whose sets and temperatures; names with commas between")
    parser.add_argument("--draws", type=int, default=1, help="how often each held-out client's own samples are drawn from its rows")
    given = parser.parse_args()
    if given.draws < 1:
        parser.error(f"--draws is {given.draws}, expected 1 or more")
    config = configs.read(given.config)
    for name in given.algorithms.split(","):
        found = [(seed, one, build_federation(config.data, seed)) for seed, one in strategies(given.study, name)]
        seeds = [(seed, one, each._replace(heldout=redrawn(each.heldout, given.draws, seed))) for seed, one, each in found]
        about = f"{config.name}, {name}, {len(seeds)} seeds, {given.draws} draw{'s' if given.draws > 1 else ''} each"
        heads = ["coverage wanted %", "within each", "known cases", "reached %", "sd over clients", "worst client %", "size"]
        show(f"Prediction sets: {about}", heads, set_rows(seeds))
        if seeds[0][1].schema.kind == "classification":
            show(f"Referral: {about}", ["asked for", "referred %", "answered and wrong %", "right of the answered %", "gain"], referral_rows(seeds))
            show(f"Temperature: {about}", ["algorithm", "probabilities", "temperature", "NLL", "ECE %"], temperature_rows(name, seeds))


if __name__ == "__main__":
    main()
