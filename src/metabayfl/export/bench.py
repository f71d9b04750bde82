"""What a file costs on a device: size, latency and memory, measured in a process of its own that has onnxruntime alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from metabayfl import storage
from metabayfl.errors import ArtifactError
from metabayfl.export import on_device
from metabayfl.export.describing import VERSION


class Cost(NamedTuple):
    """Of one file."""

    size: int  # bytes
    rows: int  # of the call that is timed: one, or a support set
    cpu_ms: float  # the mean that the processor worked on a call
    median_ms: float  # by the clock
    p99_ms: float
    peak_mb: float  # of the whole process
    own_mb: float  # of that, what was not there before the file was opened


def cost(path: str | Path, threads: int = 1) -> Cost:
    """Measure a file that this library wrote.

    Raises:
        ArtifactError: if there is no such file, it is damaged, or it is another ONNX file.
    """
    size = len(storage.read_bytes(path))
    said = read_about(path)
    command = [sys.executable, str(Path(on_device.__file__)), str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArtifactError(f"{path} does not run: {done.stderr.strip().splitlines()[-1:]}; export it again")
    found = json.loads(done.stdout)
    rows = on_device.SUPPORT if said["kind"] == "adapter" else 1
    return Cost(size, rows, found["cpu_ms"], found["median_ms"], found["p99_ms"], found["peak_mb"], found["peak_mb"] - found["before_mb"])


def read_about(path: str | Path) -> dict[str, object]:
    """What the file says of itself.

    Raises:
        ArtifactError: if there is no such file, it is damaged, or it is another ONNX file.
    """
    data = storage.read_bytes(path)
    try:
        said = on_device.about(on_device.session(data))
    except KeyError as error:
        raise ArtifactError(f"{path} is ONNX, but metabayfl did not write it: export a posterior or a strategy with metabayfl export") from error
    except Exception as error:  # onnxruntime's own errors have no common class
        raise ArtifactError(f"{path} is no whole ONNX file ({' '.join(str(error).split())[:200]}): export it again") from error
    if not isinstance(said, dict) or said.get("version") != VERSION:
        raise ArtifactError(f"{path} is of another version: export it again")
    return said
