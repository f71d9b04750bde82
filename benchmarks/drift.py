"""What forgetting and the alarm are worth when a client changes: run by hand, ``python benchmarks/drift.py OUT [--config digits] [--seeds 0,1,2]``.

``meta_bayfl`` is trained as the config says (what ``OUT`` holds already is not trained again). Then every held-out client with enough rows lives
through three streams, five labelled cases at a time: nothing changes; another held-out client takes its place; two classes swap their labels. Each
case is predicted before its label is used. Prints the table of ``docs/continual.md``: accuracy and NLL on the cases after the change, how often and
how late the alarm rings, and false alarms before it. Figures are means over clients (delays: medians), mean ± sd over the seeds.

What was chosen by figures was chosen with ``--clients validation`` on seeds 10, 11, 12."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from metabayfl import config as configs
from metabayfl import continual, personal, random, study
from metabayfl.algorithms.preparation import prepare
from metabayfl.change_point import begin, rings
from metabayfl.data import Clients, build_federation
from metabayfl.losses import prediction_nll
from metabayfl.personal import PersonalStrategy
from metabayfl.report.axes import percent
from metabayfl.report.curves import Line, Plot, line_chart
from metabayfl.report.series import Series
from metabayfl.types import Batch
from spread import spread

SUPPORT, BEFORE, AFTER, BLOCK = 20, 40, 45, 5
"""Cases that a client begins with, cases before the change and after it, and cases that come at a time."""

WAYS = ("no update", "update", "forget by evidence", "restart on alarm", "forget and restart")


class Trace(NamedTuple):
    """One client's life."""

    nll: list[float]  # of each case
    right: list[bool]
    alarms: list[int]  # cases after which it rang


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", default="digits", help="of a classification with natural clients")
    parser.add_argument("--seeds", default="0,1,2", help="whole numbers with commas between")
    parser.add_argument("--clients", choices=("heldout", "validation"), default="heldout")
    parser.add_argument("--picture", type=Path, help="an SVG to write")
    parser.add_argument("--most", type=int, default=12, help="clients of a seed")
    return parser.parse_args()


def samples(clients: Clients, position: int, seed: int) -> Batch:
    """A client's rows in random order."""
    x, y = clients.read(position)
    order = np.random.default_rng([seed, position]).permutation(len(y))
    return Batch(torch.from_numpy(x[order]), torch.from_numpy(y[order]), torch.ones(len(y)))


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """The rows from ``start`` to ``stop``."""
    return Batch(*(part[start:stop] for part in batch))


def joined(*batches: Batch) -> Batch:
    """One batch after the other."""
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def streams(clients: Clients, seed: int, most: int) -> Iterator[tuple[str, Batch]]:
    """What happens to each of the first ``most`` clients that have the rows: its name and ``SUPPORT + BEFORE + AFTER`` samples."""
    known = SUPPORT + BEFORE
    enough = [at for at, size in enumerate(clients.sizes) if size >= known + AFTER][:most]
    for place, position in enumerate(enough):
        own = cut(samples(clients, position, seed), 0, known + AFTER)
        other = samples(clients, enough[(place + 1) % len(enough)], seed)
        after = cut(own, known, known + AFTER)
        common = torch.bincount(after.y).argsort(descending=True)[:2].tolist()
        swapped = torch.where(after.y == common[0], common[1], torch.where(after.y == common[1], common[0], after.y))
        yield "nothing", own
        yield "another client", joined(cut(own, 0, known), cut(other, 0, AFTER))
        yield "two labels swapped", joined(cut(own, 0, known), after._replace(y=swapped))


def live(source: PersonalStrategy, stream: Batch, way: str) -> Trace:
    """Predict, learn the labels, update as the way says, and so on."""
    algorithm, received, key = source.algorithm, source.received, random.key(0)
    forgetting: continual.Forgetting = "evidence" if way.startswith("forget") else None
    trace, change, begun = Trace([], [], []), begin(), SUPPORT
    posterior = continual.adapt(algorithm, received, cut(stream, 0, SUPPORT), key)
    for start in range(SUPPORT, len(stream.y), BLOCK):
        new, ready = cut(stream, start, start + BLOCK), prepare(algorithm, posterior, key)
        prediction = ready.answer(ready.constants, new.x)
        trace.nll.extend(prediction_nll(prediction, new.y).tolist())
        trace.right.extend((prediction[0].argmax(-1) == new.y).tolist())
        if way == "no update":
            continue
        rang, change = rings(change), continual.watch(change, ready, source.baseline, new)
        posterior, _ = continual.grow(algorithm, received, posterior, cut(stream, 0, start + BLOCK), BLOCK, forgetting, key)
        if rings(change) and not rang:
            trace.alarms.append(start + BLOCK - SUPPORT)
        if rings(change) and way.endswith(("restart", "on alarm")):
            kept = cut(stream, begun + change.start, start + BLOCK)
            posterior, change, begun = continual.adapt(algorithm, received, kept, key), begin(), start + BLOCK
    return trace


