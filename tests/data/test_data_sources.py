"""Arrays, image sheets and digits: what the files say is what the rows are, and a bad file is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metabayfl.data import DataOptions, build_federation, from_arrays
from metabayfl.data.channels import resolve
from metabayfl.data.locate import roots
from metabayfl.data.sources import load
from metabayfl.data.sources.digits import FORMS, check_order
from metabayfl.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = np.arange(12) % 2
CLIENT = np.repeat([7, 8, 9], 4)


def test_npz_with_its_own_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", inputs=X, label=Y, person=CLIENT, test=CLIENT == 9)
    raw = load(DataOptions(source="npz", path="set.npz", x="inputs", target="label", client="person", flag="test"), tmp_path)
    assert raw.name == "set"
    assert np.array_equal(raw.x, X)
    assert raw.y.labels == ("0", "1")
    assert raw.client.names == ("7", "8", "9")
    assert raw.flag.tolist() == [False] * 8 + [True] * 4


def test_npz_without_a_key_lists_the_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=X, y=Y, writer=CLIENT)
    with pytest.raises(DataError, match=r"set.npz has no key for client 'writers'. Did you mean 'writer'\? It has: x, y, writer"):
        load(DataOptions(source="npz", path="set.npz", client="writers"), tmp_path)


def test_a_file_that_is_no_npz_is_named(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"nothing")
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"set.npz is not an npz file of plain arrays"):
        load(DataOptions(source="npz", path="set.npz"), tmp_path)
    with pytest.raises(DataError, match=r"x.npy is not an npy file"):
        load(DataOptions(source="npy", path=str(tmp_path)), tmp_path)
    np.savez(tmp_path / "pickle.npz", x=np.array([{}, {}], dtype=object), y=Y[:2])
    with pytest.raises(DataError, match=r"pickle.npz is not an npz file of plain arrays"):
        load(DataOptions(source="npz", path="pickle.npz"), tmp_path)


def test_npy_inputs_stay_on_disk(tmp_path: Path) -> None:
    for name, values in (("x", X), ("y", Y), ("who", CLIENT)):
        np.save(tmp_path / f"{name}.npy", values)
    options = DataOptions(source="npy", path=str(tmp_path), client="who", validation_clients=1, heldout_clients=1, support=2)
    assert isinstance(load(options, tmp_path).x, np.memmap)
    federation = build_federation(options)
    x, _ = federation.train.read(0)
    rows = int(federation.train.ids[0]) == CLIENT
    assert np.allclose(x, (X[rows] - X[rows].mean(0)) / X[rows].std(0), atol=1e-5)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABAYFL_DATA", str(tmp_path / "here"))
    options = DataOptions(source="npz", path="a/set.npz", where="example.org/set")
    with pytest.raises(DataError, match=r"there is no 'a/set.npz'; looked in .*here.*METABAYFL_DATA. Get it from example.org/set"):
        load(options, tmp_path)
    with pytest.raises(DataError, match=r"source 'npz' needs a path"):
        load(DataOptions(source="npz"), tmp_path)


def test_the_roots_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABAYFL_DATA", "/elsewhere")
    assert roots(DataOptions(), tmp_path)[:2] == (Path("/elsewhere"), tmp_path)
    assert roots(DataOptions(root="sub"), tmp_path) == (tmp_path / "sub",)
    monkeypatch.delenv("METABAYFL_DATA")
    assert roots(DataOptions(), tmp_path) == (tmp_path, tmp_path / ".." / "shared" / "data")


def test_lengths_and_shapes_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"lengths differ, x 12, y 11, client 12"):
        from_arrays(X, Y[:-1], CLIENT)
    with pytest.raises(DataError, match=r"rows of different shapes"):
        from_arrays([[1.0], [1.0, 2.0]], [0, 1])
    with pytest.raises(DataError, match=r"expected one row per sample"):
        from_arrays(X, 1)
    with pytest.raises(DataError, match=r"given an array of shape \(12, 1, 1\), expected \(rows,\) or \(rows, targets\)"):
        from_arrays(X, np.zeros((12, 1, 1)))
    with pytest.raises(DataError, match=r"arrays have one target key"):
        load(DataOptions(source="npz", path=str(Path(__file__)), target=("a", "b")), Path())
    with pytest.raises(DataError, match=r"do not fit the layout 'series': expected"):
        resolve((10, 3), "series")
    with pytest.raises(DataError, match=r"inputs of type <U1, expected numbers"):
        build_federation(DataOptions(), data=from_arrays(np.full((12, 2), "a"), Y, CLIENT))


@pytest.mark.parametrize(
    ("y", "kind"),
    [(["a", "b"] * 6, "classification"), (Y, "classification"), (Y + 0.5, "regression"), (np.ones((12, 2)), "regression"), (Y > 0, "classification")],
)
def test_the_kind_of_a_target_is_seen(y: object, kind: str) -> None:
    assert from_arrays(X, y).y.kind == kind


def test_a_target_that_could_be_either_is_asked_for() -> None:
    x = np.zeros((30, 1))
    with pytest.raises(DataError, match=r"target y holds 30 different whole numbers: set kind"):
        from_arrays(x, np.arange(30))
    assert from_arrays(x, np.arange(30), kind="classification").y.labels[-1] == "29"
    assert from_arrays(x, np.arange(30), kind="regression").y.values.shape == (30, 1)
    with pytest.raises(DataError, match=r"classification takes one column, given 2"):
        from_arrays(x, np.zeros((30, 2)), kind="classification")


def test_several_regression_targets_have_names() -> None:
    assert from_arrays(X, np.ones((12, 2)), targets=("a", "b")).y.names == ("a", "b")
    assert from_arrays(X, np.ones((12, 2))).y.names == ("y0", "y1")


def _sheets(folder: Path, *, labels: int = 10) -> np.ndarray:
    """Two sheets of 6 and 4 tiles of 4 x 4 pixels, two tiles to a row."""
    tiles = RNG.integers(0, 256, (10, 3, 4, 4)).astype(np.uint8)
    for i, part in enumerate((tiles[:6], tiles[6:])):
        sheet = part.reshape(len(part) // 2, 2, 3, 4, 4).transpose(0, 3, 1, 4, 2).reshape(len(part) * 2, 8, 3)
        Image.fromarray(sheet).save(folder / f"sheet_{i}.png")
    np.savez(folder / "meta.npz", label=np.arange(labels) % 2, test=np.arange(labels) >= 8)
    return tiles


def test_sheets_are_cut_into_tiles(tmp_path: Path) -> None:
    tiles = _sheets(tmp_path)
    options = DataOptions(source="images", path="sheet_*.png", meta="meta.npz", tile=4)
    raw = load(options, tmp_path)
    assert np.array_equal(raw.x, tiles)
    assert raw.y.values.tolist() == [0, 1] * 5


def test_only_the_sheets_that_are_needed_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = _sheets(tmp_path)
    (tmp_path / "sheet_1.png").rename(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "sheet_1.png").write_bytes(data[:60])  # a header that tells the size, and no pixels
    options = DataOptions(source="images", path="sheet_*.png", meta="meta.npz", tile=4, flag="test", flag_use="exclude", max_rows=5)
    raw = load(options, tmp_path)
    assert np.array_equal(raw.x, tiles[:5])
    assert raw.notes == ("5 of 10 images not used",)


def test_sheets_that_do_not_fit_their_labels(tmp_path: Path) -> None:
    _sheets(tmp_path, labels=9)
    options = DataOptions(source="images", path="sheet_*.png", meta="meta.npz", tile=4)
    with pytest.raises(DataError, match=r"2 sheets hold 10 tiles of 4 pixels, but meta.npz has 9 labels"):
        load(options, tmp_path)
    with pytest.raises(DataError, match=r"not a whole number of tiles of 5 pixels"):
        load(DataOptions(source="images", path="sheet_*.png", meta="meta.npz", tile=5), tmp_path)
    with pytest.raises(DataError, match=r"needs meta"):
        load(DataOptions(source="images", path="sheet_*.png", tile=4), tmp_path)


def test_digits_have_14_forms_and_a_checked_order() -> None:
    raw = load(DataOptions(source="digits"), Path())
    assert raw.x.shape == (1797, 8, 8)
    assert np.bincount(raw.client.codes).tolist() == np.diff([0, *FORMS, 1797]).tolist()
    assert raw.client.names[0] == "form-00"
    x, y = raw.x.reshape(-1, 64), raw.y.values
    check_order(x, y)
    with pytest.raises(DataError, match=r"digits have other labels"):
        check_order(x, y[::-1])
    with pytest.raises(DataError, match=r"digits have other pixels"):
        check_order(x[::-1], y)


def test_a_flag_must_be_yes_or_no() -> None:
    with pytest.raises(DataError, match=r"holds other values than true/false"):
        from_arrays(X, Y, CLIENT, flag=np.arange(12))
    with pytest.raises(DataError, match=r"expected true/false or 1/0"):
        from_arrays(X, Y, CLIENT, flag=["a"] * 12)
    with pytest.raises(ConfigError, match=r"is for natural clients"):
        build_federation(DataOptions(partition="iid", train_clients=2), data=from_arrays(X, Y, CLIENT, flag=Y))
