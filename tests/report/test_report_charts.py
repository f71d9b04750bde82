"""Every chart with full, single and empty input; scales, labels and colours."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET
from importlib import resources

import numpy as np
import pytest
import report_data as data
from hypothesis import given, settings
from hypothesis import strategies as st

from metabayfl.report import kept
from metabayfl.report.axes import linear, log_ticks, padded, short, spread, ticks
from metabayfl.report.clients import MOST, Clients, clients_chart
from metabayfl.report.curves import Line, coverage_chart, learning_chart, referral_chart
from metabayfl.report.panels import Bins, Spread, points_panel, reliability_panel, spread_panel
from metabayfl.report.series import Series, series
from metabayfl.report.svg import Markup, element, escape, text
from metabayfl.report.tradeoff import Mark, tradeoff_chart

A, B = Series("fedavg", "s1"), Series("meta_bayfl", "s0")
WIDTHS = (340.0, 1000.0)


def parsed(markup: Markup) -> ET.Element:
    tree = ET.fromstring(markup)
    assert "nan" not in markup.lower()
    assert not re.search(r'="-?inf"', markup)
    return tree


def dots(tree: ET.Element) -> list[ET.Element]:
    return list(tree.iter("circle"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "lines",
    [
        [],
        [Line(A, ())],
        [Line(A, ((0.0, 0.9),))],
        [Line(A, ((0.0, 0.8), (0.5, 0.9))), Line(B, ((0.0, 0.8), (0.5, 1.0)))],
        [Line(A, ((0.0, 0.5), (0.5, 0.5)))],
    ],
)
def test_line_charts_take_any_number_of_points(lines: list[Line], width: float) -> None:
    for markup in (referral_chart(lines, width), coverage_chart(lines, width), learning_chart(lines, width, "NLL")):
        tree = parsed(markup)
        names = [element.text for element in tree.iter("text") if element.get("class") == "name"]
        assert sorted(names) == sorted(line.look.name for line in lines if line.points)


def test_values_beyond_the_domain_stay_in_the_frame() -> None:
    points = ((1.0, 1e6), *((float(at), 1.0 / at) for at in range(2, 60)))
    tree = parsed(learning_chart([Line(A, points)], 1000.0, "NLL"))
    path = next(path.get("d", "") for path in tree.iter("path") if "stroke" in path.get("class", ""))
    heights = [float(pair.split(" ")[1]) for pair in path[1:].split("L")]
    assert min(heights) >= 30.0
    assert max(heights) <= 294.01


@pytest.mark.parametrize("bins", [Bins((), (), ()), Bins((0.0,) * 15, (0.0,) * 15, (0.0,) * 15), kept.bins([data.class_entry()])])
def test_reliability_draws_a_dot_for_each_filled_bin(bins: Bins) -> None:
    tree = parsed(reliability_panel(A, bins, "ECE 1 %"))
    assert len(dots(tree)) == 1 + sum(1 for count in bins.examples if count)  # one in the heading


@pytest.mark.parametrize("groups", [[], [Spread("right", 0, None, ())], kept.spreads([data.class_entry()], "total", 2.0)])
def test_spread_panel(groups: list[Spread]) -> None:
    tree = parsed(spread_panel(A, groups, 2.0, "entropy, nats", ""))
    assert sum(1 for line in tree.iter("line") if line.get("class") == "median") == sum(1 for one in groups if one.heights)


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
@pytest.mark.parametrize("width", WIDTHS)
def test_clients_chart_has_a_dot_a_client_up_to_a_limit(count: int, width: float) -> None:
    values = tuple(np.linspace(0.5, 1.0, count)) if count else ()
    row = Clients(A, tuple(f"c{at}" for at in range(count)), values, 0.7, 0.5)
    tree = parsed(clients_chart([row], width, "accuracy", short))
    assert len(dots(tree)) == 1 + min(count, MOST)
    if count > 1:  # the extremes are never thinned away
        titles = [title.text for title in tree.iter("title")]
        assert titles[0] == "c0: 0.5"
        assert titles[-1] == f"c{count - 1}: 1"
    parsed(clients_chart([], width, "accuracy", short))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "marks",
    [
        [],
        [Mark(A, 0.0, 0.5, 0.0)],
        [Mark(A, 8000.0, 0.5, 0.1)],
        [Mark(A, 8000.0, 0.5, 0.1), Mark(B, 8000.0, 0.5, 0.1), Mark(Series("local", "s2"), 0.0, 1.5, 0.2)],
    ],
)
def test_tradeoff_names_every_dot(marks: list[Mark], width: float) -> None:
    tree = parsed(tradeoff_chart(marks, width))
    names = [element.text for element in tree.iter("text") if element.get("class") == "name"]
    assert sorted(names) == sorted(mark.look.name for mark in marks)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_points_panel_keeps_intervals_in_the_frame(count: int) -> None:
    points = [(float(at), float(at), at - 1e9, at + 1e9) for at in range(count)]
    tree = parsed(points_panel(A, points, (0.0, 40.0), "value", ""))
    bars = [line for line in tree.iter("line") if "interval" in line.get("class", "")]
    assert len(bars) == count
    assert all(60 < float(bar.get(end, "0")) < 270 for bar in bars for end in ("y1", "y2"))


def test_seeds_are_pooled() -> None:
    one, two = data.class_entry(0), data.class_entry(1)
    pooled = kept.bins([one, two])
    assert sum(pooled.examples) == sum(one["reliability"]["examples"]) + sum(two["reliability"]["examples"])
    hits = sum(n * a for entry in (one, two) for n, a in zip(entry["reliability"]["examples"], entry["reliability"]["accuracy"], strict=True))
    assert sum(n * a for n, a in zip(pooled.examples, pooled.accuracy, strict=True)) == pytest.approx(hits)
    assert len(kept.clients(A, [one, two], "accuracy", "low").values) == 12
    worst = [min(entry["clients"]["accuracy"]) for entry in (one, two)]
    assert kept.clients(A, [one, two], "accuracy", "low").tail == pytest.approx(sum(worst) / 2)
    right = kept.spreads([one, two], "total", 3.0)[0]
    assert right.examples == 160


def test_a_drawn_distribution_has_its_mass_where_the_values_are() -> None:
    entry = data.class_entry()
    entry["uncertainty"]["total"]["right"] = {"n": 5000, "quantiles": [1.0 + 0.001 * at for at in range(101)]}
    heights = np.array(kept.spreads([entry], "total", 2.0)[0].heights)
    assert heights.max() == 1.0
    assert (heights[:20] == 0).all()
    assert 23 <= heights.argmax() <= 27
    same = {"n": 10, "quantiles": [0.0] * 101}
    entry["uncertainty"]["total"]["right"] = same
    assert kept.spreads([entry], "total", 2.0)[0].heights[0] == 1.0
    assert kept.spreads([entry], "total", 2.0)[0].median == 0.0


def test_a_seed_that_stopped_early_keeps_its_last_value() -> None:
    rows = [{"algorithm": "fedavg", "seed": 0, "round": at, "loss": 1.0} for at in (1, 2)]
    rows += [{"algorithm": "fedavg", "seed": 1, "round": at, "loss": 3.0} for at in (1, 2, 3)]
    assert kept.learning(A, rows, "loss").points == ((1.0, 2.0), (2.0, 2.0), (3.0, 2.0))
    assert kept.learning(A, rows, "validation").points == ()
    long = [{"algorithm": "fedavg", "seed": 0, "round": at, "loss": 1.0} for at in range(1, 5001)]
    points = kept.learning(A, long, "loss").points
    assert len(points) == kept.LONGEST
    assert (points[0][0], points[-1][0]) == (1.0, 5000.0)


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 9))
def test_ticks_are_inside_rising_and_few(low: float, length: float, count: int) -> None:
    high = low + length
    found = ticks(low, high, count)
    assert len(found) <= 2 * count + 2
    assert list(found) == sorted(set(found))
    if length > 1e-6 * abs(low):
        assert all(low - 1e-6 * length <= tick <= high + 1e-6 * length for tick in found)


@settings(deadline=None)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=15))
def test_labels_keep_their_order_their_distance_and_the_frame(wanted: list[float]) -> None:
    found = spread(wanted, 15.0, 0.0, 300.0)
    ordered = sorted(found)
    assert all(b - a >= 15.0 - 1e-6 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= -1e-6
    assert ordered[-1] <= 300.0 + 1e-6
    for i, j in ((i, j) for i in range(len(wanted)) for j in range(len(wanted)) if wanted[i] < wanted[j]):
        assert found[i] <= found[j] + 1e-6


def test_more_labels_than_room_share_it_evenly() -> None:
    assert spread([5.0] * 5, 50.0, 0.0, 100.0) == pytest.approx([0.0, 25.0, 50.0, 75.0, 100.0])


def test_domains_and_scales() -> None:
    assert padded([]) == (0.0, 1.0)
    assert padded([2.0]) == pytest.approx((1.88, 2.12))
    assert linear((3.0, 3.0), (0.0, 10.0))(3.0) == 5.0
    assert log_ticks(4000, 60000) == (5000.0, 10000.0, 20000.0, 50000.0)
    assert ticks(1.0, 1.0) == (1.0,)


def test_markup_escapes_attributes_and_text() -> None:
    markup = element("text", escape('a"<&\x01'), title='"><script>')
    tree = ET.fromstring(markup)
    assert tree.text == 'a"<&�'
    assert tree.get("title") == '"><script>'
    assert ET.fromstring(text(1.0, 2.0, "<b>")).text == "<b>"


def test_the_hero_has_the_first_colour_and_nobody_else() -> None:
    looks = series(["fedavg", "local", "meta_bayfl"])
    assert looks["meta_bayfl"].css == "s0"
    assert len({look.css for look in looks.values()}) == 3


def _linear_rgb(colour: str) -> np.ndarray:
    share = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _lab(rgb: np.ndarray) -> np.ndarray:
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = matrix @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# full colour-vision deficiencies of Machado, Oliveira and Fernandes 2009, table 1: protanopia, deuteranopia, tritanopia
SIGHTS = [
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_apart_and_read(mode: int) -> None:
    style = resources.files("metabayfl.report").joinpath("style.css").read_text(encoding="utf-8")
    block = style.split("@media (prefers-color-scheme: dark)")[mode]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))

    def contrast(name: str) -> float:
        shades = sorted(float(_linear_rgb(colours[one]) @ np.array([0.2126, 0.7152, 0.0722])) + 0.05 for one in (name, "paper"))
        return shades[1] / shades[0]

    assert contrast("ink") >= 7
    assert contrast("quiet") >= 4.5
    drawn = [f"c{at}" for at in range(8)]
    assert min(contrast(name) for name in drawn) >= 3
    for sight in SIGHTS:
        seen = [_lab(sight @ _linear_rgb(colours[name])) for name in drawn]
        nearest = min(math.dist(one, other) for at, one in enumerate(seen) for other in seen[:at])
        assert nearest >= 15
