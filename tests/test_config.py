"""Configs: strict about names and types, lenient about nothing, and the ready ones all hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from metabayfl import config
from metabayfl.algorithms import ALGORITHMS
from metabayfl.errors import ConfigError, MetabayflError
from metabayfl.table import convert, parse
from tiny import write_digits, write_patients

READY = [
    "cifar10_shards",
    "cmapss",
    "digits",
    "fashion_mnist_dirichlet",
    "fashion_mnist_iid",
    "fashion_mnist_shards",
    "femnist_digits",
    "heart_disease",
    "loans",
    "mnist_by_writer",
    "mnist_by_writer_private",
    "parkinsons",
    "sleepstudy",
    "uci_har",
]


def test_the_ready_configs_are_those_of_the_documentation() -> None:
    assert config.ready_configs() == READY


@pytest.mark.parametrize("name", READY)
def test_every_ready_config_holds(name: str) -> None:
    read = config.read(name)
    assert read.name == name
    assert set(read.algorithms) <= set(ALGORITHMS)
    assert read.data.source == "digits" or read.data.paths
    for algorithm in read.algorithms:
        assert config.train_options(read, algorithm).rounds >= 0
        assert config.builder_options(read, algorithm).keys() <= {"rounds", *read.algorithm.get(algorithm, {})}


def test_a_file_is_read_and_named_after_itself(tmp_path: Path) -> None:
    path = write_digits(tmp_path, ('name = "tiny"\n', ""))
    assert config.read(path).name == "tiny"
    assert config.read(str(path)).model == {"name": "mlp", "hidden": [16, 8]}


def test_overrides_reach_their_algorithm_alone(tmp_path: Path) -> None:
    text = "[algorithm.meta_bayfl]\ntrain.rounds = 9\ntrain.weighting = 'uniform'"
    read = config.read(write_digits(tmp_path, ("[algorithm.meta_bayfl]", text)))
    assert (config.train_options(read, "meta_bayfl").rounds, config.train_options(read, "fedavg").rounds) == (9, 3)
    assert config.train_options(read, "meta_bayfl").weighting == "uniform"
    assert config.train_options(read, "meta_bayfl").cohort == 4
    assert config.builder_options(read, "meta_bayfl") == {"generator": "full", "rounds": 9}
    assert config.builder_options(read, "fedavg") == {"local_epochs": 1, "batch_size": 0}
    assert config.builder_options(read, "local") == {}


def test_data_beside_the_config_are_found_from_anywhere(tmp_path: Path) -> None:
    read = config.read(write_patients(tmp_path, "dose"))
    assert Path(read.data.root) == tmp_path.resolve()
    (tmp_path / "patients.csv").unlink()
    assert config.read(tmp_path / "dose.toml").data.root == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[train]", "[trian]", "unknown key 'trian'|unknown key in .*'trian': did you mean 'train'"),
        ("rounds = 3", "rouns = 3", "'rouns': did you mean 'rounds'"),
        ("rounds = 3", "rounds = 3.5", "rounds in .* is 3.5, expected a whole number"),
        ("rounds = 3", "rounds = true", "rounds in .* is True, expected a whole number"),
        ("rounds = 3", "rounds = -1", "rounds is -1, expected 0 or more"),
        ("cohort = 4", "cohort = 0", "cohort is 0, expected 1 or more"),
        ("cohort = 4", "support_share = 1", "support_share is 1.0"),
        ("cohort = 4", 'sampler = "unifrom"', "unknown sampler 'unifrom': did you mean 'uniform'"),
        ("cohort = 4", 'weighting = "example"', "unknown weighting 'example': did you mean 'examples'"),
        ('source = "digits"', 'source = "digit"', "'digit': did you mean 'digits'"),
        ('source = "digits"', "source = 3", "source in .* is 3, expected a text"),
        ("support = 20", "suport = 20", "'suport': did you mean 'support'"),
        ("support = 20", 'support = "many"', "support in .* is 'many', expected"),
        ('"fedavg", "meta', '"fedavgg", "meta', "unknown algorithm 'fedavgg': did you mean 'fedavg'"),
        ("seeds = [0]", "seeds = [-1]", r"seeds is \[-1\], expected whole numbers from 0"),
        ("seeds = [0]", "seeds = 0", "seeds in .* is 0, expected a list of a whole number"),
        ("[algorithm.fedavg]", "[algorithm.fedavgg]", "unknown algorithm 'fedavgg'"),
        ("local_epochs = 1", "local_epoch = 1", "'local_epoch': did you mean 'local_epochs'"),
        ("local_epochs = 1", 'local_epochs = "one"', r"local_epochs in \[algorithm.fedavg\] is 'one', expected a whole number"),
        ("local_epochs = 1", "train = 3", r"\[algorithm.fedavg.train\] is 3, expected"),
        ("local_epochs = 1", "train.round = 3", r"unknown key in \[algorithm.fedavg.train\] 'round': did you mean 'rounds'"),
        ("local_epochs = 1", 'train.rounds = "3"', r"rounds in \[algorithm.fedavg.train\] is '3'"),
        ("local_epochs = 1", "train.cohort = 0", "cohort is 0"),
        ('generator = "full"', "grid_u = 3", r"grid_u in \[algorithm.meta_bayfl\] is 3, expected a list of a number"),
        ('generator = "full"', 'hash_size = "big"', "hash_size .* is 'big', expected a whole number or nothing"),
        ('name = "mlp"', 'name = "mpl"', "unknown model 'mpl': did you mean 'mlp'"),
        ('name = "mlp"', "name = 3", r"name in \[model\] is 3, expected a text"),
        ('name = "mlp"', "", r"name in \[model\] is None"),
        ("hidden = [16, 8]", "hiden = [16, 8]", "'hiden': did you mean 'hidden'"),
        ("hidden = [16, 8]", 'hidden = ["a"]', r"hidden in \[model\] is 'a', expected a whole number"),
        ("hidden = [16, 8]", "dropout = true", r"dropout in \[model\] is True, expected a number"),
        ("[algorithm.fedavg]", "[algorithm]\nlocal = 3\n[algorithm.fedavg]", "local in algorithm .* is 3, expected a table"),
        ("[train]", "[train", "is not a TOML file"),
        ('name = "tiny"', "name = 3", "name in .* is 3, expected a text"),
    ],
)
def test_what_does_not_belong_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.read(write_digits(tmp_path, (old, new)))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match="lacks the key 'data'"):
        config.read(tmp_path / "empty.toml")
    with pytest.raises(ConfigError, match=r"no config file 'digts'; ready ones are .*digits"):
        config.read("digts")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        config.read(tmp_path / "bytes.toml")


@dataclass(frozen=True)
class Inner:
    size: int
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner
    way: Literal["up", "down"] = "up"
    pair: tuple[int, str] = (0, "")
    many: tuple[float, ...] = ()
    maybe: int | None = None
    table: dict[str, int] | None = None


def test_tables_become_dataclasses() -> None:
    table = {"inner": {"size": 3, "share": 1}, "way": "down", "pair": [1, "a"], "many": [1, 2.5], "maybe": 4, "table": {"a": 1}}
    assert parse(Outer, table, "[outer]") == Outer(Inner(3, 1.0), "down", (1, "a"), (1.0, 2.5), 4, {"a": 1})
    assert parse(Outer, {"inner": {"size": 3}}, "[outer]") == Outer(Inner(3))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"\[outer\] lacks the key 'inner' \(a table\)"),
        ({"inner": 3}, "is 3, expected a table"),
        ({"inner": {}}, "lacks the key 'size'"),
        ({"inner": {"size": 1, "shares": 2}}, "'shares': did you mean 'share'"),
        ({"inner": {"size": "1"}}, r"size in .*inner.* is '1', expected a whole number"),
        ({"inner": {"size": 1}, "way": "left"}, "is 'left', expected one of 'up', 'down'"),
        ({"inner": {"size": 1}, "pair": [1]}, r"is \[1\], expected a list of a whole number and a text"),
        ({"inner": {"size": 1}, "many": ["x"]}, "is 'x', expected a number"),
        ({"inner": {"size": 1}, "maybe": 1.5}, "is 1.5, expected a whole number or nothing"),
        ({"inner": {"size": 1}, "table": {"a": "b"}}, "is 'b', expected a whole number"),
    ],
)
def test_wrong_tables_say_what_was_expected(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Outer, table, "[outer]")


def test_a_refused_value_is_an_error_of_this_library() -> None:
    with pytest.raises(MetabayflError):
        convert(float("nan"), int, "x")
