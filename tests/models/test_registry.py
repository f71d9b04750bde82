"""Models by name."""

from __future__ import annotations

import pytest

from metabayfl import random, tree
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models import MODELS, build_model

SHAPES = {"mlp": (6,), "cnn": (1, 28, 28), "cnn1d": (9, 128), "scattering": (1, 28, 28)}


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_every_name_builds(name: str, kind: str) -> None:
    model = build_model(name, SHAPES[name], 4, kind)
    assert (model.name, model.kind, model.outputs, model.likelihood.kind) == (name, kind, 4, kind)
    out = model.apply(model.init(random.key(0)), random.normal(random.key(1), (2, *SHAPES[name])), None)
    assert out.shape == (2, 4 if kind == "classification" else 8)


def test_options_arrive_also_as_a_file_has_them() -> None:
    given = build_model("cnn", (1, 28, 28), 4, "classification", channels=[8, 8], width=16, dropout=0)
    assert given.width == 16
    assert tree.size(given.init(random.key(0))["body"]) == 8 * 10 + 8 * 73 + 16 * (8 * 49 + 1)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown model 'cn': did you mean 'cnn'"):
        build_model("cn", (1, 28, 28), 4, "classification")
    with pytest.raises(ConfigError, match="unknown option of the model 'cnn' 'chanels': did you mean 'channels'"):
        build_model("cnn", (1, 28, 28), 4, "classification", chanels=(8,))
    with pytest.raises(ConfigError, match="Known: clip, dropout, hidden, skip"):
        build_model("mlp", (4,), 4, "classification", outputs_=3)


def test_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="'cnn' takes inputs of shape"):
        build_model("cnn", (30,), 4, "classification")
