"""The ``[data]`` table of a config: where the data are, what the columns mean, how rows become clients and clients become a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metabayfl.errors import ConfigError, unknown
from metabayfl.table import parse

CHOICES: dict[str, tuple[str, ...]] = {
    "source": ("csv", "digits", "huggingface", "images", "npy", "npz", "parquet"),
    "kind": ("auto", "classification", "regression"),
    "layout": ("auto", "vector", "series", "image", "channels_last"),
    "flag_use": ("heldout", "exclude", "only"),
    "unseen": ("column", "error"),
    "partition": ("natural", "iid", "dirichlet", "shards"),
    "size_law": ("uniform", "lognormal", "power"),
    "support_order": ("random", "first"),
}
"""The options that name one of a few things, and the names."""

_COUNTS = ("max_rows", "tile", "max_categories", "test_samples", "max_samples", "min_samples", "min_classes")


@dataclass(frozen=True)
class DataOptions:
    """Everything that decides a federation besides the seed; each field is a key of the ``[data]`` table (a TOML list is a tuple here).

    Args:
        source: kind of file: ``csv``, ``parquet``, ``npz``, ``npy`` (a folder of ``.npy`` files, read lazily), ``images`` (sheets of tiles),
            ``digits`` (inside scikit-learn) or ``huggingface``.
        name: the federation's name in reports; the file's name unless given.
        path: file, list of files, or a pattern with ``*``; for ``huggingface`` the data set's name on the Hub.
        root: folder that a relative ``path`` is in; else ``$METABAYFL_DATA``, the config's folder, and ``../shared/data`` beside it, in this order.
        where: where to get the file, for the message when it is missing.
        x: key (npz), file (npy) or column (huggingface) of the inputs.
        target: column(s) or key of the target; ``y`` for npz and npy unless given, ``label`` for images and huggingface.
        client: column or key that says whose row it is.
        flag: column or key of a yes/no mark of each row, for instance ``official_test``.
        flag_use: ``heldout``: clients whose rows carry it are the held-out ones; ``exclude``: rows with it are left out; ``only``: rows without.
        max_rows: use only the first rows after the flag, 0 for all.
        layout: axes of array inputs: ``vector`` (d), ``series`` (channels, steps), ``image`` (h, w) or (c, h, w), ``channels_last`` (h, w, c).
        meta: npz beside image sheets that holds labels, clients and flags.
        tile: side of one square tile of an image sheet, pixels.
        kind: ``auto`` takes text, yes/no and up to 20 different whole numbers for classes, other numbers for a regression target.
        features: columns that are inputs; all but target, client, flag and ``exclude`` unless given.
        exclude: columns that are no inputs.
        categorical: columns of numbers that are codes of categories.
        max_categories: more different texts than this in one column are refused.
        unseen: a category that training never saw, or a missing one, gets a ``column`` of its own or is an ``error``.
        separator: between the fields of a line; ``whitespace`` for any run of blanks.
        names: column names for files without a header line.
        na_values: texts that mean "missing" besides the empty field, NA, NaN.
        client_per_file: each file is one client.
        client_names: their names; the files' names unless given.
        drop_missing: leave out rows with a missing feature or target (else missing features are encoded).
        sort_by: column that orders the rows, for ``support_order = "first"``.
        positive_above: the class is 1 where the target is above this number, else 0.
        target_countdown: the target is the client's largest value of this column minus the row's, for instance remaining useful life from ``cycle``.
        target_cap: a countdown above this number is this number.
        hf_split: split of the Hugging Face data set.
        partitioner: name of a class in ``flwr_datasets.partitioner``.
        partitioner_args: its arguments.
        partition: ``natural`` takes ``client``; ``iid``, ``dirichlet`` and ``shards`` deal the rows out to synthetic clients.
        samples: smallest and largest number of rows of a synthetic training client.
        size_law: of that number: ``uniform``, ``lognormal`` (median sqrt(lo hi)) or ``power`` (P(n) ~ n^-size_skew), cut to ``samples``.
        size_skew: sigma of the lognormal, exponent of the power law.
        alpha: Dirichlet concentration; small is uneven.
        classes_per_client: smallest and largest number of classes of a client in ``shards``, or one number.
        train_clients: how many training clients, a share of all clients (below 1), or 0 for the rest.
        validation_clients: the same for validation, 0 for none; 15 % (synthetic: a fifth of the training clients) unless given.
        heldout_clients: the same for held-out clients.
        validation_ids: validation clients by name.
        heldout_ids: held-out clients by name.
        support: rows of a validation or held-out client to adapt on: a number, a share (below 1), or smallest and largest number.
        support_order: ``random`` rows, or the ``first`` ones in the order of the file or of ``sort_by``.
        test_samples: test rows of such a client; 0 for the rest, or for 100 in a synthetic partition.
        max_samples: rows of any natural client, 0 for all.
        min_samples: a natural client with fewer rows is refused, or dropped.
        min_classes: a client with fewer classes is refused, or dropped; Dirichlet proportions are redrawn.
        drop_small_clients: drop natural clients below ``min_samples`` or ``min_classes`` and say how many in ``Federation.notes``.

    Raises:
        ConfigError: for a name or number that no field allows.
    """

    source: str = "csv"
    name: str = ""
    path: str | tuple[str, ...] = ()
    root: str = ""
    where: str = ""
    x: str = "x"
    target: str | tuple[str, ...] = ""
    client: str = ""
    flag: str = ""
    flag_use: str = "heldout"
    max_rows: int = 0
    layout: str = "auto"
    meta: str = ""
    tile: int = 32
    kind: str = "auto"
    features: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    max_categories: int = 50
    unseen: str = "column"
    separator: str = ","
    names: tuple[str, ...] = ()
    na_values: tuple[str, ...] = ()
    client_per_file: bool = False
    client_names: tuple[str, ...] = ()
    drop_missing: bool = False
    sort_by: str = ""
    positive_above: float | None = None
    target_countdown: str = ""
    target_cap: float | None = None
    hf_split: str = "train"
    partitioner: str = ""
    partitioner_args: Mapping[str, Any] = field(default_factory=dict)
    partition: str = "natural"
    samples: tuple[int, int] = (20, 50)
    size_law: str = "uniform"
    size_skew: float = 1.0
    alpha: float = 0.3
    classes_per_client: int | tuple[int, int] = (2, 3)
    train_clients: int | float = 0
    validation_clients: int | float | None = None
    heldout_clients: int | float | None = None
    validation_ids: tuple[str, ...] = ()
    heldout_ids: tuple[str, ...] = ()
    support: int | float | tuple[int, int] = 20
    support_order: str = "random"
    test_samples: int = 0
    max_samples: int = 0
    min_samples: int = 2
    min_classes: int = 2
    drop_small_clients: bool = False

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(f"data.{name}", getattr(self, name), known)
        for name in _COUNTS:
            if not _whole(getattr(self, name)):
                raise ConfigError(f"data.{name} = {getattr(self, name)!r}: expected a whole number, 0 or more")
        _check_numbers(self)

    @property
    def paths(self) -> tuple[str, ...]:
        """``path`` as a tuple."""
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    @property
    def targets(self) -> tuple[str, ...]:
        """``target`` as a tuple; empty where none was given."""
        given = (self.target,) if isinstance(self.target, str) else tuple(self.target)
        return tuple(name for name in given if name)


def options_from(table: Mapping[str, Any]) -> DataOptions:
    """Options from the ``[data]`` table of a TOML file; lists become tuples.

    Raises:
        ConfigError: for a key that is no option, with near names, or a value of another type.

    Example:
        >>> options_from({"path": ["a.csv", "b.csv"], "target": "y", "client_per_file": True}).paths
        ('a.csv', 'b.csv')
    """
    return parse(DataOptions, table, "[data]")


def bounds(value: int | tuple[int, int]) -> tuple[int, int]:
    """Smallest and largest of a number or a pair.

    Example:
        >>> bounds(3), bounds((2, 3))
        ((3, 3), (2, 3))
    """
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_whole(item) and item >= 1 for item in value) and value[0] <= value[1]


def _share_or_count(value: object) -> bool:
    return _whole(value) or (isinstance(value, float) and 0.0 < value < 1.0)


def _check_numbers(options: DataOptions) -> None:
    """Refuse numbers that mean nothing here, before any file is opened."""
    for name in ("train_clients", "validation_clients", "heldout_clients"):
        value = getattr(options, name)
        if value is not None and not _share_or_count(value):
            raise ConfigError(f"data.{name} = {value!r}: expected a number of clients, or a share between 0 and 1")
    if not (_pair(options.support) or (_share_or_count(options.support) and options.support != 0)):
        raise ConfigError(f"data.support = {options.support!r}: expected a number of rows, a share between 0 and 1, or [smallest, largest]")
    if not _pair(options.samples):
        raise ConfigError(f"data.samples = {options.samples!r}: expected [smallest, largest], both at least 1")
    if not (_pair(options.classes_per_client) or (_whole(options.classes_per_client) and options.classes_per_client != 0)):
        raise ConfigError(f"data.classes_per_client = {options.classes_per_client!r}: expected a number, or [smallest, largest]")
    if options.partition != "natural" and (options.validation_ids or options.heldout_ids):
        raise ConfigError("data.validation_ids and heldout_ids name natural clients, but partition is " + repr(options.partition))
    if options.target_cap is not None and not options.target_countdown:
        raise ConfigError("data.target_cap caps a countdown: set target_countdown to the column to count, such as 'cycle'")
    for name in ("alpha", "size_skew"):
        if not getattr(options, name) > 0:
            raise ConfigError(f"data.{name} = {getattr(options, name)!r}: expected a number above 0")
