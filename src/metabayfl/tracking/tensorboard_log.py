"""TensorBoard: a folder of event files for each run, below ``DIR/tensorboard``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from metabayfl import storage
from metabayfl.data.sources.extras import need
from metabayfl.study import Event, Scored
from metabayfl.tracking.logged import Log, Logged, Record, curves, finals, settings, telling

FOLDER, FILES = "tensorboard", "events.out.tfevents*"


def tensorboard_log(study: Logged) -> Log:
    """Curves, final figures and hyper-parameters of every run, and the model card as text.

    Raises:
        DataError: if the extra is missing.
    """
    need("tensorboard", "tracking", "--log tensorboard")
    module = need("torch.utils.tensorboard", "tracking", "--log tensorboard")
    return Log(partial(_run, study, module), partial(_files, study, module))


@contextmanager
def _run(study: Logged, module: Any, event: Event) -> Iterator[Record]:
    folder = study.out / FOLDER / study.directory(event).name
    with closing(_anew(module, folder)) as writer:
        yield Record(0, partial(_rounds, writer, folder), partial(_end, writer, module, study, folder))


def _anew(module: Any, folder: Path) -> Any:
    """A writer to a folder whose event files are gone: they can be added to, but not changed, and what a kill cut off would stay.

    ``purge_step`` tells a TensorBoard that is open meanwhile to forget what it has read.
    """
    with telling(folder):
        for old in folder.glob(FILES):
            old.unlink()
        return module.SummaryWriter(str(folder), purge_step=0)


def _rounds(writer: Any, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with telling(folder):
        for row in rows:
            for name, value in curves(row).items():
                writer.add_scalar(name, value, row["round"])


def _end(writer: Any, module: Any, study: Logged, folder: Path, event: Scored) -> None:
    """Final figures, and the table of hyper-parameters that sets them against the settings."""
    figures = finals(event)
    with telling(folder):
        for summary in module.summary.hparams(settings(study, event), figures):
            writer.file_writer.add_summary(summary)
        for name, value in figures.items():
            writer.add_scalar(name, value, int(event.figures["rounds"] or 0))


def _files(study: Logged, module: Any) -> None:
    folder = study.out / FOLDER / "study"
    with closing(_anew(module, folder)) as writer, telling(folder):
        writer.add_text("model card", storage.read_text(study.out / "model_card.md"))
