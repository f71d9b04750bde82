"""``metabayfl federate``: a real federation over Flower. Every command reads its arguments, calls the library, and shows what came of it.

What needs Flower is imported where it is used, so that the other commands work without it; what needs PyTorch as well: the link and the sites are up
sooner, and a status is told at once.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metabayfl.flower import connection as connections
from metabayfl.flower import founding, starting, telling
from metabayfl.flower.connection import Connection

app = typer.Typer(no_args_is_help=True, help="A federation of real sites over Flower: TLS, keys for every site, and nothing lost when machines fail.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The server's folder, made by federate init.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Without TLS and keys: for a try on one machine, never for real data.")]

INCOMPLETE = 1
"""The exit code of a run that trained, but could not hand the strategy to every site."""


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    sites: Annotated[str, typer.Option(help="The sites' names with commas between, such as basel,bern,zug.")],
    host: Annotated[str, typer.Option(help="Name or IP address under which sites reach the server.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where the server listens.")] = 8443,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the server's certificate holds.")] = 365,
    insecure: Insecure = False,
) -> None:
    """Write certificates, keys, the app, and a folder to hand to every site."""
    names = tuple(word.strip() for word in sites.split(",") if word.strip())
    founding.create(folder, Connection(host, port, names, insecure=insecure), days)
    _say(f"{folder}: keep it to yourself, and hand each site its own folder in {folder / connections.SITES} by a safe way: {', '.join(names)}")


@app.command("server")
def server(
    folder: Folder,
    listen: Annotated[str, typer.Option(help="Local address to listen at: 127.0.0.1, 0.0.0.0, ::, or the host of federate init.")] = "127.0.0.1",
    insecure: Insecure = False,
) -> None:
    """Run the link between server and sites until it is stopped (Flower's SuperLink)."""
    starting.become(starting.link(folder, listen, insecure=insecure))


@app.command("site")
def site(
    folder: Annotated[Path, typer.Argument(metavar="SITE_DIR", help="The folder that the server's operator handed over.")],
    data: Annotated[Path, typer.Option(help="This site's file: csv, parquet, npz, or as the config says.")],
    client_column: Annotated[str, typer.Option(help="Whose row it is; the whole file is one client if none.")] = "",
    secure_only: Annotated[bool, typer.Option("--secure-only", help="Take no part in training without secure aggregation.")] = False,
    insecure: Insecure = False,
) -> None:
    """Take part with this site's data until it is stopped (Flower's SuperNode)."""
    command = starting.node(folder, data, client_column, secure_only=secure_only, insecure=insecure)
    starting.await_server(folder, _say, insecure=insecure)
    starting.become(command)


@app.command("run")
def run(
    folder: Folder,
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A TOML file, or the name of a ready config.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for everything that is written on the server.")],
    algorithm: Annotated[str, typer.Option(help="Which algorithm to train.")] = "meta_bayfl",
    seed: Annotated[int, typer.Option(min=0, help="Decides the split, the start and all noise of a simulation.")] = 0,
    test_share: Annotated[float, typer.Option(help="Share of every training client's rows that is kept to judge its own model by.")] = 0.2,
    sites: Annotated[int | None, typer.Option(min=1, help="Fewest sites to begin with; all that are registered if none.")] = None,
    quorum: Annotated[int, typer.Option(min=1, help="Fewest clients whose messages make a round.")] = 1,
    join: Annotated[float, typer.Option(help="Seconds until the link answers, and until enough sites must have come.")] = 600.0,
    reply: Annotated[float, typer.Option(help="Seconds that sites have for one request.")] = 600.0,
    grace: Annotated[float, typer.Option(help="Seconds to wait for sites that are gone once the others are enough.")] = 60.0,
    resend: Annotated[float, typer.Option(help="Seconds of silence after which a request is sent again.")] = 90.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that the directory holds.")] = False,
    insecure: Insecure = False,
) -> None:
    """Train over the sites, follow it, and hand every site the strategy; Ctrl-C stops it so that --resume goes on."""
    connections.need_flower()
    from metabayfl import config as configs
    from metabayfl.flower import operating
    from metabayfl.flower.coordinator import Job, Options
    from metabayfl.flower.network import Patience
    from metabayfl.flower.plan import plan

    connection = connections.read(folder, insecure=insecure)
    agreed = plan(configs.read(config), algorithm, seed, test_share)
    job = Job(agreed, out, Options(sites or len(connection.sites), quorum, patience=Patience(join, reply, grace, resend)))
    operating.prepare(job, resume=resume)
    last = _follow(operating.run(operating.Watch(folder, job, join)), Console(stderr=True))
    for line in (telling.finished(out, last), *telling.spent(out)):
        _say(line)
    if last.get("failed"):
        raise typer.Exit(INCOMPLETE)


@app.command("status")
def status(out: Annotated[Path, typer.Argument(metavar="OUT", help="What federate run writes to.")]) -> None:
    """Say where a run is: its stage and round, who was skipped and why, and who has the strategy."""
    for line in telling.told(out):
        _say(line)


def _follow(steps: Generator[dict[str, Any], None, dict[str, Any]], console: Console) -> dict[str, Any]:
    """Show a run's progress; after Ctrl-C the run is ended here, so that it can be resumed on return."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    last: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress, closing(steps):
        bar = progress.add_task("submitted", total=None)
        for last in steps:
            skipped = f", {len(last['skipped'])} skipped" if last.get("skipped") else ""
            progress.update(bar, description=last["stage"] + skipped, completed=last.get("round", 0), total=last.get("rounds"))
    return last


def _say(text: str) -> None:
    """One line as it is: a path may have brackets, and a line that was broken could not be copied."""
    Console(soft_wrap=True, markup=False, highlight=False).print(text)
