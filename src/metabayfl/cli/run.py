"""From words to a command and from errors to exit codes."""

from __future__ import annotations

from traceback import format_exc

import typer
from rich.console import Console
from rich.text import Text

from metabayfl.cli.commands import app
from metabayfl.errors import MetabayflError

USER_ERROR, INTERRUPTED = 2, 130

_BadWords: type[Exception] = typer.BadParameter.mro()[2]
"""``ClickException``, whichever click this typer has: newer ones carry their own, which ``import click`` would not give."""


def run(words: list[str], *, traceback: bool) -> int:
    """Run one command; errors of this library become one line on standard error."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=words, prog_name="metabayfl", standalone_mode=False)
    except MetabayflError as error:
        return _refuse(str(error), details=format_exc() if traceback else "")
    except _BadWords as error:
        return _refuse(_message(error), details=format_exc() if traceback else "")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns Ctrl-C into an exception of its own, or into this code
        _say("stopped; what was done is kept: train and compare go on from there with --resume")
    return code if isinstance(code, int) else 0


def _message(error: Exception) -> str:
    text = getattr(error, "format_message", error.__str__)() or "no command given"
    return f"{text} (metabayfl --help lists the commands, metabayfl COMMAND --help their options)"


def _refuse(message: str, *, details: str) -> int:
    """One line, whatever the message: those of other libraries that it may quote have several."""
    if details:
        _say(details.rstrip())
    _say(" ".join(message.split()), mark="error: ")
    return USER_ERROR


def _say(text: str, *, mark: str = "") -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble((mark, "bold red"), text))
