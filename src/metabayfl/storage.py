"""Files that are either whole or as they were before: every write goes to a temporary file beside the target, to the disk, and then by rename.

A full disk, a quota, a missing permission or a kill leaves the old file; nothing half-written is ever found under the final name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from metabayfl.errors import ArtifactError, StorageError

_REMEDIES = {
    errno.ENOSPC: "free space on that disk, or choose a folder on another one",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or choose a folder on another disk",
    errno.EACCES: "choose a folder that you may write to, or ask for permission",
    errno.EPERM: "choose a folder that you may write to, or ask for permission",
    errno.EROFS: "that file system is read-only: choose another folder",
    errno.EEXIST: "a part of that path is a file: choose another folder",
    errno.ENOTDIR: "a part of that path is a file: choose another folder",
    errno.EISDIR: "that path is a folder: name a file in it",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_bytes(path: str | Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a whole file, atomically; missing folders are made, a link is followed, and a device or pipe is written to as it is.

    Args:
        path: the file.
        data: its content.
        mode: who may do what with a new file, before the process's mask; ``0o600`` for secrets.

    Raises:
        StorageError: if not every byte reached the disk; the file that was there before is untouched.
    """
    try:
        if _is_special(Path(path)):
            _write_through(Path(path), data, os.O_WRONLY, mode)
        else:
            _replace(Path(os.path.realpath(path)), data, mode)
    except (OSError, ValueError) as error:  # ValueError: a zero character in the path
        number, reason = getattr(error, "errno", None) or 0, getattr(error, "strerror", None) or error
        remedy = _REMEDIES.get(number, "check that the folder exists and can be written to")
        raise StorageError(f"could not write {path} ({len(data)} bytes): {reason}; nothing was left half-written: {remedy}") from error


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_bytes` of text in UTF-8, with its line ends as they are."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"could not write {path}: the text has no UTF-8 ({error}): remove that character") from error
    write_bytes(path, data)


def write_json(path: str | Path, value: Any) -> None:
    """:func:`write_bytes` of JSON with sorted keys. JSON has no NaN and no infinity: such a figure is written as ``null``.

    Raises:
        StorageError: if the file could not be written, or ``value`` holds something that has no JSON.
    """
    try:
        text = json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise StorageError(f"could not write {path}: {error}") from error
    write_text(path, text + "\n")


def plain(value: Any) -> Any:
    """What JSON can hold of a value: tuples become lists, scalars of NumPy and torch numbers, non-finite numbers None.

    Example:
        >>> plain({"accuracy": float("nan"), "channels": (16, 24)})
        {'accuracy': None, 'channels': [16, 24]}

    Raises:
        TypeError: for anything else, and for keys that are no strings.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_text_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"{value!r} of type {type(value).__name__} has no JSON: give numbers, strings, lists and dicts")


def _text_key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key {key!r} of type {type(key).__name__} is no string, as JSON asks for")
    return key


def read_bytes(path: str | Path) -> bytes:
    """A whole file.

    Raises:
        ArtifactError: if there is none, or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise ArtifactError(f"could not read {path}: {error.strerror or error}") from error


def read_text(path: str | Path) -> str:
    """A whole file of UTF-8 text.

    Raises:
        ArtifactError: if there is none, it cannot be read, or it is not UTF-8.
    """
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is no UTF-8 text: {error}; it is damaged, or another kind of file") from error


def read_json(path: str | Path) -> Any:
    """The value in a JSON file; NaN and infinity, which JSON has not, are refused.

    Raises:
        ArtifactError: if there is no such file, it cannot be read, or it is not JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ArtifactError(f"{path} is no JSON: {error}; it is damaged, or another kind of file") from error


def parse_json(text: str | bytes) -> Any:
    """Strict JSON.

    Raises:
        ValueError: for anything else, also for nesting without end.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_special(target: Path) -> bool:
    """A device, pipe or socket must never be replaced by a file: ``--out /dev/stdout`` means to write into it."""
    return target.exists() and not target.is_dir() and not stat.S_ISREG(target.stat().st_mode)


def _replace(target: Path, data: bytes, mode: int) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        _write_through(temporary, data, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):  # the failure above is the one to report
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _write_through(path: Path, data: bytes, flags: int, mode: int) -> None:
    """Write and wait until the disk has it: only then do full disks and failing ones say so for certain."""
    handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), mode)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        if flags & os.O_CREAT:
            os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened and synced; the file's content is on the disk in any case."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a folder that one may write to and not read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
