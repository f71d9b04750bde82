"""Defences built from options: what they need, what they count, when they refuse, and passes over sums."""

from __future__ import annotations

import math

import pytest
import torch

from metabayfl import random, tree
from metabayfl.aggregators import ROBUST_COMBINES, Combine, DefenceOptions, build_combine, geometric, require_cohort, uniform_mean, weighted_mean
from metabayfl.aggregators.rows import rows
from metabayfl.errors import ConfigError, MetabayflError
from metabayfl.types import Aggregate, Message

MATRIX = random.normal(random.key(4), (9, 7), torch.float64)
WEIGHT = torch.tensor([3.0, 5.0, 1e5, 4.0, 0.0, 2.0, 9.0, 8.0, 1.0], dtype=torch.float64)


def messages() -> Message:
    update = {"z": {"a": MATRIX[:, :6].view(9, 2, 3).clone()}, "k": MATRIX[:, 6].clone()}
    return Message(update, WEIGHT.clone(), {"loss": 2 * WEIGHT, "examples": WEIGHT.clone()})


def aggregate(combine: Combine, given: Message) -> Aggregate:
    found = combine.finish(combine.partial(given))
    for _ in range(combine.passes - 1):
        assert combine.around is not None
        now = combine.around(found.update)
        found = now.finish(now.partial(given))
    return found


def numbers(found: Aggregate) -> torch.Tensor:
    return rows(tree.map(lambda leaf: leaf.unsqueeze(0), found.update))[0]


@pytest.mark.parametrize("name", ROBUST_COMBINES)
def test_every_client_that_has_an_example_counts_once(name: str) -> None:
    found = aggregate(build_combine(DefenceOptions(name, share=0.2), weighted_mean()), messages())
    expected = ROBUST_COMBINES[name].rule(MATRIX[WEIGHT > 0], 2)
    torch.testing.assert_close(numbers(found), expected, rtol=1e-12, atol=1e-12)
    assert float(found.weight) == 8.0
    assert float(found.metrics["examples"]) == float(WEIGHT.sum())
    assert float(found.metrics["screened"]) == 0.0


@pytest.mark.parametrize("weighting", [weighted_mean(), uniform_mean()])
def test_the_mean_is_the_runs_own_weighting(weighting: Combine) -> None:
    found, plain = (aggregate(combine, messages()) for combine in (build_combine(DefenceOptions(), weighting), weighting))
    torch.testing.assert_close(found.update, plain.update)


@pytest.mark.parametrize(
    "options, needs",
    [
        (DefenceOptions(), "sum"),
        (DefenceOptions(bounds={"z": 1.0}), "sum"),
        (DefenceOptions(leaf_bound=2.0), "each"),
        (DefenceOptions(size_bound=3.0), "each"),
        (DefenceOptions(against=0.4), "each"),
        (DefenceOptions(alike=0.1), "each"),
        (DefenceOptions(memory=0.9), "each"),
        (DefenceOptions("geometric_median"), "sum"),
        (DefenceOptions("geometric_median", mixing=True), "each"),
        (DefenceOptions("geometric_median", leaf_bound=2.0), "each"),
        (DefenceOptions("median"), "each"),
    ],
)
def test_sums_are_enough_where_the_parts_need_no_more(options: DefenceOptions, needs: str) -> None:
    combine = build_combine(options, uniform_mean())
    assert combine.needs == needs
    assert not combine.linear


def test_the_geometric_median_over_sums_of_chunks_is_the_one_over_the_whole() -> None:
    combine, whole = geometric.by_sums(uniform_mean().weights, passes=12), messages()
    halves = [Message(tree.map(lambda leaf, part=part: leaf[part], whole.update), WEIGHT[part], {}) for part in (slice(5), slice(5, None))]
    found = combine.finish(tree.add(*(combine.partial(half) for half in halves)))
    for _ in range(combine.passes - 1):
        assert combine.around is not None
        now = combine.around(found.update)
        found = now.finish(tree.add(*(now.partial(half) for half in halves)))
    torch.testing.assert_close(numbers(found), geometric.geometric_median(MATRIX[WEIGHT > 0], 0, passes=12), rtol=1e-12, atol=1e-12)


def test_what_a_client_adds_to_the_sums_is_bounded_whatever_it_sent() -> None:
    combine = geometric.by_sums(uniform_mean().weights, smoothing=0.5)
    one = Message({"w": torch.tensor([[1e20, -3e20, 0.0]])}, torch.ones(1), {})
    for now in (combine, combine.around({"w": torch.ones(3)})):  # type: ignore[misc]  # it has several passes
        sums = now.partial(one)
        assert float(sums["update"]["w"].norm()) <= 1.0 + 1e-6
        assert float(sums["pull"]) <= 2.0


