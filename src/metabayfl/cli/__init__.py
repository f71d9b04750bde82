"""The command line: thin calls of the library, one clear line and exit code 2 for anything that the user can mend."""

from __future__ import annotations

import os
import sys

DEBUG = "--debug"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. ``--debug`` anywhere shows the traceback of an error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in given or os.environ.get("METABAYFL_DEBUG") == "1"
    from metabayfl.cli.run import run

    return run([word for word in given if word != DEBUG], traceback=debug)


def entry() -> None:
    """The console script."""
    sys.exit(main())
