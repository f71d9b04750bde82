"""The built-in convolutional models against forwards by hand, loops and PyTorch's own layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from metabayfl import random, tree
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models import cnn, cnn1d, mlp, scattering
from metabayfl.types import Kind, Model, Tree

KEY = random.key(11)
BUILDERS: dict[str, Callable[..., Model]] = {"cnn": cnn, "cnn1d": cnn1d, "mlp": mlp, "scattering": scattering}
SHAPES = {"cnn": (2, 9, 8), "cnn1d": (3, 21), "mlp": (5,), "scattering": (2, 9, 8)}


def small(name: str, kind: Kind = "classification", dropout: float = 0.4) -> Model:
    return BUILDERS[name](SHAPES[name], 3, kind, dropout=dropout)


def parameters(model: Model, seed: int = 0) -> Tree:
    return tree.to(model.init(random.key(seed)), torch.float64)


def inputs(name: str, count: int) -> Tensor:
    return random.normal(KEY, (count, *SHAPES[name]), torch.float64)


def test_a_convolution_by_hand() -> None:
    """One channel, one block, one feature: the 2 x 2 image's 3 x 3 window sums, their largest, and the dense layer."""
    model = cnn((1, 2, 2), 2, channels=(1,), width=1, dropout=0.0)
    body = {
        "conv0": {"weight": torch.ones(1, 1, 3, 3), "bias": torch.tensor([-4.0])},
        "dense": {"weight": torch.tensor([[-3.0]]), "bias": torch.tensor([1.0])},
    }
    head = {"weight": torch.tensor([[2.0], [1.0]]), "bias": torch.tensor([0.5, 0.0])}
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[0.0, 1.0], [0.0, 1.0]]]])
    # every window of a 2 x 2 image sums the whole image: 10 and 2; minus 4: 6 and -2; ReLU: 6 and 0; times -3 plus 1: -17 and 1
    assert model.features(body, x, None).tolist() == [[-17.0], [1.0]]
    assert model.apply({"body": body, "head": head}, x, None).tolist() == [[0.5, 0.0], [2.5, 1.0]]


def test_a_signal_convolution_by_hand() -> None:
    model = cnn1d((1, 5), 1, channels=(1,), width=1, kernel=3, dropout=0.0)
    body = {
        "conv0": {"weight": torch.tensor([[[1.0, 0.0, -1.0]]]), "bias": torch.zeros(1)},
        "dense": {"weight": torch.tensor([[1.0, 10.0]]), "bias": torch.zeros(1)},
    }
    # left minus right neighbour of 1 4 2 7 5: -4 -1 -3 -3 7; ReLU: 0 0 0 0 7; the largest of two and two, the fifth is left over: 0 0
    assert model.features(body, torch.tensor([[[1.0, 4.0, 2.0, 7.0, 5.0]]]), None).tolist() == [[0.0]]
    # of 7 1 2 0 3: -1 5 1 -1 0 -> 0 5 1 0 0 -> 5 1 -> 5 + 10
    assert model.features(body, torch.tensor([[[7.0, 1.0, 2.0, 0.0, 3.0]]]), None).tolist() == [[15.0]]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_cnn_is_pytorchs(shape: tuple[int, ...]) -> None:
    """Same layout of weights and of the flattened positions as the module that one would write."""
    model = cnn(shape, 10)
    space = (shape[1] // 4) * (shape[2] // 4)
    net = nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * space, 32),
    ).double()
    body = parameters(model)["body"]
    net.load_state_dict(
        {f"{at}.{name}": body[layer][name] for layer, at in (("conv0", 0), ("conv1", 3), ("dense", 7)) for name in ("weight", "bias")}
    )
    x = random.normal(KEY, (3, *shape), torch.float64)
    assert torch.allclose(model.features(body, x, None), net(x), atol=1e-12)
    assert model.dense is not None
    assert tuple(body[model.dense.name]["weight"].shape) == (32, model.dense.channels * model.dense.space)
    assert (model.dense.channels, model.dense.space) == (24, space)


