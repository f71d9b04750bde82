"""Writes are whole or not at all; reads say what is wrong."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from metabayfl import storage
from metabayfl.errors import ArtifactError, StorageError


def test_bytes_text_and_json_come_back(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "new" / "folder" / "a.bin", b"\x00\xff")
    storage.write_text(tmp_path / "a.txt", "Größe\r\n")
    storage.write_json(tmp_path / "a.json", {"b": [1, 2.5, None, True], "a": "é"})
    assert storage.read_bytes(tmp_path / "new" / "folder" / "a.bin") == b"\x00\xff"
    assert storage.read_text(tmp_path / "a.txt") == "Größe\r\n"
    assert storage.read_json(tmp_path / "a.json") == {"a": "é", "b": [1, 2.5, None, True]}
    assert (tmp_path / "a.json").read_text(encoding="utf-8").startswith('{\n  "a"')


def test_an_old_file_is_replaced_and_nothing_else_appears(tmp_path: Path) -> None:
    for content in (b"first", b"second", b""):
        storage.write_bytes(tmp_path / "a", content)
        assert storage.read_bytes(tmp_path / "a") == content
    assert os.listdir(tmp_path) == ["a"]


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "ours", b"x")
    (tmp_path / "usual").write_bytes(b"x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int) -> None:
    (tmp_path / "a").write_bytes(b"old")
    real_write = os.write

    def fail(*args: object) -> int:
        if step == "write" and len(args[1]) > 4:  # type: ignore[arg-type]
            return real_write(args[0], bytes(args[1])[:4])  # type: ignore[arg-type]  # the last bytes that fit
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StorageError) as caught:
        storage.write_bytes(tmp_path / "a", b"0123456789")
    monkeypatch.undo()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]
    message = str(caught.value)
    assert str(tmp_path / "a") in message
    assert "10 bytes" in message
    assert os.strerror(number) in message
    assert number != errno.ENOSPC or "free space" in message
    assert isinstance(caught.value, OSError)


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real_write(handle, bytes(data)[:3]))
    storage.write_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_real_limit_on_the_file_size(tmp_path: Path) -> None:
    """The kernel itself refuses the bytes beyond the limit."""
    resource = pytest.importorskip("resource", reason="this system has no limits on file sizes")
    (tmp_path / "a").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=r"5000 bytes.*ulimit"):
            storage.write_bytes(tmp_path / "a", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_device_is_written_to_and_never_replaced() -> None:
    with pytest.raises(StorageError, match="No space left"):
        storage.write_bytes("/dev/full", b"x")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    storage.write_bytes("/dev/null", b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    storage.write_bytes(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_impossible_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="name a file in it"):
        storage.write_bytes(tmp_path, b"x")
    with pytest.raises(StorageError, match="is a file: choose another folder"):
        storage.write_bytes(tmp_path / "file" / "a", b"x")
    with pytest.raises(StorageError, match="shorter name"):
        storage.write_bytes(tmp_path / ("n" * 300), b"x")
    with pytest.raises(StorageError, match="null"):
        storage.write_bytes(f"{tmp_path}/a\0b", b"x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StorageError):
        storage.write_bytes(tmp_path / "loop" / "a", b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems refuse to sync a folder, and some folders may be written to and not read."""
    real_fsync, real_open = os.fsync, os.open

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real_fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.write_bytes(tmp_path / "a", b"x")

    def open_(path: object, flags: int, mode: int = 0o777) -> int:
        if Path(str(path)).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(str(path), flags, mode)

    monkeypatch.setattr(os, "open", open_)
    storage.write_bytes(tmp_path / "b", b"x")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_disk_that_fails_on_the_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_fsync = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real_fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="Input/output error"):
        storage.write_bytes(tmp_path / "a", b"x")


def test_figures_without_a_value_are_null(tmp_path: Path) -> None:
    value = {"nan": math.nan, "inf": [math.inf, np.float32(0.5)], "count": np.int64(3), "flag": np.bool_(True), "zero": torch.tensor(2)}
    storage.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "inf": [None, 0.5], "count": 3, "flag": True, "zero": 2}


@pytest.mark.parametrize("value", [{"a": object()}, {3: 4}, {"a": np.zeros(2)}, {"a": {1, 2}}])
def test_what_has_no_json_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(StorageError, match="JSON"):
        storage.write_json(tmp_path / "a.json", value)
    assert not os.listdir(tmp_path)


def test_text_without_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="UTF-8"):
        storage.write_text(tmp_path / "a", "\ud800")
    assert not os.listdir(tmp_path)


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        storage.read_bytes(tmp_path / "a")
    with pytest.raises(ArtifactError, match="could not read"):
        storage.read_bytes(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": NaN}', b"[1,]", b"[" * 100_000, b'"\xff"'])
def test_reading_what_is_no_json(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(ArtifactError, match=r"no (JSON|UTF-8)"):
        storage.read_json(tmp_path / "a")
