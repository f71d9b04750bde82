"""From the files of studies to the files of their report: the page, the model card, and the comparison of several studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metabayfl import storage
from metabayfl.errors import ArtifactError
from metabayfl.report.card_files import markdown
from metabayfl.report.comparison import Compared, compared, comparison_page, labels
from metabayfl.report.page import report_page
from metabayfl.report.sections import Study, gathered

PAGE, CARD, COMPARISON = "report.html", "model_card.md", "comparison.html"


def read_study(directory: str | Path) -> Study:
    """``summary.json``, ``metrics.jsonl`` and ``figures.json`` of a directory.

    Raises:
        ArtifactError: if one of the three files is missing or damaged, or they are no study.
    """
    source = Path(directory)
    summary, figures = storage.read_json(source / "summary.json"), storage.read_json(source / "figures.json")
    if not isinstance(summary, dict) or not isinstance(figures, dict):
        raise ArtifactError(f"{source}: summary.json and figures.json should each hold a table: write the study anew.")
    rows = _rows(source / "metrics.jsonl")
    with _fitting(source):
        return gathered(summary, rows, figures)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [storage.parse_json(line) for line in storage.read_text(path).splitlines() if line.strip()]
    except ValueError as error:
        raise ArtifactError(f"{path} is not one JSON object a line: {error}") from error


def write_report(directory: str | Path, out: str | Path | None = None) -> tuple[Path, ...]:
    """Write ``report.html`` and ``model_card.md`` of a study.

    Args:
        directory: what a study wrote.
        out: the directory to write to; the same if none.

    Returns:
        The paths of what was written: no model card where ``summary.json`` does not say what the strategy is ``about``, as the page then tells.

    Raises:
        ArtifactError: if one of the study's files is missing or damaged.
        StorageError: if the report could not be written.
    """
    study, target = read_study(directory), Path(out if out is not None else directory)
    writers: dict[str, Callable[[Study], str]] = {PAGE: report_page, **({CARD: markdown} if "about" in study.summary else {})}
    with _fitting(Path(directory)):
        texts = {target / name: write(study) for name, write in writers.items()}
    for path, text in texts.items():
        storage.write_text(path, text)
    return tuple(texts)


def write_comparison(directories: Sequence[str | Path], out: str | Path) -> tuple[Path, Compared]:
    """Write ``comparison.html``: the algorithms of several studies side by side.

    Args:
        directories: two studies or more.
        out: the directory to write to.

    Returns:
        The path of the page, and what is compared, for a table in a terminal.

    Raises:
        ArtifactError: as :func:`write_report`.
        ConfigError: if a directory is named twice, or a regression stands beside a classification.
    """
    names = labels([Path(directory) for directory in directories])
    found = compared(dict(zip(names, map(read_study, directories), strict=True)))
    with _fitting(*map(Path, directories)):
        page = comparison_page(found)
    path = Path(out) / COMPARISON
    storage.write_text(path, page)
    return path, found


@contextmanager
def _fitting(*sources: Path) -> Iterator[None]:
    """What goes wrong inside is told as files that do not fit each other."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        where = ", ".join(map(str, sources))
        raise ArtifactError(
            f"{where}: summary.json, metrics.jsonl and figures.json do not fit each other ({error!r}): write the study anew."
        ) from error
