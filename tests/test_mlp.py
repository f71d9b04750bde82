"""The multi-layer perceptron and the frame of every built-in model, against ``torch.nn``."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metabayfl import random, tree
from metabayfl.errors import ConfigError
from metabayfl.models.mlp import mlp
from metabayfl.models.model import assemble, augmented, layer, uniform_weight
from metabayfl.types import DenseLayer
from scenarios import double

KEY = random.key(0)
X = random.normal(random.key(1), (5, 2, 3), torch.float64)


def twin(params: tree.Tree, hidden: int) -> nn.Sequential:
    """The same net in ``torch.nn``; the last layer is the head."""
    blocks = [params["body"][f"dense{i}"] for i in range(hidden)] + [params["head"]]
    layers: list[nn.Module] = [nn.Flatten()]
    for block in blocks:
        linear = nn.Linear(*reversed(block["weight"].shape), dtype=torch.float64)
        linear.load_state_dict({"weight": block["weight"], "bias": block["bias"]})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("hidden", [(4,), (7, 4), (3, 5, 4)])
def test_classification_net_is_torchs(hidden: tuple[int, ...]) -> None:
    model = mlp((2, 3), 3, hidden=hidden)
    params = double(model.init(KEY))
    net = twin(params, len(hidden))
    torch.testing.assert_close(model.apply(params, X, None), net(X).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.features(params["body"], X, None), net[:-2](X).detach(), rtol=1e-12, atol=1e-12)
    assert (model.name, model.kind, model.outputs, model.width) == ("mlp", "classification", 3, 4)
    assert model.dense == DenseLayer(f"dense{len(hidden) - 1}", channels=(6, *hidden)[-2], space=1)
    assert params["body"][model.dense.name]["weight"].shape == (model.width, model.dense.channels * model.dense.space)


def test_skip_sets_the_inputs_beside_the_features_past_every_relu() -> None:
    model = mlp((2, 3), 3, hidden=(7, 4), skip=True)
    params = double(model.init(KEY))
    net = twin({**params, "head": {**params["head"], "weight": params["head"]["weight"][:, :4]}}, 2)
    assert model.width == 4 + 6
    torch.testing.assert_close(model.features(params["body"], X, None), torch.cat([net[:-2](X), X.flatten(1)], 1).detach(), rtol=1e-12, atol=1e-12)
    expected = net(X) + X.flatten(1) @ params["head"]["weight"][:, 4:].T
    torch.testing.assert_close(model.apply(params, X, None), expected.detach(), rtol=1e-12, atol=1e-12)


def test_clip_bounds_what_the_net_sees() -> None:
    model, plain = mlp((6,), 3, hidden=(4,), skip=True, clip=0.5), mlp((6,), 3, hidden=(4,), skip=True)
    params, x = double(model.init(KEY)), X.flatten(1)
    assert bool((x.abs() > 0.5).any())
    torch.testing.assert_close(model.apply(params, x, None), plain.apply(params, x.clamp(-0.5, 0.5), None), rtol=0, atol=0)


def test_regression_outputs_means_and_the_shared_log_scale() -> None:
    model = mlp((6,), 2, "regression", hidden=(4,))
    params = double(model.init(KEY))
    params["head"]["log_scale"] = torch.tensor([-1.0, 0.5]).double()
    out = model.apply(params, X.flatten(1), None)
    torch.testing.assert_close(out[:, :2], twin(params, 1)(X).detach(), rtol=1e-12, atol=1e-12)
    assert out[:, 2:].tolist() == [[-1.0, 0.5]] * 5
    assert torch.count_nonzero(model.init(KEY)["head"]["log_scale"]) == 0


def test_start_is_torchs_default_range_and_decided_by_the_key() -> None:
    weight = uniform_weight(KEY, (400, 25), 25)
    assert float(weight.abs().max()) <= 0.2
    assert abs(float(weight.std()) - 0.2 / math.sqrt(3)) < 2e-3
    block = layer(KEY, (8, 4, 3, 3))
    assert {name: tuple(leaf.shape) for name, leaf in block.items()} == {"weight": (8, 4, 3, 3), "bias": (8,)}
    assert float(tree.norm(tree.subtract(block, layer(KEY, (8, 4, 3, 3))))) == 0.0
    assert float(tree.norm(tree.subtract(block, layer(random.key(1), (8, 4, 3, 3))))) > 1.0
    assert all(float(leaf.abs().max()) <= 1 / 6 for leaf in block.values())


def test_layers_of_one_net_start_differently() -> None:
    params = mlp((4,), 4, hidden=(4, 4)).init(KEY)
    blocks = [params["body"]["dense0"]["weight"], params["body"]["dense1"]["weight"], params["head"]["weight"]]
    assert not any(torch.equal(blocks[i], blocks[j]) for i in range(3) for j in range(i))


def test_dropout_needs_a_key_and_stands_before_the_last_hidden_layer() -> None:
    model = mlp((2, 3), 3, hidden=(6, 4), dropout=0.5)
    params = double(model.init(KEY))
    assert torch.equal(model.apply(params, X, None), mlp((2, 3), 3, hidden=(6, 4)).apply(params, X, None))
    first, again, other = (model.features(params["body"], X, random.key(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    dense = params["body"]["dense1"]
    hidden = torch.relu(X.flatten(1) @ params["body"]["dense0"]["weight"].mT + params["body"]["dense0"]["bias"])
    expected = random.dropout(hidden, random.key(1), 0.5) @ dense["weight"].mT + dense["bias"]
    torch.testing.assert_close(first, expected, rtol=1e-12, atol=1e-12)


def test_the_head_may_stand_on_another_activation() -> None:
    model = assemble("plain", "classification", 3, 6, lambda key: {}, lambda body, x, key: x.flatten(1), None, activation=torch.tanh)
    params = double(model.init(KEY))
    torch.testing.assert_close(model.apply(params, X, None), torch.tanh(X.flatten(1)) @ params["head"]["weight"].mT + params["head"]["bias"])
    assert model.dense is None


def test_augmentation_changes_inputs_in_training_alone() -> None:
    plain = mlp((2, 3), 3, hidden=(4,))
    model, params = augmented(plain, lambda x, key: x + random.normal(key, tuple(x.shape), x.dtype)), double(plain.init(KEY))
    shifted = X + random.normal(KEY, tuple(X.shape), X.dtype)
    assert torch.equal(model.apply(params, X, None), plain.apply(params, X, None))
    assert torch.equal(model.features(params["body"], X, None), plain.features(params["body"], X, None))
    assert torch.equal(model.apply(params, X, KEY), plain.apply(params, shifted, KEY))
    assert torch.equal(model.features(params["body"], X, KEY), plain.features(params["body"], shifted, KEY))


def test_vectorised_over_parameters_equals_the_loop() -> None:
    model = mlp((2, 3), 3, hidden=(4,), dropout=0.3)
    keys = random.keys(KEY, 3)
    params = [double(model.init(key)) for key in keys]
    stacked = tree.map(lambda *leaves: torch.stack(leaves), *params)
    together = torch.func.vmap(model.apply, in_dims=(0, None, 0))(stacked, X, keys)
    for row in range(3):
        torch.testing.assert_close(together[row], model.apply(params[row], X, keys[row]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{"hidden": ()}, {"hidden": (4, 0)}, {"hidden": (2.5,)}, {"hidden": 4}, {"dropout": 1.0}, {"dropout": "half"}])
def test_options_that_mean_nothing_are_refused_by_name(options: dict) -> None:
    with pytest.raises(ConfigError, match=f"mlp: {next(iter(options))}="):
        mlp((4,), 3, **options)
