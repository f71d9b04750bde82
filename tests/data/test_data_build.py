"""Whole federations: disjoint groups, support first, the schema from training alone, and one clear error for each thing that is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metabayfl.data import DataOptions, Federation, RawArrays, build_federation, from_arrays, options_from
from metabayfl.errors import ConfigError, DataError


def rows(*, clients: int = 10, each: int = 12) -> RawArrays:
    """Row number i has the input (i, client), so that a read shows which rows it holds."""
    index = np.arange(clients * each)
    client = index // each
    return from_arrays(np.stack([index, client], axis=1).astype(float), index % 3, [f"c{i}" for i in client], layout="vector")


def held(federation: Federation, group: str, position: int) -> np.ndarray:
    """Row numbers of a client, from what it reads."""
    x, _ = getattr(federation, group).read(position)
    schema = federation.schema
    return np.round(x[:, 0].astype(float) * schema.channel_scale[0] + schema.channel_mean[0]).astype(int)


OPTIONS = DataOptions(validation_clients=2, heldout_clients=3, support=4)


def test_groups_are_disjoint_and_complete() -> None:
    federation = build_federation(OPTIONS, 0, data=rows())
    groups = (federation.train, federation.validation, federation.heldout)
    assert [len(group.ids) for group in groups] == [5, 2, 3]
    assert sorted(name for group in groups for name in group.ids) == [f"c{i}" for i in range(10)]
    every = np.concatenate(
        [held(federation, name, i) for name in ("train", "validation", "heldout") for i in range(len(getattr(federation, name).ids))]
    )
    assert sorted(every) == list(range(120))
    assert federation.train.support.tolist() == federation.train.sizes.tolist()
    assert federation.heldout.support.tolist() == [4, 4, 4]


def test_reads_are_float32_and_fit_the_schema() -> None:
    federation = build_federation(OPTIONS, 0, data=rows())
    x, y = federation.heldout.read(1)
    assert (x.dtype, y.dtype, x.shape) == (np.float32, np.int64, (12, 2))
    raw = rows()
    mine = np.array([raw.client.names[code] == federation.heldout.ids[1] for code in raw.client.codes])
    order = held(federation, "heldout", 1)
    assert np.array_equal(x, federation.schema.encode(raw.x[order]))
    assert np.array_equal(y, federation.schema.encode_targets(order % 3))
    assert sorted(order) == np.flatnonzero(mine).tolist()


def test_the_schema_sees_training_clients_alone() -> None:
    federation = build_federation(OPTIONS, 0, data=rows())
    train = np.concatenate([held(federation, "train", i) for i in range(5)])
    assert federation.schema.channel_mean[0] == pytest.approx(train.mean(), rel=1e-12)
    assert federation.schema.channel_scale[0] == pytest.approx(train.std(), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    train=st.sampled_from([0, 3, 0.5]),
    validation=st.sampled_from([0, 2, 0.2, None]),
    heldout=st.sampled_from([1, 0.2, None]),
    support=st.sampled_from([1, 5, 0.5, (2, 6), (2, 30)]),
    order=st.sampled_from(["random", "first"]),
    cap=st.sampled_from([0, 8]),
    seed=st.integers(0, 99),
)
def test_any_split_keeps_its_promises(train: object, validation: object, heldout: object, support: object, order: str, cap: int, seed: int) -> None:
    options = DataOptions(
        train_clients=train, validation_clients=validation, heldout_clients=heldout, support=support, support_order=order, max_samples=cap
    )
    federation = build_federation(options, seed, data=rows())
    groups = [federation.train, federation.validation, federation.heldout]
    names = [name for group in groups for name in group.ids]
    assert len(names) == len(set(names))
    for name, group in zip(("train", "validation", "heldout"), groups, strict=True):
        for i, (size, first) in enumerate(zip(group.sizes, group.support, strict=True)):
            mine = held(federation, name, i)
            assert len(mine) == size == len(set(mine))
            assert name == "train" or 1 <= first < size
            if order == "first":
                assert (np.diff(mine) > 0).all()


def test_ordered_support_is_the_first_rows_and_tests_can_be_capped() -> None:
    options = DataOptions(heldout_ids=("c7",), validation_clients=0, support=4, support_order="first", test_samples=3)
    mine = held(build_federation(options, 0, data=rows()), "heldout", 0)
    assert mine[:4].tolist() == [84, 85, 86, 87]
    assert len(mine) == 7
    assert set(mine[4:]) <= set(range(88, 96))


def test_a_seed_decides_everything_and_the_fingerprint_tells() -> None:
    once, again, other = (build_federation(OPTIONS, seed, data=rows()) for seed in (0, 0, 1))
    assert once.heldout.ids == again.heldout.ids
    assert np.array_equal(once.heldout.read(0)[0], again.heldout.read(0)[0])
    assert once.fingerprint == again.fingerprint != other.fingerprint
    assert len(once.fingerprint) == 64
    changed = rows()
    changed.x[int(held(once, "train", 0)[0]), 1] += 1
    assert build_federation(OPTIONS, 0, data=changed).fingerprint != once.fingerprint


def test_one_client_more_does_not_redraw_the_support_of_the_others() -> None:
    options = DataOptions(heldout_ids=("c0",), validation_clients=0, support=4)
    few, more = (build_federation(options, 0, data=rows(clients=n)) for n in (4, 5))
    assert held(few, "heldout", 0).tolist() == held(more, "heldout", 0).tolist()


def test_named_and_flagged_clients() -> None:
    raw = rows()._replace(flag=np.arange(120) >= 96)
    federation = build_federation(DataOptions(flag="late", validation_ids=("c1",), support=4), 0, data=raw)
    assert federation.heldout.ids == ("c8", "c9")
    assert federation.validation.ids == ("c1",)
    one = build_federation(DataOptions(flag="late", validation_clients=0, heldout_clients=1, support=4), 0, data=raw)
    assert set(one.heldout.ids) <= {"c8", "c9"}
    assert set(one.train.ids) == {f"c{i}" for i in range(8)}
    without = build_federation(DataOptions(flag="late", flag_use="exclude", support=4), 0, data=raw)
    assert sum(len(group.ids) for group in (without.train, without.validation, without.heldout)) == 8
    with pytest.raises(DataError, match=r"flag 'late' is true in some rows and false in others of 1 clients, such as 'c5'"):
        build_federation(DataOptions(flag="late", support=4), 0, data=raw._replace(flag=np.arange(120) >= 70))


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards"])
def test_synthetic_clients(partition: str) -> None:
    raw = rows(clients=20, each=60)
    options = DataOptions(
        partition=partition, samples=(10, 20), train_clients=6, validation_clients=2, heldout_clients=3, support=(5, 8), test_samples=9, alpha=2.0
    )
    federation = build_federation(options, 0, data=raw)
    assert [len(group.ids) for group in (federation.train, federation.validation, federation.heldout)] == [6, 2, 3]
    assert federation.train.sizes.min() >= 10
    assert federation.train.sizes.max() <= 20
    assert (federation.heldout.sizes - federation.heldout.support).tolist() == [9, 9, 9]
    every = np.concatenate(
        [held(federation, name, i) for name in ("train", "validation", "heldout") for i in range(len(getattr(federation, name).ids))]
    )
    assert len(every) == len(set(every))
    assert build_federation(options, 0, data=raw).fingerprint == federation.fingerprint
    assert build_federation(options, 1, data=raw).fingerprint != federation.fingerprint


def test_synthetic_clients_of_a_part_of_the_pool() -> None:
    raw = rows(clients=20, each=60)._replace(flag=np.arange(1200) % 2 == 0)
    options = DataOptions(partition="iid", train_clients=2, samples=(5, 5), support=5, test_samples=5, flag="even", flag_use="only", max_rows=40)
    federation = build_federation(options, 0, data=raw)
    mine = np.concatenate([held(federation, "train", 0), held(federation, "heldout", 0)])
    assert (mine % 2 == 0).all()
    assert mine.max() < 80


def test_small_clients_are_refused_or_dropped() -> None:
    x = np.arange(14.0)[:, None]
    client = ["big"] * 6 + ["one"] + ["same"] * 3 + ["other"] * 4
    y = [0, 1] * 3 + [0] + [1] * 3 + [0, 1] * 2
    with pytest.raises(DataError, match=r"1 of 4 clients have fewer than 2 samples: 'one' \(1\). Set drop_small_clients"):
        build_federation(DataOptions(support=2), data=from_arrays(x, y, client))
    with pytest.raises(DataError, match=r"1 of 3 clients have fewer than 2 classes: 'same' \(1\)"):
        build_federation(DataOptions(support=2), data=from_arrays(x, y, client)._replace(**_without(x, y, client, "one")))
    federation = build_federation(
        DataOptions(support=2, drop_small_clients=True, validation_clients=0, heldout_clients=1), data=from_arrays(x, y, client)
    )
    assert {*federation.train.ids, *federation.heldout.ids} == {"big", "other"}
    assert federation.notes == ("dropped 1 of 4 clients with fewer than 2 samples", "dropped 1 of 4 clients with fewer than 2 classes")


def _without(x: np.ndarray, y: list[int], client: list[str], name: str) -> dict[str, object]:
    keep = np.array([item != name for item in client])
    return from_arrays(x[keep], np.array(y)[keep], np.array(client)[keep])._asdict()


def test_a_client_too_small_for_its_support() -> None:
    with pytest.raises(DataError, match=r"client 'c\d' has 12 rows, but 12 of them are to be support .* min_samples = 13"):
        build_federation(DataOptions(support=12), data=rows())


def test_values_that_are_not_finite() -> None:
    raw = rows()
    raw.x[[3, 5], 1] = np.nan, np.inf
    with pytest.raises(DataError, match=r"arrays has NaN or infinite inputs \(column: rows\) x\[:, 1\]: 2, of 120 rows"):
        build_federation(OPTIONS, data=raw)
    images = from_arrays(np.full((4, 2, 2), np.nan), [0, 1, 0, 1], [1, 1, 2, 2])
    with pytest.raises(DataError, match=r"\(column: rows\) x: 4, of 4 rows"):
        build_federation(OPTIONS, data=images)
    frame = pd.DataFrame({"who": [1, 1, 2, 2], "a": [1.0, np.inf, 2.0, 3.0], "y": [0, 1, 0, 1]})
    with pytest.raises(DataError, match=r"infinite inputs \(column: rows\) a: 1, of 4 rows"):
        build_federation(DataOptions(client="who", target="y"), data=frame)
    with pytest.raises(DataError, match=r"target with NaN or infinite values \(column: rows\) y: 1, of 3 rows"):
        from_arrays(np.zeros((3, 1)), [0.5, np.nan, 1.0])


def test_classes_that_training_never_saw() -> None:
    y = np.arange(120) % 2
    y[100] = 5
    raw = from_arrays(rows().x, y, np.arange(120) // 12)
    with pytest.raises(DataError, match=r"no training client has class '5', but validation or held-out clients do: '8'"):
        build_federation(DataOptions(heldout_ids=("8", "9"), validation_clients=0, support=4), data=raw)
    federation = build_federation(DataOptions(heldout_ids=("7", "9"), validation_clients=0, support=4), data=raw)
    assert federation.schema.classes == ("0", "1", "5")


def test_no_client_column() -> None:
    frame = pd.DataFrame({"site": [1, 1], "a": [1.0, 2.0], "y": [0, 1]})
    with pytest.raises(DataError, match=r"table has no client column: set client, or partition to 'iid'.* Its columns: site, a"):
        build_federation(DataOptions(target="y"), data=frame)
    with pytest.raises(DataError, match=r"1 of 2 rows have no client"):
        build_federation(DataOptions(client="site", target="y"), data=frame.assign(site=["a", None]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            DataOptions(train_clients=8, validation_clients=2, heldout_clients=3, support=4),
            "wants 8 training, 2 validation and 3 held-out clients, but there are 10",
        ),
        (DataOptions(heldout_clients=11, support=4), "heldout_clients wants 11 clients, but only 10 of 10 are left"),
        (DataOptions(heldout_clients=3, heldout_ids=("c1",), support=4), "heldout_clients wants 3 clients, but only 1 of 10 are named"),
        (DataOptions(heldout_clients=10, validation_clients=0, support=4), "the split wants at least one training"),
        (DataOptions(heldout_ids=("c99",), support=4), "the split names client 'c99', but it is not among the 10 clients, such as c9"),
        (DataOptions(heldout_ids=("c1",), validation_ids=("c1",), support=4), "clients in both validation and held-out groups: c1"),
    ],
)
def test_splits_that_cannot_be(options: DataOptions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_federation(options, data=rows())


def test_targets_without_variation() -> None:
    raw = from_arrays(np.arange(8.0)[:, None], np.full(8, 1.5), [1, 1, 2, 2, 3, 3, 4, 4])
    with pytest.raises(DataError, match=r"target y: every training row has 1.5"):
        build_federation(DataOptions(support=1, heldout_clients=1, validation_clients=0), data=raw)
    same = from_arrays(np.arange(8.0)[:, None], ["a"] * 8, [1, 1, 2, 2, 3, 3, 4, 4])
    with pytest.raises(DataError, match=r"the training clients have one class, 'a'"):
        build_federation(DataOptions(support=1, min_classes=1), data=same)


def test_features_that_training_cannot_scale() -> None:
    frame = pd.DataFrame({"who": [1, 1, 2, 2], "a": [np.nan] * 4, "b": [1e200, -1e200, 1, 2], "c": [None] * 4, "y": [0, 1, 0, 1]})
    options = DataOptions(client="who", target="y", heldout_clients=1, validation_clients=0, support=1)
    for columns, message in ((["a"], "feature 'a' has no value in the training"), (["c"], "feature 'c' has no value in the training")):
        with pytest.raises(DataError, match=message):
            build_federation(options, data=frame[["who", "y", *columns]])
    with pytest.raises(DataError, match=r"feature 'b' has values too large to square"):
        build_federation(DataOptions(**{**vars(options), "heldout_ids": ("2",)}), data=frame[["who", "y", "b"]])
    with pytest.raises(DataError, match=r"channel 0 of the inputs has values too large"):
        build_federation(
            DataOptions(heldout_ids=("2",), support=1, validation_clients=0), data=from_arrays(frame[["b"]].to_numpy(), [0, 1, 0, 1], [1, 1, 2, 2])
        )


def test_an_empty_pool() -> None:
    with pytest.raises(DataError, match=r"has no row to use"):
        build_federation(DataOptions(flag="f", flag_use="only"), data=rows()._replace(flag=np.zeros(120, bool)))


def test_regression_targets_are_standardised() -> None:
    raw = rows()._replace(y=from_arrays(np.zeros((120, 1)), np.arange(120.0) * 2 + 7, kind="regression").y)
    federation = build_federation(OPTIONS, 0, data=raw)
    y = np.concatenate([federation.train.read(i)[1] for i in range(5)])
    assert (y.dtype, y.shape) == (np.float32, (60, 1))
    assert y.mean() == pytest.approx(0, abs=1e-6)
    assert y.std() == pytest.approx(1, abs=1e-6)
    _, one = federation.heldout.read(0)
    assert np.allclose(federation.schema.decode_targets(one)[:, 0], held(federation, "heldout", 0) * 2 + 7, atol=1e-4)
    with pytest.raises(DataError, match=r"partition 'dirichlet' deals out classes, but arrays has a regression target"):
        build_federation(DataOptions(partition="dirichlet", train_clients=2), data=raw)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sourse": "csv"}, r"unknown key in \[data\] 'sourse': did you mean 'source'"),
        ({"source": "cvs"}, "unknown data.source 'cvs': did you mean 'csv'"),
        ({"partition": "dirichelt"}, "did you mean 'dirichlet'"),
        ({"min_samples": -1}, "data.min_samples = -1: expected a whole number"),
        ({"heldout_clients": 1.5}, "data.heldout_clients = 1.5: expected a number of clients, or a share"),
        ({"support": 0}, "data.support = 0: expected a number of rows"),
        ({"support": [5, 2]}, r"data.support = \(5, 2\)"),
        ({"samples": [0, 5]}, r"data.samples = \(0, 5\): expected"),
        ({"classes_per_client": 0}, "data.classes_per_client = 0"),
        ({"alpha": 0}, "data.alpha = 0.0: expected a number above 0"),
        ({"partition": "iid", "heldout_ids": ["a"]}, "name natural clients, but partition is 'iid'"),
        ({"min_samples": "two"}, "min_samples in .* is 'two'"),
    ],
)
def test_options_that_mean_nothing(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options_from(table)


@pytest.mark.parametrize("changes", [{}, {"train_clients": 0.5}, {"train_clients": 3, "support": 0.5}], ids=str)
def test_synthetic_partitions_need_numbers(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"synthetic"):
        build_federation(DataOptions(partition="iid", **changes), data=rows())
