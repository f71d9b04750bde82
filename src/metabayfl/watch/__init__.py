"""A live view of a study in the browser: reads the files that a study writes anyway, in the same process or in another."""

from metabayfl.watch.progress import progress
from metabayfl.watch.server import PORT, Options, live, watch

__all__ = ["PORT", "Options", "live", "progress", "watch"]