def test_the_leaf_cnn_has_its_published_size() -> None:
    """McMahan et al. 2017: 1,663,370 parameters for 10 classes with a dense layer of 512."""
    model = cnn((1, 28, 28), 10, channels=(32, 64), kernel=5, width=512, dropout=0.0)
    assert tree.size(model.init(KEY)) == 1_663_370


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize("noisy", [False, True])
def test_vmapped_is_looped(name: str, noisy: bool) -> None:
    model = small(name)
    params = [parameters(model, seed) for seed in range(3)]
    stacked = tree.map(lambda *leaves: torch.stack(leaves), *params)
    x = torch.stack([inputs(name, 4) * (i + 1) for i in range(3)])
    keys = random.keys(KEY, 3)

    def loss(params: Tree, x: Tensor, key: Tensor) -> Tensor:
        return model.apply(params, x, key if noisy else None).square().sum()

    gradient = torch.func.vmap(torch.func.grad(loss))(stacked, x, keys)
    for i in range(3):
        alone = torch.func.grad(loss)(params[i], x[i], keys[i])
        for found, expected in zip(tree.leaves(gradient), tree.leaves(alone), strict=True):
            assert torch.allclose(found[i], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_dropout_only_with_a_key(name: str) -> None:
    model, x = small(name), inputs(name, 4)
    body = parameters(model)["body"]
    dry = small(name, dropout=0.0)
    assert torch.equal(model.features(body, x, None), dry.features(body, x, KEY))
    wet = model.features(body, x, KEY)
    assert torch.equal(wet, model.features(body, x, KEY))
    assert not torch.equal(wet, model.features(body, x, None))
    assert not torch.equal(wet, model.features(body, x, random.key(1)))


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_padding_changes_nothing(name: str) -> None:
    model, x = small(name), inputs(name, 5)
    params = parameters(model)
    padded = torch.cat([x, 1e9 * torch.ones_like(x)])
    for key in (None, KEY):
        assert torch.allclose(model.apply(params, padded, key)[:5], model.apply(params, x, key), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_dropout_keeps_the_mean(name: str) -> None:
    """Features are linear in what dropout thins out, so their mean over keys is the feature without it, to five standard errors."""
    model, x = small(name), inputs(name, 1)
    body = parameters(model)["body"]
    seen = torch.func.vmap(lambda key: model.features(body, x, key))(random.keys(KEY, 2000))
    error = (seen.mean(0) - model.features(body, x, None)).abs()
    assert torch.all(error <= 5 * seen.std(0) / 2000**0.5)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_regression_outputs_means_and_a_scale(name: str) -> None:
    model, x = small(name, "regression"), inputs(name, 4)
    params = parameters(model)
    assert params["head"]["log_scale"].tolist() == [0.0, 0.0, 0.0]
    params["head"]["log_scale"] += torch.tensor([1.0, 2.0, 3.0])
    out = model.apply(params, x, None)
    assert out.shape == (4, 6)
    assert out[:, 3:].tolist() == [[1.0, 2.0, 3.0]] * 4


def test_starts_follow_the_key_and_pytorchs_bounds() -> None:
    model = cnn((3, 32, 32), 10)
    first, again, other = model.init(KEY), model.init(KEY), model.init(random.key(1))
    for path, leaf in tree.flatten(first).items():
        assert torch.equal(leaf, tree.flatten(again)[path])
        assert not torch.equal(leaf, tree.flatten(other)[path])
    for layer, fan_in in (("conv0", 27), ("conv1", 144), ("dense", 1536)):
        weight = first["body"][layer]["weight"]
        assert float(weight.abs().max()) <= fan_in**-0.5
        assert float(weight.std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


@pytest.mark.parametrize("name, shape", [("cnn", (28, 28)), ("cnn", (784,)), ("cnn1d", (9,)), ("cnn1d", (1, 28, 28))])
def test_inputs_of_another_kind_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="takes inputs of shape"):
        BUILDERS[name](shape, 3)


@pytest.mark.parametrize("name, shape", [("cnn", (1, 28, 3)), ("cnn1d", (9, 2))])
def test_inputs_that_vanish_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="vanish after 2 halvings"):
        BUILDERS[name](shape, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"channels": ()}, r"channels=\(\)"),
        ({"channels": (0, 4)}, "channels="),
        ({"channels": 16}, "channels=16"),
        ({"channels": (1.5,)}, "channels="),
        ({"width": 0}, "width=0"),
        ({"width": "32"}, "width='32'"),
        ({"kernel": 4}, "kernel=4, expected an odd number"),
        ({"kernel": -1}, "kernel=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"dropout": "high"}, "dropout='high'"),
    ],
)
@pytest.mark.parametrize("name", ["cnn", "cnn1d"])
def test_options_that_mean_nothing_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: .*{message}"):
        BUILDERS[name](SHAPES[name], 3, **options)


def test_images_are_mirrored_only_with_a_key() -> None:
    plain, always, half = (cnn((2, 9, 8), 3, dropout=0.0, flip=share) for share in (0.0, 1.0, 0.5))
    params, x = parameters(plain), inputs("cnn", 40)
    straight, mirrored = plain.apply(params, x, None), plain.apply(params, x.flip(-1), None)
    assert torch.equal(always.apply(params, x, None), straight)
    assert torch.equal(always.apply(params, x, KEY), mirrored)
    assert torch.equal(always.features(params["body"], x, KEY), plain.features(params["body"], x.flip(-1), None))
    seen = half.apply(params, x, KEY)
    turned = (seen == mirrored).all(1)
    assert torch.equal(seen, torch.where(turned[:, None], mirrored, straight))
    assert 20 - 5 * 10**0.5 < int(turned.sum()) < 20 + 5 * 10**0.5
    assert torch.allclose(half.apply(params, x[:7], KEY), seen[:7], atol=1e-12)


@pytest.mark.parametrize("flip", [-0.1, 1.5, "often"])
def test_a_share_that_is_none_is_refused(flip: object) -> None:
    with pytest.raises(ConfigError, match="flip="):
        cnn((2, 9, 8), 3, flip=flip)  # type: ignore[arg-type]
