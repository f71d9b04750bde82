"""How a forecast of privacy looks: the plan in words, then what each number of rounds would cost."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from metabayfl.privacy.forecast import Forecast, Share

SAMPLING = {"poisson": "each client on its own, with probability", "fixed": "exactly so many, which is a share of", "all": "everybody, a share of"}

NEIGHBOURS = {"poisson": "joins or leaves", "fixed": "is replaced by another", "all": "joins or leaves"}

MECHANISM = {
    "gaussian": "Gaussian noise, added by the server",
    "discrete_gaussian": "discrete Gaussian noise, a share from every client under secure aggregation",
    "skellam": "Skellam noise, a share from every client under secure aggregation",
}

SOURCE = {"seeded": "a seed: a simulation, which protects nobody", "secure": "the operating system's generator"}


def show(found: Forecast, algorithm: str, console: Console) -> None:
    """Print a forecast."""
    plan = Table(title=f"What a private training of {algorithm} will cost", show_header=False, title_justify="left", box=None)
    for name, text in _lines(found):
        plan.add_row(name, text)
    console.print(plan)
    console.print(_costs(found))


def _lines(found: Forecast) -> list[tuple[str, str]]:
    plan, options = found.plan, found.options
    size, norm = found.deviation, found.deviation * math.sqrt(found.numbers)
    return [
        ("protected", f"a client with all its samples: what is released hardly changes when one {NEIGHBOURS[plan.sampling]}"),
        ("mechanism", f"{MECHANISM[plan.mechanism]}; from {SOURCE[options.source]}"),
        ("message", f"{found.numbers:,} numbers, with a Euclidean norm of at most {_bound(found)}"),
        ("noise multiplier", f"{plan.noise_multiplier:.4g}: the noise's deviation over the bound, on each number of a round's sum"),
        ("cohort", f"{plan.cohort:,} of {plan.clients:,} clients: {SAMPLING[plan.sampling]} {plan.cohort / plan.clients:.4g}"),
        ("rounds", f"{found.rounds:,} planned; the budget bears {_borne(found)}"),
        (
            "noise on the mean",
            f"{size:.4g} on each number; {norm / found.bound:.3g} of the bound in norm (above 1, a single round shows more noise than data)",
        ),
        *([] if found.share is None else [("a client's share", _share(found.share, plan.cohort))]),
        ("budget", f"epsilon {options.epsilon:g} at delta {options.delta:g}, by {plan.accountant.upper()}"),
    ]


def _borne(found: Forecast) -> str:
    return "all of them" if found.affordable == found.rounds else f"{found.affordable:,}, then training stops"


def _bound(found: Forecast) -> str:
    clip = found.options.clip
    if isinstance(clip, dict):
        return f"{found.bound:.4g} ({', '.join(f'{name} {value:g}' for name, value in clip.items())})"
    adapts = f", at the start: it then follows the quantile {found.options.quantile:g} of the clients' norms"
    return f"{clip:g}{adapts if found.options.quantile else ''}"


def _share(share: Share, cohort: int) -> str:
    counted = f"those of {share.counted_on:,} out of {cohort:,} are counted on, and with fewer answers no sum is released"
    return f"noise of deviation {share.deviation:.4g} steps of {share.step:.4g}, within {share.headroom:,} steps; {counted}"


def _costs(found: Forecast) -> Table:
    table = Table(title=f"epsilon at delta {found.options.delta:g}", title_justify="left", header_style="bold")
    for name in ("rounds", "PLD", "RDP"):
        table.add_column(name, justify="right")
    for cost in found.costs:
        table.add_row(f"{cost.rounds:,}", "-" if cost.pld is None else f"{cost.pld:.4f}", f"{cost.rdp:.4f}")
    return table
