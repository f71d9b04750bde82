"""Who comes back is waited for, who stays refused is told so in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabayfl.errors import ConfigError
from metabayfl.flower import admission
from metabayfl.flower.connection import Connection

SITE = Connection(site="basel")


def test_a_site_that_was_killed_waits_until_the_server_has_missed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [False, False, True]
    monkeypatch.setattr(admission, "PAUSE", 0.0)
    monkeypatch.setattr(admission, "knock", lambda folder, connection: answers.pop(0))
    admission.await_admission(tmp_path, SITE, "SHA256:x")
    assert answers == []


def test_a_server_that_is_not_ready_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [None, None, None, True]
    monkeypatch.setattr(admission, "PAUSE", 0.0)
    monkeypatch.setattr(admission, "WAIT", 0.0)
    monkeypatch.setattr(admission, "knock", lambda folder, connection: answers.pop(0))
    admission.await_admission(tmp_path, SITE, "SHA256:x")
    assert answers == []


def test_a_key_that_stays_refused_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PAUSE", 0.0)
    monkeypatch.setattr(admission, "WAIT", 0.0)
    monkeypatch.setattr(admission, "knock", lambda folder, connection: False)
    with pytest.raises(ConfigError, match="refuses the key SHA256:x of site 'basel'"):
        admission.await_admission(tmp_path, SITE, "SHA256:x")