def measured(traces: list[Trace]) -> dict[str, float]:
    """Means over clients of one kind of stream, one way."""
    late = [min(after, default=None) for one in traces for after in [[at - BEFORE for at in one.alarms if at > BEFORE]]]
    rung = [delay for delay in late if delay is not None]
    return {
        "accuracy": 100 * statistics.fmean(value for one in traces for value in one.right[BEFORE:]),
        "nll": statistics.fmean(value for one in traces for value in one.nll[BEFORE:]),
        "rung": 100 * len(rung) / len(traces),
        "delay": statistics.median(rung) if rung else float("nan"),
        "false": 1000 * sum(at <= BEFORE for one in traces for at in one.alarms) / (BEFORE * len(traces)),
    }


def of_seed(seed: int, arguments: argparse.Namespace) -> dict[tuple[str, str], list[Trace]]:
    """Train where needed, then all streams in all ways."""
    config, out = configs.read(arguments.config), arguments.out / f"{arguments.config}-{seed}"
    for _ in study.compare(config, ("meta_bayfl",), (seed,), out):
        pass
    source = personal.load(out / "strategy.safetensors")
    group: Clients = getattr(build_federation(config.data, seed), arguments.clients)
    traces: dict[tuple[str, str], list[Trace]] = {}
    with torch.no_grad():
        for kind, stream in streams(group, seed, arguments.most):
            for way in WAYS:
                traces.setdefault((kind, way), []).append(live(source, stream, way))
    return traces


def table(found: list[dict[tuple[str, str], dict[str, float]]]) -> list[str]:
    """Markdown: a line a change and way, figures over seeds."""
    lines = ["| what changes | the model | accuracy after % | NLL after | alarm rings % | after cases | false alarms in 1,000 cases |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in found[0]:
        digits = {"accuracy": 1, "nll": 3, "rung": 0, "delay": 0, "false": 1}
        values = {name: [one[row][name] for one in found if not math.isnan(one[row][name])] for name in digits}
        cells = [spread(values[name], places) if values[name] else "never" for name, places in digits.items()]
        cells = cells if row[1] != "no update" else [*cells[:2], "", "", ""]
        lines.append("| " + " | ".join([*row, *cells]) + " |")
    return lines


def picture(found: list[dict[tuple[str, str], list[Trace]]], kind: str) -> str:
    """A self-contained SVG: accuracy around one kind of change, five cases at a time, over all clients and seeds."""
    lines = []
    for place, way in enumerate(WAYS[:4]):
        right = np.array([one.right for traces in found for one in traces[kind, way]]).reshape(-1, (BEFORE + AFTER) // BLOCK, BLOCK).mean((0, 2))
        points = tuple((BLOCK * (at + 0.5) - BEFORE, float(value)) for at, value in enumerate(right))
        lines.append(Line(Series(way, f"s{place}"), points))
    plot = Plot(f"Accuracy around the change: {kind}", f"cases since: {kind}", "accuracy", (-BEFORE, AFTER), (0.3, 1.0), y_label=percent)
    style = (resources.files("metabayfl.report") / "style.css").read_text(encoding="utf-8") + " svg { font-family: system-ui, sans-serif; }"
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    head, body = line_chart(lines, plot, 720).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{paper}{body}'


def main() -> None:
    """Run and print."""
    arguments = parse()
    torch.set_num_threads(1)
    found = [of_seed(int(seed), arguments) for seed in arguments.seeds.split(",")]
    print("\n".join(table([{row: measured(many) for row, many in traces.items()} for traces in found])))
    if arguments.picture:
        arguments.picture.write_text(picture(found, "two labels swapped"), encoding="utf-8")


if __name__ == "__main__":
    main()