@pytest.mark.parametrize("passes, smoothing", [(0, 1e-6), (3, 0.0)])
def test_weiszfeld_refuses_numbers_out_of_range(passes: int, smoothing: float) -> None:
    with pytest.raises(ConfigError, match="expected 1 or more and above 0"):
        geometric.by_sums(uniform_mean().weights, passes, smoothing)


@pytest.mark.parametrize("name", ["mean", *ROBUST_COMBINES])
def test_screened_clients_are_counted_and_say_nothing(name: str) -> None:
    spoilt = messages()
    spoilt.update["k"][0] = math.nan
    spoilt.weight[8] = -1.0
    left = [1, 2, 3, 4, 5, 6, 7]
    rest = Message(
        tree.map(lambda leaf: leaf[left], messages().update), WEIGHT[left], {name: value[left] for name, value in messages().metrics.items()}
    )
    combine = build_combine(DefenceOptions(name, share=0.1), weighted_mean())
    found, expected = aggregate(combine, spoilt), aggregate(combine, rest)
    torch.testing.assert_close(found.update, expected.update, rtol=1e-12, atol=1e-12)
    assert float(found.metrics["screened"]) == 2.0
    assert float(found.metrics["loss"]) == float(expected.metrics["loss"])


def test_messages_that_are_too_large_are_screened_and_counted() -> None:
    large = messages()
    large.update["z"]["a"][3] *= 50.0
    large.update["k"][6] = math.nan
    rest = [0, 1, 2, 4, 5, 7, 8]
    found = aggregate(build_combine(DefenceOptions(size_bound=5.0), uniform_mean()), large)
    torch.testing.assert_close(numbers(found), MATRIX[[at for at in rest if WEIGHT[at] > 0]].mean(0))
    assert float(found.metrics["screened"]) == 2.0
    assert float(found.weight) == 6.0


@pytest.mark.parametrize("share, screened", [(0.1, 0.0), (0.25, 2.0)])
def test_more_copies_than_may_be_hostile_are_a_kind_of_honest_client(share: float, screened: float) -> None:
    given = messages()
    given.update["z"]["a"][7], given.update["k"][7] = given.update["z"]["a"][8], given.update["k"][8]
    given.weight[6] = 0.0
    found = aggregate(build_combine(DefenceOptions(alike=0.1, share=share), uniform_mean()), given)
    assert float(found.metrics["screened"]) == screened


def test_who_reaches_against_the_others_is_screened_before_the_rule() -> None:
    given = messages()._replace(update=tree.map(torch.abs, messages().update))
    for leaf in tree.leaves(given.update):
        leaf[3] *= -1.0
    combine = build_combine(DefenceOptions("trimmed_mean", share=0.1, against=0.4, bucket=2), uniform_mean())
    assert combine.draw is not None
    total = combine.draw(random.key(1)).partial(given)
    assert float(total["metrics"]["screened"]) == 1.0
    assert float(total["weight"]) == 7.0


def test_who_is_screened_for_size_cannot_make_others_look_alike() -> None:
    """A far message would raise the median distance, and with it what counts as near."""
    given = messages()
    given.update["z"]["a"][3] *= 1e3
    given.update["z"]["a"][6], given.update["k"][6] = given.update["z"]["a"][8], given.update["k"][8]
    found = aggregate(build_combine(DefenceOptions(size_bound=5.0, alike=0.1, share=0.3), uniform_mean()), given)
    assert float(found.metrics["screened"]) == 3.0
    torch.testing.assert_close(numbers(found), MATRIX[[0, 1, 2, 5, 7]].mean(0))


def test_what_is_held_against_whom() -> None:
    """3 is far too large, 5 a copy of 8 and of bad standing, 7 turned; 2 was absurd and 4 has no example."""
    given = messages()._replace(update=tree.map(torch.abs, messages().update))
    for leaf in tree.leaves(given.update):
        leaf[3] *= 1e3
        leaf[5] = leaf[8]
        leaf[7] *= -1.0
    given.update["k"][2] = math.inf
    standing = torch.zeros(9)
    standing[5] = 0.06
    combine = build_combine(DefenceOptions(size_bound=3.0, alike=0.1, against=0.4, memory=0.9, share=0.4), uniform_mean())
    assert combine.judge is not None
    judged, cause = combine.judge(given, standing)
    assert (judged.weight > 0).nonzero().flatten().tolist() == [0, 1, 6, 8]
    assert float(judged.metrics["screened"].sum()) == 4.0
    assert cause[[2, 3, 5]].tolist() == [1.0, 1.0, 1.0]
    assert 0.4 < float(cause[7]) <= 1.0
    assert (cause[[0, 1, 6, 8]] < 0).all()  # 8 did not ask to be copied
    torch.testing.assert_close(aggregate(combine, judged).update["k"], given.update["k"][[0, 1, 6, 8]].mean())


