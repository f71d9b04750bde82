"""What a person sees while a study runs: one bar a run with an estimate and the current figures, then the table. Silent without a terminal."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from metabayfl.report import comparison_table
from metabayfl.study import Event, Scored, Trained


def output() -> Console:
    """Standard output; a file or pipe is wide enough for every column."""
    return Console() if Console().is_terminal else Console(width=160)


def follow(events: Generator[Event, None, None], console: Console, runs: int) -> None:
    """Consume the events of a study and show its progress; after Ctrl-C the study is closed here, so that its checkpoint is whole on return."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress, closing(events):
        overall = progress.add_task("all runs", total=runs, figures="")
        current, bar = None, overall
        for event in events:
            if isinstance(event, Scored):
                progress.advance(overall)
                continue
            if current != (event.algorithm, event.seed):
                current = (event.algorithm, event.seed)
                bar = progress.add_task(f"{event.algorithm}, seed {event.seed}", total=event.rounds, figures="")
            progress.update(bar, completed=event.info.round, figures=_figures(event))


def _figures(event: Trained) -> str:
    looked = "" if event.info.validation is None else f" · validation {event.info.validation:.3f}"
    loss = "" if event.info.loss is None else f"loss {event.info.loss:.3f}"
    return f"{loss}{looked}"


def show_comparison(summary: Mapping[str, object], console: Console) -> None:
    """The comparison table, the best figure of each column in bold."""
    rows = comparison_table(summary)
    table = Table(title=str(summary.get("title", "")), caption="mean ± sd over seeds, on held-out clients", header_style="bold")
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def show_trials(rows: list[list[str]], caption: str, console: Console) -> None:
    """Figures of runs with and without hostile clients."""
    table = Table(header_style="bold", caption=caption)
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def show_support_sizes(figures: dict[str, dict[str, float | None]], console: Console) -> None:
    """Figures of one strategy by the number of samples that a client adapted on."""
    names = [name for name in next(iter(figures.values())) if any(row[name] is not None for row in figures.values())]
    table = Table(header_style="bold", caption="on held-out clients")
    for name in ("support", *names):
        table.add_column(name, justify="right")
    for size, row in figures.items():
        table.add_row(size, *(_number(row[name]) for name in names))
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
