"""The allocator's switch: on with glibc, off where the user says so or the C library is another."""

from __future__ import annotations

import platform

import pytest

from metabayfl.engine.allocator import keep_freed_memory


def test_both_settings_are_taken_on_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METABAYFL_MALLOC", raising=False)
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABAYFL_MALLOC", "0")
    assert keep_freed_memory() is False


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert keep_freed_memory() is False
