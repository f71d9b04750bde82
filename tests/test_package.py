"""What ``import metabayfl`` offers, though nothing of it is loaded before it is asked for."""

from __future__ import annotations

import pytest

import metabayfl


@pytest.mark.parametrize("name", metabayfl.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(metabayfl, name) is not None
    assert name in dir(metabayfl)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'metabayfl' has no attribute 'personalise'"):
        _ = metabayfl.personalise
