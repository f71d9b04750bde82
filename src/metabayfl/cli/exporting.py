"""``metabayfl export`` and ``metabayfl bench``: files for devices, and what they cost there.

What needs the extra is imported where it is used, so that the other commands work without it and no help waits for PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from metabayfl.errors import ConfigError

if TYPE_CHECKING:
    from metabayfl.export.building import Exported

Int8 = Annotated[bool, typer.Option("--int8", help="Store large weights as int8: a quarter of the bytes, answers that differ in the third digit.")]
FORMATS = ("onnx",)


def export(
    posterior: Annotated[Path | None, typer.Option(help="A personal model, posterior.safetensors: one file that predicts.")] = None,
    strategy: Annotated[Path | None, typer.Option(help="A strategy, strategy.safetensors: adapt.onnx and predict.onnx.")] = None,
    to: Annotated[str, typer.Option(help="The format: onnx.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="A file for a posterior, a directory for a strategy; beside the source if none.")] = None,
    refer_share: Annotated[float, typer.Option(min=0, max=1, help="Share of cases that a device is to refer (with --strategy).")] = 0.2,
    int8: Int8 = False,
) -> None:
    """Write a personal model, or the personalising itself, for machines that have onnxruntime alone."""
    if to not in FORMATS:
        raise ConfigError(f"unknown format {to!r}: expected one of {', '.join(FORMATS)}")
    if (posterior is None) == (strategy is None):
        raise ConfigError("nothing or too much to export: give either --posterior FILE or --strategy FILE")
    require_extra()
    from metabayfl import personal

    if posterior is not None:
        from metabayfl.export.predictor import export_predictor

        _tell(export_predictor(personal.load_personal(posterior), out or posterior.with_suffix(".onnx"), int8=int8))
    elif strategy is not None:
        from metabayfl.export.adapter import export_strategy
        from metabayfl.export.adapting import Shares

        for written in export_strategy(personal.load(strategy), out or strategy.parent, shares=Shares(refer_share), int8=int8):
            _tell(written)


def bench(
    onnx: Annotated[Path, typer.Option(help="A file that metabayfl export wrote.")],
    threads: Annotated[int, typer.Option(min=1, help="Cores to use.")] = 1,
) -> None:
    """Print a file's size, latency and memory on this machine, in a process that has onnxruntime alone."""
    require_extra()
    from metabayfl.export.bench import cost

    found = cost(onnx, threads)
    call = "one row" if found.rows == 1 else f"{found.rows} samples"
    times = f"median {found.median_ms:.3f} ms, p99 {found.p99_ms:.3f} ms, processor {found.cpu_ms:.3f} ms on {threads} core(s)"
    _say(f"{onnx}: {found.size / 1000:.1f} KB · {call}: {times} · peak memory {found.peak_mb:.0f} MB, {found.own_mb:.0f} MB of it for the model")


def require_extra() -> None:
    """Refuse in one line, before anything is read, where the extra is not installed.

    Raises:
        DataError: says which extra to install.
    """
    from metabayfl.data.sources.extras import need

    for module in ("onnx", "onnxscript", "onnxruntime"):
        need(module, "export", "exporting")


def _tell(written: Exported) -> None:
    found = written.agreement
    checked = f"checked on {found.rows} rows: at most {found.deviation:.1e} from torch (in {found.where!r}), {found.changed} decisions changed"
    _say(f"{written.path}: {written.size / 1000:.1f} KB, {checked}")


def _say(text: str) -> None:
    Console(soft_wrap=True, markup=False, highlight=False).print(text)
