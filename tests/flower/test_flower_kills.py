"""A site, the server's app and the link, each killed in every phase of a run: long, run by hand with ``pytest -m long tests/flower``."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install 'metabayfl[flower]'")

from deployed import SITES, Machines, Shaken

from metabayfl.artifact import Strategy

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

PHASES = ("survey", "deviate", "enrol", "advertise", "share", "mask", "unmask", "personalize")
"""Those of the page's run, in their order."""
FIRST, SECOND = PHASES[:4], PHASES[4:]
"""A run whose app is started five times before a round is done stops and asks for ``--resume``: so two runs for what stops the app."""


@pytest.mark.parametrize(
    ("kill", "phases"),
    [(Shaken.kill_site, PHASES), (Shaken.kill_app, FIRST), (Shaken.kill_app, SECOND), (Shaken.kill_link, FIRST), (Shaken.kill_link, SECOND)],
)
def test_a_kill_in_every_phase_changes_nothing(
    machines: Machines, expected: Strategy, kill: Callable[[Shaken], None], phases: tuple[str, ...]
) -> None:
    victims = ("va",) if kill is Shaken.kill_site else SITES  # a site is killed while it works on the phase itself
    with Shaken(machines, f"{kill.__name__}-{phases[0]}") as run:
        for phase in phases:
            run.is_asked(phase, *victims)
            run.forget()
            kill(run)
        run.ends_as(expected)
