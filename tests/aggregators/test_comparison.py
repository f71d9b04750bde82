"""Who is screened because of how the message compares with the cohort's."""

from __future__ import annotations

import math

import torch

from metabayfl import random, tree
from metabayfl.aggregators import comparison
from metabayfl.types import Message

ALL = torch.ones(5, dtype=torch.bool)


def messages() -> Message:
    update = {"z": {"a": torch.ones(5, 2, 2), "b": 2 * torch.ones(5, 1)}, "k": torch.ones(5)}
    return Message(update, torch.full((5,), 10.0), {})


def scattered(count: int, numbers: int = 400) -> Message:
    """Honest clients that agree a little: noise around ones."""
    noise = random.normal(random.key(3), (count, numbers), torch.float64)
    return Message({"a": 1.0 + 3.0 * noise, "b": 1e-3 * (1.0 + 3.0 * noise[:, :20])}, torch.full((count,), 10.0), {})


def test_size_is_the_root_mean_square_of_the_leaves_norms_over_their_medians() -> None:
    given = messages()
    given.update["k"][:] = torch.tensor([1.0, 7.0, 1.0, 1.0, 1.0])
    given.update["z"]["b"][2] = 0.0
    torch.testing.assert_close(comparison.sizes(given, ALL), torch.tensor([1.0, math.sqrt(51 / 3), math.sqrt(2 / 3), 1.0, 1.0]))


def test_size_leaves_out_what_most_clients_do_not_touch() -> None:
    given = messages()
    given.update["k"][:] = torch.tensor([0.0, 7.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(comparison.sizes(given, ALL), torch.ones(5))
    assert not comparison.sizes(Message(tree.zeros_like(given.update), given.weight, {}), given.weight > 0).any()


def test_a_message_reaches_against_the_others_by_its_size_where_it_is_turned() -> None:
    given = messages()
    for leaf in tree.leaves(given.update):
        leaf[3] *= -2.0
    torch.testing.assert_close(comparison.against(given, ALL), torch.tensor([-1.0, -1.0, -1.0, 2.0, -1.0]))


def test_every_leaf_has_one_voice_however_long_it_is() -> None:
    """Client 0 is turned in two leaves of three, and right in the one whose numbers are a million times larger."""
    given = messages()
    given.update["k"] *= 1e6
    given.update["z"]["a"][0] *= -1.0
    given.update["z"]["b"][0] *= -1.0
    torch.testing.assert_close(comparison.against(given, ALL)[0], torch.tensor(1 / 3))


def test_who_does_not_count_is_nobodys_other() -> None:
    given, counted = messages(), torch.tensor([True, True, False, False, False])
    for leaf in tree.leaves(given.update):
        leaf[2:] *= -100.0
    torch.testing.assert_close(comparison.against(given, counted)[:2], -torch.ones(2))
    assert (comparison.against(given, counted)[2:] > 50.0).all()  # but is compared with those who do
    alone = torch.tensor([True, False, False, False, False])
    assert float(comparison.against(given, alone)[0]) == 0.0


def test_messages_that_are_nearly_the_same_are_copies() -> None:
    given = scattered(9)
    for leaf in tree.leaves(given.update):
        leaf[6] = leaf[2] * 1.001
    counted = torch.ones(9, dtype=torch.bool)
    assert comparison.copies(given, counted, 0.1).nonzero().flatten().tolist() == [2, 6]
    counted[6] = False
    assert not comparison.copies(given, counted, 0.1).any()


def test_silent_clients_and_lone_ones_are_no_copies() -> None:
    given = messages()._replace(update=tree.zeros_like(messages().update))
    assert not comparison.copies(given, ALL, 0.5).any()
    assert not comparison.copies(scattered(1), torch.ones(1, dtype=torch.bool), 0.5).any()
