"""One TOML file describes a study: the data, the model, how to train, and what is particular to each algorithm.

.. code-block:: toml

    name = "digits"
    algorithms = ["local", "fedavg", "meta_bayfl"]
    seeds = [0, 1, 2]

    [data]
    source = "digits"

    [model]
    name = "mlp"
    hidden = [64, 32]

    [train]
    rounds = 100

    [algorithm.meta_bayfl]      # arguments of the algorithm's builder
    generator = "mixed"
    train.rounds = 300          # overrides of [train] for this algorithm alone
"""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import DataOptions
from metabayfl.engine.options import TrainOptions
from metabayfl.errors import ConfigError, unknown
from metabayfl.models import MODELS
from metabayfl.table import convert, parse

DEFAULT_ALGORITHMS = ("local", "fedavg", "fedavg_ft", "fedavg_head_ft", "per_fedavg", "meta_bayfl")


@dataclass(frozen=True)
class Config:
    """A whole study.

    Attributes:
        name: what the report is called.
        data: which federation.
        model: ``name`` and the options of its builder.
        train: how the engine runs, for every algorithm alike.
        algorithm: by name, builder arguments, and under ``train`` what differs from ``train``.
        algorithms: which ones ``compare`` runs unless told.
        seeds: which seeds ``compare`` runs unless told; a seed decides the partition, the client split, the start and all noise.
    """

    name: str
    data: DataOptions
    model: dict[str, Any]
    train: TrainOptions = field(default_factory=TrainOptions)
    algorithm: dict[str, dict[str, Any]] = field(default_factory=dict)
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if not isinstance(self.model.get("name"), str):
            raise ConfigError(f'name in [model] is {self.model.get("name")!r}, expected a text, such as name = "mlp"')
        if any(seed < 0 for seed in self.seeds):
            raise ConfigError(f"seeds is {list(self.seeds)}, expected whole numbers from 0")
        model_options(self)
        for name in (*self.algorithms, *self.algorithm):
            check_algorithm(name)
        for name in self.algorithm:
            builder_options(self, name)
            train_options(self, name)


def check_algorithm(name: str) -> None:
    """Refuse a name that the registry lacks."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)


def builder_options(config: Config, name: str) -> dict[str, Any]:
    """The arguments for the builder of ``name``, checked against its signature."""
    table = {key: value for key, value in config.algorithm.get(name, {}).items() if key != "train"}
    parameters = inspect.signature(ALGORITHMS[name], eval_str=True).parameters.values()
    known = {item.name: item.annotation for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}
    given = _checked(table, known, f"[algorithm.{name}]", ("train",))
    if "rounds" in known:  # schedules over the whole run
        given.setdefault("rounds", train_options(config, name).rounds)
    return given


def model_options(config: Config) -> dict[str, Any]:
    """The options for the builder of the model, checked against its signature."""
    name = config.model["name"]
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    known = {item.name: item.annotation for item in list(inspect.signature(MODELS[name], eval_str=True).parameters.values())[3:]}
    return _checked({key: value for key, value in config.model.items() if key != "name"}, known, "[model]", ("name",))


def _checked(table: dict[str, Any], types: dict[str, Any], where: str, others: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every key known and every value of its type; ``others`` are keys that mean something else there."""
    for key in table:
        if key not in types:
            raise unknown(f"key in {where}", key, [*types, *others])
    return {key: convert(value, types[key], f"{key} in {where}") for key, value in table.items()}


def train_options(config: Config, name: str) -> TrainOptions:
    """``[train]`` with what ``[algorithm.NAME.train]`` changes."""
    where = f"[algorithm.{name}.train]"
    changes = convert(config.algorithm.get(name, {}).get("train", {}), dict[str, Any], where)
    return dataclasses.replace(config.train, **_checked(changes, inspect.get_annotations(TrainOptions, eval_str=True), where))


def ready_configs() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(Path(item.name).stem for item in (resources.files("metabayfl") / "configs").iterdir() if item.name.endswith(".toml"))


def read(path: str | Path) -> Config:
    """The config in a TOML file, or a ready one by its name.

    Raises:
        ConfigError: for a missing file, bad TOML, or any key or value that does not belong there.
    """
    try:
        text = _text(path)
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from error
    config = parse(Config, {"name": Path(path).stem, **table}, str(path))
    return dataclasses.replace(config, data=_beside(config.data, Path(path).parent))


def _beside(data: DataOptions, folder: Path) -> DataOptions:
    """Data files that lie beside the config are found from any working directory."""
    beside = data.paths and all(any(folder.glob(path)) for path in data.paths if not Path(path).is_absolute())
    return dataclasses.replace(data, root=str(folder.resolve())) if beside and not data.root else data


def _text(path: str | Path) -> str:
    if Path(path).is_file():
        return Path(path).read_text(encoding="utf-8")
    if str(path) in ready_configs():
        return (resources.files("metabayfl") / "configs" / f"{path}.toml").read_text(encoding="utf-8")
    raise ConfigError(f"there is no config file {str(path)!r}; ready ones are {', '.join(ready_configs())}")
