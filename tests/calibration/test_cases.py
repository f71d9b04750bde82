"""Samples are dealt to folds class by class, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metabayfl import random
from metabayfl.calibration.cases import FOLDS, folds


def shares(fold: Tensor, y: Tensor) -> Tensor:
    """How many samples of each class every fold has, ``(K, F)``."""
    return torch.stack([torch.bincount(fold[y == label], minlength=FOLDS) for label in y.unique()])


@pytest.mark.parametrize("seed", range(20))
def test_every_fold_has_its_share_of_every_class(seed: int) -> None:
    y = (3 * random.uniform(random.key(seed), (23,)) ** 2).long()
    fold = folds(y, torch.ones(23), random.key(seed))
    for counts in (shares(fold, y), shares(fold, torch.zeros_like(y))):
        assert int((counts.amax(1) - counts.amin(1)).max()) <= 1


def test_the_key_decides_who_is_dealt_where() -> None:
    y = torch.arange(40) % 2
    assert not torch.equal(folds(y, torch.ones(40), random.key(0)), folds(y, torch.ones(40), random.key(1)))
    assert torch.equal(folds(y, torch.ones(40), random.key(0)), folds(y, torch.ones(40), random.key(0)))


def test_samples_of_mask_0_change_nothing() -> None:
    y, mask = torch.arange(30) % 3, (torch.arange(30) % 4 != 1).float()
    real = mask > 0
    assert torch.equal(folds(y, mask, random.key(2))[real], folds(y[real], mask[real], random.key(2)))


def test_targets_are_dealt_evenly_and_fewer_samples_than_folds_each_have_their_own() -> None:
    assert torch.bincount(folds(torch.zeros(20, 2), torch.ones(20), random.key(0))).tolist() == [4] * 5
    assert sorted(folds(torch.tensor([1, 0, 1]), torch.ones(3), random.key(0)).tolist()) == [0, 1, 2]
