"""Keep big temporaries out of ``mmap`` on glibc.

Batched client updates allocate and free tensors of some megabytes thousands of times; with glibc's defaults each is mapped and page-faulted anew,
which measures 1.2 to 1.8 times the run time. This is a process-wide setting and memory stays at its high-water mark, so ``METABAYFL_MALLOC=0``
leaves it alone. On other C libraries nothing is done.
"""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds; returns whether both settings were taken."""
    if os.environ.get("METABAYFL_MALLOC") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
