"""The strategy's file and the posteriors': small, exact, deterministic and strict."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabayfl import random, tree, tree_file
from metabayfl.artifact import Strategy, load_posterior, load_strategy, save_posterior, strategy_from_bytes
from metabayfl.compression import int8
from metabayfl.errors import ArtifactError, ConfigError, StorageError
from metabayfl.types import Tree

KEY = random.key(5)
SPEC = {"algorithm": "meta_bayfl", "arguments": {"generator": "mixed", "rank": 2}, "model": {"name": "cnn", "channels": [16, 24]}}
SCHEMA = {"kind": "classification", "classes": [str(i) for i in range(10)], "mean": [0.286], "scale": [0.353]}
PROVENANCE = {"data_fingerprint": "0" * 64, "seed": 0, "versions": {"torch": "2.13"}}


def meta() -> Tree:
    shapes = {"free": (3640,), "space": (2, 49), "channel": (2, 24, 32), "hash": (2000,), "mu": (10, 32), "kappa": (), "log_a": (10,)}
    leaves = {name: random.normal(random.fold(KEY, name), shape) for name, shape in shapes.items()}
    z = {name: leaves.pop(name) for name in ("free", "space", "channel", "hash")}
    return {"z": z, "head": leaves, "seed": torch.tensor(2**60 + 1)}


def strategy(codec: str = "int8", value: Tree | None = None) -> Strategy:
    return Strategy(SPEC, meta() if value is None else value, SCHEMA, PROVENANCE, {"validation_loss": 0.33, "auroc": None}, codec)


def equal(a: Tree, b: Tree) -> bool:
    left, right = tree.flatten(a), tree.flatten(b)
    return list(left) == list(right) and all(left[path].dtype == right[path].dtype and torch.equal(left[path], right[path]) for path in left)


@pytest.mark.parametrize("codec", ["exact", "int8", "int4"])
def test_a_strategy_comes_back(tmp_path: Path, codec: str) -> None:
    strategy(codec).save(tmp_path / "s.safetensors")
    for template in (None, meta()):
        loaded = load_strategy(tmp_path / "s.safetensors", template)
        assert (loaded.spec, loaded.schema, loaded.provenance, loaded.codec) == (SPEC, SCHEMA, PROVENANCE, codec)
        assert loaded.figures == {"validation_loss": 0.33, "auroc": None}
        assert equal(loaded.meta, int8().round_trip(meta(), None) if codec == "int8" else meta())


def test_clients_load_what_clients_would_be_sent() -> None:
    sent = int8().decode(int8().encode(meta(), None), meta())
    assert equal(strategy_from_bytes(strategy().to_bytes()).meta, sent)


def test_the_file_is_small_and_says_its_size() -> None:
    data = strategy().to_bytes()
    count = tree.size(meta())
    assert 7000 < count < 7700
    assert len(data) <= count + 3500
    assert len(strategy("exact").to_bytes()) > 4 * count
    assert strategy().size().startswith(f"{count:,} numbers in {len(data):,} bytes: {count + 7 + 4 * 7:,} for the numbers, ")


@pytest.mark.parametrize("codec", ["exact", "int8"])
def test_the_same_strategy_gives_the_same_bytes_also_after_loading(codec: str) -> None:
    data = strategy(codec).to_bytes()
    loaded = strategy_from_bytes(data)
    assert {strategy(codec).to_bytes() for _ in range(5)} == {data}
    assert loaded.to_bytes() == data
    assert loaded.digest() == strategy(codec).digest()


def test_any_difference_changes_the_digest() -> None:
    base = strategy()
    other = tree.map(lambda leaf: leaf * 2 if leaf.is_floating_point() else leaf, meta())
    changed = [{"meta": other}, {"spec": {}}, {"schema": {}}, {"provenance": {}}, {"figures": {}}, {"codec": "exact"}]
    digests = [dataclasses.replace(base, **change).digest() for change in changed]
    assert len({base.digest(), *digests}) == 1 + len(changed)


def test_figures_may_lack_a_value_and_come_from_numpy() -> None:
    figures: dict[str, Any] = {"auroc": float("nan"), "acc": np.float32(0.5), "rounds": np.int64(3)}
    loaded = strategy_from_bytes(dataclasses.replace(strategy(), figures=figures).to_bytes())
    assert loaded.figures == {"auroc": None, "acc": 0.5, "rounds": 3}


@pytest.mark.parametrize(
    "change",
    [{"spec": {"clip": float("inf")}}, {"schema": {"mean": np.zeros(3)}}, {"figures": {"curve": np.zeros(3)}}, {"provenance": {1: 2}}],
)
def test_what_has_no_json_is_refused_when_saving(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="JSON"):
        dataclasses.replace(strategy(), **change).save(tmp_path / "s")
    assert not os.listdir(tmp_path)


def test_a_diverged_strategy_is_refused_when_saving(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"NaN or infinite numbers in \['w'\]"):
        strategy(value={"w": torch.tensor([torch.nan])}).save(tmp_path / "s")
    assert not os.listdir(tmp_path)


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        strategy("int9").to_bytes()


def test_a_strategy_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="could not write"):
        strategy().save(tmp_path / "file" / "s")


def test_a_template_that_does_not_fit_is_refused() -> None:
    other = {**meta(), "head": {"mu": torch.zeros(3)}}
    with pytest.raises(ArtifactError, match=r"lacks nothing and has \['head/kappa', 'head/log_a'\]"):
        strategy_from_bytes(strategy().to_bytes(), other)


def small(codec: str) -> Strategy:
    return Strategy({"a": 1}, {"w": torch.tensor([0.5, -2.0]), "n": torch.tensor(3)}, {}, codec=codec)


@pytest.mark.parametrize("codec", ["exact", "int8"])
@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_every_altered_byte_is_refused(codec: str, mask: int) -> None:
    data = small(codec).to_bytes()
    for i in range(len(data)):
        with pytest.raises(ArtifactError):
            strategy_from_bytes(data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :])


@pytest.mark.parametrize("codec", ["exact", "int8"])
def test_every_truncation_is_refused(codec: str) -> None:
    data = small(codec).to_bytes()
    for i in range(len(data)):
        with pytest.raises(ArtifactError):
            strategy_from_bytes(data[:i])


def forged(value: Tree, **changes: Any) -> bytes:
    """A file with a right digest and a wrong content."""
    about = {"version": 1, "spec": {}, "schema": {}, "provenance": {}, "figures": {}, "codec": "int8", **changes}
    return tree_file.to_bytes(value, {name: item for name, item in about.items() if item is not ...}, kind="strategy")


CODES = torch.tensor([3, -3], dtype=torch.int8)
ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    "value, changes, message",
    [
        ({}, {"version": 2}, "version 2, this library reads 1"),
        ({}, {"version": ...}, "version None"),
        ({}, {"extra": {}}, "says .*'extra'"),
        ({}, {"codec": "int9"}, "codec 'int9'"),
        ({}, {"codec": ["int8"]}, "codec"),
        ({}, {"spec": []}, "'spec' is"),
        ({}, {}, "groups"),
        ({"meta": {"w": CODES}}, {}, "groups"),
        ({"meta": {"w": CODES}, "scale": {"w": ONE}, "more": {}}, {}, "groups"),
        ({"meta": CODES, "scale": {"w": ONE}}, {}, "groups"),
        ({"meta": {"w": CODES}, "scale": {"v": ONE}}, {}, "scales for numbers that it lacks"),
        ({"meta": {"w": CODES.float()}, "scale": {"w": ONE}}, {}, "no int8 form"),
        ({"meta": {"w": torch.tensor([-128, 0], dtype=torch.int8)}, "scale": {"w": ONE}}, {}, "no int8 form"),
        ({"meta": {"w": CODES}, "scale": {"w": ONE.double()}}, {}, "no int8 form"),
        ({"meta": {"w": CODES}, "scale": {"w": torch.ones(2)}}, {}, "no int8 form"),
        ({"meta": {"w": CODES}, "scale": {"w": -ONE}}, {}, "no int8 form"),
        ({"meta": {"w": CODES}, "scale": {"w": ONE * torch.nan}}, {}, "no int8 form"),
        ({"meta": {"w": CODES}, "scale": {"w": ONE * torch.inf}}, {}, "NaN or infinite"),
        ({"meta": {"w": ONE * torch.nan}}, {"codec": "exact"}, "NaN or infinite"),
    ],
)
def test_contents_that_cannot_be_are_refused(value: Tree, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        strategy_from_bytes(forged(value, **changes))


POSTERIOR: Tree = {"head": {"mean": torch.ones(2, 3), "count": torch.tensor([4, 5])}}


def test_a_posterior_comes_back_with_its_strategy(tmp_path: Path) -> None:
    save_posterior(tmp_path / "p", POSTERIOR, strategy(), {"threshold": 0.7})
    for template, at_hand in ((None, None), (POSTERIOR, strategy())):
        posterior, origin, about = load_posterior(tmp_path / "p", template, at_hand)
        assert equal(posterior, POSTERIOR)
        assert origin.digest() == strategy().digest()
        assert equal(origin.meta, int8().round_trip(meta(), None))
        assert about == {"threshold": 0.7}


def test_a_posterior_of_another_strategy_is_refused(tmp_path: Path) -> None:
    save_posterior(tmp_path / "p", POSTERIOR, strategy(), {})
    with pytest.raises(ArtifactError, match=r"was made from the strategy .* personalise again"):
        load_posterior(tmp_path / "p", strategy=strategy("exact"))


def test_posteriors_and_strategies_are_not_mixed_up(tmp_path: Path) -> None:
    save_posterior(tmp_path / "p", POSTERIOR, strategy(), {})
    strategy().save(tmp_path / "s")
    with pytest.raises(ArtifactError, match="is a 'posterior', expected a 'strategy'"):
        load_strategy(tmp_path / "p")
    with pytest.raises(ArtifactError, match="is a 'strategy', expected a 'posterior'"):
        load_posterior(tmp_path / "s")


def test_bad_posteriors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the posterior holds NaN"):
        save_posterior(tmp_path / "p", {"m": torch.tensor(torch.nan)}, strategy(), {})
    save_posterior(tmp_path / "p", POSTERIOR, strategy(), {})
    with pytest.raises(ArtifactError, match="does not fit"):
        load_posterior(tmp_path / "p", {"head": {"mean": torch.ones(2, 4), "count": torch.tensor([4, 5])}})
    origin = torch.frombuffer(bytearray(strategy().to_bytes()), dtype=torch.uint8)
    link = {"version": 1, "strategy": strategy().digest(), "about": {}}
    for value, changed, message in [
        ({"posterior": {}}, link, "lacks the strategy"),
        ({"posterior": {}, "strategy": origin[:-1]}, link, "cut short"),
        ({"posterior": {}, "strategy": origin}, {**link, "strategy": "0" * 64}, "another strategy than it names"),
        ({"posterior": {}, "strategy": origin, "more": {}}, link, "groups"),
        ({"posterior": {"m": torch.tensor(torch.inf)}, "strategy": origin}, link, "NaN or infinite"),
        ({"posterior": {}, "strategy": origin}, {**link, "version": 2}, "version 2"),
    ]:
        tree_file.save_tree(tmp_path / "q", value, changed, kind="posterior")
        with pytest.raises(ArtifactError, match=message):
            load_posterior(tmp_path / "q")


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:2000] + b"\x55" + data[2001:], lambda data: b""])
def test_damaged_posteriors_are_refused(tmp_path: Path, damage: Any) -> None:
    save_posterior(tmp_path / "p", POSTERIOR, strategy(), {})
    (tmp_path / "p").write_bytes(damage((tmp_path / "p").read_bytes()))
    with pytest.raises(ArtifactError):
        load_posterior(tmp_path / "p")
