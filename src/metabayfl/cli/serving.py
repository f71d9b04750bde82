"""``metabayfl serve`` and ``metabayfl token``: a prediction server, and who may ask it. FastAPI, uvicorn and PyTorch are imported when it starts."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from metabayfl import storage
from metabayfl.errors import ConfigError
from metabayfl.serve import database, tokens
from metabayfl.serve.options import Address, Limits

app = typer.Typer(no_args_is_help=True, help="Tokens that open a server's store: one client each, or the operator's view of all.")

Store = Annotated[Path, typer.Option("--store", help="The server's folder of posteriors; it is made where there is none.")]

_LIMITS = Limits()


def serve(
    strategy: Annotated[Path, typer.Option("--strategy", help="A strategy file, strategy.safetensors.")],
    store: Store,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for every network, then with TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any that is free.")] = 8080,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate in PEM form.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key in PEM form.")] = None,
    rate: Annotated[float, typer.Option(help="Requests a second of one token, on average.")] = _LIMITS.rate,
    rows: Annotated[int, typer.Option(help="Most rows in one request.")] = _LIMITS.rows,
    samples: Annotated[int, typer.Option(help="Most labelled samples of one client.")] = _LIMITS.samples,
    body_bytes: Annotated[int, typer.Option(help="Most bytes of one request.")] = _LIMITS.body_bytes,
) -> None:
    """Serve personal models until stopped: personalise, predict, update, refer; a page to look at is at the address that it prints."""
    from metabayfl.data.sources.extras import need

    for module in ("fastapi", "uvicorn", "prometheus_client"):
        need(module, "serve", "a prediction server")
    from metabayfl.serve.running import run

    limits = Limits(rate=rate, burst=max(1, round(2 * rate)), rows=rows, samples=samples, body_bytes=body_bytes)
    run(strategy, store, Address(host, port, tls_cert, tls_key), limits, _say)


@app.command("new")
def new(
    store: Store,
    client: Annotated[str | None, typer.Option(help="Whose token it is.")] = None,
    operator: Annotated[bool, typer.Option("--operator", help="A token that sees every client and labels referred cases.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to a file that only you may read, in place of printing it.")] = None,
) -> None:
    """Make a token and show it this once: the store keeps its hash alone."""
    if operator == (client is not None):
        raise ConfigError("whose token is it? give --client NAME, or --operator")
    with _store(store) as connection, database.transaction(connection):
        token = tokens.make(connection, client)
        if out is not None:
            storage.write_bytes(out, token.encode() + b"\n", mode=0o600)
    _say(token if out is None else f"{out}: the token of {client or 'the operator'}")


@app.command("list")
def listed(store: Store) -> None:
    """Show whose tokens there are, and which are revoked."""
    with _store(store) as connection:
        for item in tokens.every(connection):
            state = "" if item.revoked is None else f", revoked {_day(item.revoked)}"
            _say(f"{item.id}  {item.client or '(operator)'}, made {_day(item.made)}{state}")


@app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(metavar="ID", help="The token's part before the dot.")], store: Store) -> None:
    """End a token; a running server refuses it from the next request on."""
    with _store(store) as connection, database.transaction(connection):
        tokens.revoke(connection, name)
    _say(f"{name} is revoked")


@contextlib.contextmanager
def _store(folder: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(database.connect(folder)) as connection:
        yield connection


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _say(text: str) -> None:
    """One line as it is."""
    Console(soft_wrap=True, markup=False, highlight=False).print(text)
