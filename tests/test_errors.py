"""Errors: one base, and names that are nearly right."""

from __future__ import annotations

import pytest

from metabayfl import errors

KIN = {"StorageError": OSError, "PrivacyError": RuntimeError, "QuorumError": RuntimeError, "FederationError": RuntimeError}


@pytest.mark.parametrize("name", ["ConfigError", "DataError", "SchemaError", "ModelError", "ArtifactError", "DivergedError", *KIN])
def test_every_error_is_caught_by_the_base_and_by_its_python_kin(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.MetabayflError)
    assert issubclass(kind, KIN.get(name, ValueError))
    assert name in (errors.__doc__ or "")


def test_near_names_are_offered_and_all_names_listed() -> None:
    error = errors.unknown("model", "mlpp", ["mlp", "cnn"])
    assert isinstance(error, errors.ConfigError)
    assert str(error) == "unknown model 'mlpp': did you mean 'mlp'? Known: cnn, mlp."
    assert "'maml' or 'mame'" in str(errors.unknown("method", "mam", ["maml", "mame", "x"]))


def test_without_a_near_name_there_is_no_hint() -> None:
    assert str(errors.unknown("model", 7, ["mlp"])) == "unknown model 7: Known: mlp."


def test_too_few_clients_is_an_error_of_the_round_and_not_of_a_value() -> None:
    assert issubclass(errors.QuorumError, errors.MetabayflError)
    assert issubclass(errors.QuorumError, RuntimeError)
    assert "QuorumError" in (errors.__doc__ or "")
