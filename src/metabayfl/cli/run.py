"""From words to a command and from errors to exit codes."""

from __future__ import annotations

import click
from rich.console import Console

from metabayfl.cli.commands import app
from metabayfl.errors import MetabayflError

USER_ERROR, INTERRUPTED = 2, 130


def run(words: list[str], *, traceback: bool) -> int:
    """Run one command; errors of this library become one line on standard error."""
    import typer

    console = Console(stderr=True)
    command = typer.main.get_command(app)
    try:
        code = command.main(args=words, prog_name="metabayfl", standalone_mode=False)
    except MetabayflError as error:
        if traceback:
            raise
        console.print(f"[bold red]error:[/] {_plain(str(error))}", soft_wrap=True, highlight=False)
        return USER_ERROR
    except click.ClickException as error:
        error.show()
        return USER_ERROR
    except (KeyboardInterrupt, click.Abort):
        console.print("stopped; what was done is kept: the same command with --resume goes on from there", highlight=False)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
