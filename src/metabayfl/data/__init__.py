"""From files, tables and arrays to a federation: training, validation and held-out clients whose rows are encoded when they are read.

``options`` and ``schema`` say what; ``sources`` read; ``partition`` and ``split`` make clients and groups; ``normalisation`` and ``fit`` learn the
schema from training clients' sums; ``build`` puts it together.
"""

from metabayfl.data.build import build_federation
from metabayfl.data.federation import Clients, Federation, in_memory
from metabayfl.data.options import DataOptions, options_from
from metabayfl.data.raw import RawArrays, RawTable
from metabayfl.data.schema import Feature, Schema
from metabayfl.data.sources.arrays import from_arrays
from metabayfl.data.sources.huggingface import from_huggingface
from metabayfl.data.sources.tables import from_frame

__all__ = [
    "Clients",
    "DataOptions",
    "Feature",
    "Federation",
    "RawArrays",
    "RawTable",
    "Schema",
    "build_federation",
    "from_arrays",
    "from_frame",
    "from_huggingface",
    "in_memory",
    "options_from",
]