def test_where_all_are_absurd_that_is_held_against_all() -> None:
    combine = build_combine(DefenceOptions(memory=0.9), uniform_mean())
    assert combine.judge is not None
    spoilt = messages()
    spoilt.update["k"][:] = math.nan
    judged, cause = combine.judge(spoilt, torch.zeros(9))
    assert not judged.weight.any()
    assert (cause == 1.0).all()


def test_a_comparison_that_would_leave_nobody_leaves_everybody() -> None:
    """Each of three clients is far larger than the others in one leaf of its own."""
    update = {name: torch.ones(3, 2) for name in "abc"}
    for at, leaf in enumerate(update.values()):
        leaf[at] *= 1e3
    found = aggregate(build_combine(DefenceOptions(size_bound=3.0), uniform_mean()), Message(update, torch.ones(3), {}))
    assert float(found.weight) == 3.0


def test_screening_can_be_switched_off() -> None:
    spoilt = messages()
    spoilt.update["k"][0] = math.nan
    found = aggregate(build_combine(DefenceOptions(screen=False), uniform_mean()), spoilt)
    assert math.isnan(float(found.update["k"]))
    assert "screened" not in found.metrics


def test_a_cohort_of_which_nothing_is_left_is_an_error() -> None:
    spoilt = messages()
    spoilt.update["k"][:] = math.nan
    with pytest.raises(
        MetabayflError, match="all 9 messages held NaN, infinite or absurd numbers: if no client is hostile, lower the learning rates"
    ):
        aggregate(build_combine(DefenceOptions("median"), uniform_mean()), spoilt)


def test_clients_without_examples_alone_move_nothing() -> None:
    empty = messages()._replace(weight=torch.zeros(9, dtype=torch.float64), metrics={})
    for name in ("mean", *ROBUST_COMBINES):
        found = aggregate(build_combine(DefenceOptions(name), uniform_mean()), empty)
        assert not numbers(found).any()
        assert float(found.weight) == 0.0


def test_bounds_come_before_the_rule() -> None:
    found = aggregate(build_combine(DefenceOptions(bounds={"k": 1e-3}), uniform_mean()), messages())
    expected = torch.sign(MATRIX[WEIGHT > 0, 6]).mean() * 1e-3
    torch.testing.assert_close(found.update["k"], expected)


def test_buckets_are_drawn_by_the_rounds_key() -> None:
    combine = build_combine(DefenceOptions("trimmed_mean", share=0.1, bucket=2), uniform_mean())
    assert combine.draw is not None
    first, again, other = (aggregate(combine.draw(random.key(seed)), messages()) for seed in (1, 1, 2))
    assert torch.equal(numbers(first), numbers(again))
    assert not torch.equal(numbers(first), numbers(other))


@pytest.mark.parametrize(
    "options, cohort, words",
    [
        (DefenceOptions("median"), 2, "median has 2 messages, of which 1 may be hostile .share 0.2., and needs 3: take a larger cohort"),
        (DefenceOptions("krum", share=0.3), 8, "krum has 8 messages, of which 3 may be hostile .share 0.3., and needs 9"),
        (DefenceOptions("median", share=0.3, bucket=2), 10, "median has 5 groups of 2 out of 10 messages, of which 3 may be hostile"),
        (DefenceOptions("medain"), 10, "unknown combine 'medain': did you mean 'median'"),
    ],
)
def test_cohorts_in_which_a_defence_cannot_work_are_refused(options: DefenceOptions, cohort: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        require_cohort(options, cohort)


def test_the_smallest_cohorts_pass() -> None:
    for options, cohort in [(DefenceOptions("median"), 3), (DefenceOptions("krum"), 5), (DefenceOptions("mean", share=0.4), 1)]:
        require_cohort(options, cohort)


def test_too_few_messages_left_is_an_error_when_it_happens() -> None:
    few = Message(tree.map(lambda leaf: leaf[:2], messages().update), WEIGHT[:2], {})
    with pytest.raises(MetabayflError, match=r"median has 2 messages, .* wait for more clients"):
        aggregate(build_combine(DefenceOptions("median"), uniform_mean()), few)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"share": 0.5}, "share of hostile clients is 0.5"),
        ({"bucket": 0}, "bucket is 0"),
        ({"leaf_bound": -1.0}, "leaf_bound is -1.0"),
        ({"size_bound": math.nan}, "size_bound is nan"),
        ({"against": -1.0}, "against is -1.0"),
        ({"alike": -0.1}, "alike is -0.1, expected from 0"),
        ({"memory": 1.1}, "memory is 1.1, expected from 0"),
        ({"size_bound": 3.0, "screen": False}, "size_bound is 3.0, but screen is off"),
        ({"alike": 0.1, "screen": False}, "alike is 0.1, but screen is off"),
        ({"max_examples": 0.0}, "max_examples is 0.0"),
        ({"bounds": {"z": 0.0}}, "the bound of block 'z' is 0.0"),
        ({"mixing": True}, "combine is 'mean': choose another"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DefenceOptions(**wrong)  # type: ignore[arg-type]
