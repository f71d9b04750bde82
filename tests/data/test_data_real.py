"""The real sets, where they are: known counts, and the splits that the ready configs ask for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from metabayfl.data import DataOptions, Federation, build_federation

ROOT = Path(os.environ.get("METABAYFL_DATA") or Path(__file__).parents[3] / "shared" / "data")
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
HEART = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")


def build(needed: str, seed: int = 0, **options: object) -> Federation:
    """The federation, or a skip that names the folder where the file was looked for."""
    if not (ROOT / needed).exists():
        pytest.skip(f"{needed} is not in {ROOT}: set METABAYFL_DATA to the folder of the data sets")
    return build_federation(DataOptions(root=str(ROOT), **options), seed)


def counts(federation: Federation) -> list[int]:
    return [len(group.ids) for group in (federation.train, federation.validation, federation.heldout)]


def test_heart_disease_is_flambys_740_rows() -> None:
    federation = build(
        "heart_disease",
        path=tuple(f"heart_disease/processed.{name}.data" for name in HOSPITALS),
        names=(*HEART, "slope", "ca", "thal", "num"),
        na_values=("?",),
        client_per_file=True,
        client_names=HOSPITALS,
        features=HEART,
        categorical=("cp", "restecg"),
        drop_missing=True,
        target="num",
        positive_above=0,
        heldout_ids=("va",),
        validation_ids=("switzerland",),
    )
    assert dict(zip(federation.train.ids, federation.train.sizes.tolist(), strict=True)) == {"cleveland": 303, "hungarian": 261}
    assert [federation.validation.sizes.tolist(), federation.heldout.sizes.tolist()] == [[46], [130]]
    assert federation.notes == ("dropped 180 of 920 rows with a missing value",)


def test_heart_disease_with_its_missing_values() -> None:
    federation = build(
        "heart_disease",
        path=tuple(f"heart_disease/processed.{name}.data" for name in HOSPITALS),
        names=(*HEART, "slope", "ca", "thal", "num"),
        na_values=("?",),
        client_per_file=True,
        client_names=HOSPITALS,
        categorical=("cp", "restecg", "slope", "thal"),
        target="num",
        positive_above=0,
        heldout_ids=("va",),
        validation_ids=("switzerland",),
    )
    assert federation.train.sizes.tolist() == [303, 294]
    features = {feature.name: feature for feature in federation.schema.features}
    assert features["chol"].indicator
    assert features["thal"].unseen
    assert not features["age"].indicator
    assert np.isfinite(federation.heldout.read(0)[0]).all()


def test_cmapss_counts_down_to_zero() -> None:
    federation = build(
        "cmapss",
        path="cmapss/train_FD001.txt",
        separator="whitespace",
        names=("engine", "cycle", *(f"setting{i}" for i in range(1, 4)), *(f"s{i}" for i in range(1, 22))),
        client="engine",
        exclude=("cycle",),
        target_countdown="cycle",
        target_cap=125.0,
        train_clients=60,
        validation_clients=15,
        heldout_clients=25,
        support=30,
        sort_by="cycle",
        support_order="first",
    )
    assert counts(federation) == [60, 15, 25]
    assert federation.train.sizes.min() == 128
    left = federation.schema.decode_targets(federation.heldout.read(0)[1])[:, 0]
    assert left[-1] == pytest.approx(0, abs=1e-3)
    assert left.max() == pytest.approx(125, abs=1e-3)
    assert (np.diff(left) < 1e-3).all()
    constant = [feature.name for feature in federation.schema.features if feature.scale == 0]
    assert constant == ["setting3", "s1", "s5", "s10", "s16", "s18", "s19"]


def test_parkinsons_and_sleepstudy_forecast_from_the_first_rows() -> None:
    patients = build(
        "parkinsons", path="parkinsons/parkinsons_updrs.data", client="subject#", target="total_UPDRS", exclude=("motor_UPDRS",),
        sort_by="test_time", support_order="first", train_clients=26, validation_clients=6, heldout_clients=10,
    )  # fmt: skip
    assert counts(patients) == [26, 6, 10]
    assert patients.schema.input_shape == (19,)
    time = patients.schema.columns.index("test_time")
    assert (np.diff(patients.heldout.read(0)[0][:, time]) >= 0).all()
    people = build(
        "hierarchical", path="hierarchical/lme4_sleepstudy.csv", client="Subject", target="Reaction", features=("Days",),
        sort_by="Days", support_order="first", support=5, heldout_clients=5, validation_clients=3,
    )  # fmt: skip
    assert counts(people) == [10, 3, 5]
    assert set(people.heldout.sizes) == {10}


def test_loans_by_state() -> None:
    federation = build(
        "hierarchical", path="hierarchical/openintro_loans_full_schema.csv", client="state", target="interest_rate",
        features=("annual_income", "debt_to_income", "homeownership", "loan_purpose", "loan_amount", "term"), support=10, heldout_clients=10,
    )  # fmt: skip
    assert sum(counts(federation)) == 50
    assert sum(int(group.sizes.sum()) for group in (federation.train, federation.validation, federation.heldout)) == 10000
    assert federation.schema.kind == "regression"


def test_official_test_writers_of_mnist_are_held_out() -> None:
    federation = build(
        "mnist_by_writer", source="npz", path="mnist_by_writer/mnist_by_writer.npz", client="writer", flag="official_test",
        validation_clients=60, support=10, min_samples=15, drop_small_clients=True,
    )  # fmt: skip
    assert counts(federation) == [479, 60, 273]
    x, _ = federation.heldout.read(0)
    assert x.shape[1:] == (1, 28, 28)
    assert federation.schema.pixel_range == (0.0, 255.0)


def test_har_is_a_series_of_nine_channels() -> None:
    federation = build(
        "uci_har",
        source="npz",
        path="uci_har/uci_har_f16.npz",
        client="subject",
        layout="series",
        train_clients=18,
        validation_clients=4,
        heldout_clients=8,
    )
    assert counts(federation) == [18, 4, 8]
    assert federation.schema.input_shape == (9, 128)
    x = np.concatenate([federation.train.read(i)[0] for i in range(18)])
    assert np.abs(x.mean((0, 2))).max() < 1e-3
    assert np.abs(x.std((0, 2)) - 1).max() < 1e-3


@pytest.mark.parametrize("partition", ["shards", "dirichlet", "iid"])
def test_fashion_mnist_by_the_protocol_of_the_reference_figures(partition: str) -> None:
    federation = build(
        "fashion_mnist", source="npz", path="fashion_mnist/fashion_mnist.npz", flag="official_test", flag_use="exclude", partition=partition,
        min_classes=1, samples=(20, 50), train_clients=100, validation_clients=20, heldout_clients=30, support=(20, 50), test_samples=100,
    )  # fmt: skip
    assert counts(federation) == [100, 20, 30]
    assert 3000 < federation.train.sizes.sum() < 4000
    assert (federation.heldout.sizes - federation.heldout.support == 100).all()
    assert federation.heldout.support.min() >= 20
    classes = [len(np.unique(federation.heldout.read(i)[1])) for i in range(30)]
    assert (set(classes) == {2, 3}) == (partition == "shards")
    assert (min(classes) >= 9) == (partition == "iid")


def test_cifar10_decodes_two_sheets_of_sixty() -> None:
    federation = build(
        "cifar10", source="images", path="cifar10/sheet_*.webp", meta="cifar10/meta.npz", target="label", flag="official_test", flag_use="exclude",
        max_rows=2000, partition="shards", train_clients=20, validation_clients=2, heldout_clients=3, support=20, test_samples=50,
    )  # fmt: skip
    assert federation.notes == ("58000 of 60000 images not used",)
    assert federation.schema.input_shape == (3, 32, 32)
    # the published training means and standard deviations, .4914 .4822 .4465 and .2470 .2435 .2616, from some 700 images
    assert np.allclose(np.array(federation.schema.channel_mean) / 255, (0.4914, 0.4822, 0.4465), atol=0.04)
    assert np.allclose(np.array(federation.schema.channel_scale) / 255, (0.2470, 0.2435, 0.2616), atol=0.03)
