"""What a device needs: onnxruntime and NumPy. This file imports neither torch nor metabayfl, and runs by itself: ``python on_device.py FILE``.

Run so, it prints as JSON how long one row takes and how much memory the process had at its peak.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

KEY = "metabayfl"
SUPPORT = 20
WARM, RUNS, SECONDS = 50, 2000, 10.0


def session(file: str | bytes, threads: int = 1) -> Any:
    """An onnxruntime session on ``threads`` cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def about(opened: Any) -> dict[str, Any]:
    """What the file says of itself: its kind, classes, schema, inputs and outputs."""
    value: dict[str, Any] = json.loads(opened.get_modelmeta().custom_metadata_map[KEY])
    return value


def examples(inputs: list[dict[str, Any]], rows: int, seed: int = 0) -> dict[str, Any]:
    """Made-up rows: numbers around the training mean, some missing or far off, categories of the schema's and others, noise in arrays."""
    rng = np.random.default_rng(seed)
    return {item["name"]: _column(item, rows, rng) for item in inputs}


def _column(item: dict[str, Any], rows: int, rng: np.random.Generator) -> Any:
    if item["kind"] == "posterior":
        return np.ones(item["shape"], item["type"])
    if item["kind"] == "category":
        words = [*item["words"], *([""] if item["missing"] else [])]
        return np.array([words[at] for at in rng.integers(len(words), size=rows)], dtype=object)
    values = item["centre"] + item["spread"] * rng.standard_normal((rows, *item["shape"]))
    if item["kind"] == "array":
        return (np.clip(np.round(values), *item["range"]) if item["range"] else values).astype(np.float32)
    return np.where(rng.random(rows) < 0.1, np.nan, values) if item["missing"] else values


def measured(file: str, threads: int) -> dict[str, float]:
    """Milliseconds of one call (one row, or a support set of 20), and the process's peak memory in MB with what it had before the file was opened."""
    before = _peak_mb()
    opened = session(file, threads)
    said = about(opened)
    feed = examples(said["inputs"], SUPPORT if said["kind"] == "adapter" else 1)
    for _ in range(WARM):
        opened.run(None, feed)
    times, ends, worked = list[float](), time.perf_counter() + SECONDS, time.process_time()
    while len(times) < RUNS and time.perf_counter() < ends:
        begun = time.perf_counter()
        opened.run(None, feed)
        times.append(1e3 * (time.perf_counter() - begun))
    cpu = 1e3 * (time.process_time() - worked) / len(times)  # of an undisturbed core; the others also count waiting for one
    return {
        "cpu_ms": cpu,
        "median_ms": float(np.median(times)),
        "p99_ms": float(np.quantile(times, 0.99)),
        "peak_mb": _peak_mb(),
        "before_mb": before,
    }


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count what the process was before it became this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    print(json.dumps(measured(str(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
