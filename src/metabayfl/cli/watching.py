"""``metabayfl watch`` and ``--watch``: a training in the browser."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from metabayfl.watch.options import Options

Watch = Annotated[bool, typer.Option("--watch", help="Show the training in the browser, at the address that is printed.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Where the page is served, on 127.0.0.1; 0 for a free one.")]
Open = Annotated[bool, typer.Option("--open", help="Show the training, and open the browser at it.")]


def beside(out: Path, port: int, say: Callable[[str], None], *, wanted: bool, open_browser: bool) -> AbstractContextManager[None]:
    """The page for as long as a training in this process lasts; nothing where it is not wanted."""
    if not wanted and not open_browser:
        return nullcontext()
    from metabayfl.watch.server import live

    return live(out, Options(port, open_browser), say)
