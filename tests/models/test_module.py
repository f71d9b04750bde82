"""Users' own modules: the same numbers as the module gives, and what cannot work is refused by name."""

from __future__ import annotations

import copy
import random as python_random
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabayfl import random, tree
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models import from_module
from metabayfl.types import Model, Tree

KEY = random.key(7)


class Recurrent(nn.Module):
    """Sequences ``(N, steps, 3)``; the last state is classified."""

    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"cell": cell(3, 5, batch_first=True)})
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder["cell"](x)[0][:, -1])
        return out


class Function(nn.Module):
    """A layer made of a function of the layer and the input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def around(layer: nn.Module) -> nn.Sequential:
    """A small network with a layer under trial in the middle."""
    return nn.Sequential(nn.Linear(3, 5), nn.Sequential(layer), nn.Linear(5, 3))


def convolutional(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        norm,
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4 * 16, 8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(8, 3),
    )


def agree_with_loops(model: Model, shape: tuple[int, ...]) -> None:
    """Gradients with a key, in float64, to 1e-10."""
    params = tree.to(model.init(KEY), torch.float64)
    stacked = tree.map(lambda leaf: torch.stack([leaf, 1.1 * leaf, -leaf]), params)
    x, keys = random.normal(KEY, (3, 4, *shape), torch.float64), random.keys(KEY, 3)

    def loss(params: Tree, x: Tensor, key: Tensor) -> Tensor:
        return model.apply(params, x, key).square().sum()

    found = torch.func.vmap(torch.func.grad(loss))(stacked, x, keys)
    for i in range(3):
        alone = torch.func.grad(loss)(tree.map(lambda leaf, i=i: leaf[i], stacked), x[i], keys[i])
        for a, b in zip(tree.leaves(found), tree.leaves(alone), strict=True):
            assert torch.allclose(a[i], b, rtol=1e-10, atol=1e-10)


def padding_changes_nothing(model: Model, shape: tuple[int, ...]) -> None:
    params = tree.to(model.init(KEY), torch.float64)
    x = random.normal(KEY, (3, *shape), torch.float64)
    padded = torch.cat([x, 1e6 * torch.ones_like(x)])
    for key in (None, KEY):
        assert torch.allclose(model.apply(params, padded, key)[:3], model.apply(params, x, key), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4).eval(), nn.Identity()])
def test_a_convolutional_network(norm: nn.Module) -> None:
    net = convolutional(norm)
    model = from_module(net, (1, 8, 8), 3)
    assert (model.name, model.width, model.outputs) == ("module:Sequential", 8, 3)
    assert model.dense is not None
    assert model.dense == ("6", 4, 16)
    x = random.normal(KEY, (5, 1, 8, 8))
    params = model.init(KEY)
    assert torch.allclose(model.apply(params, x, None), net.eval()(x), atol=1e-6)
    hidden = nn.Sequential(*net[:7])  # the features are those before the last ReLU
    assert torch.allclose(model.features(params["body"], x, None), hidden(x), atol=1e-6)
    agree_with_loops(model, (1, 8, 8))
    padding_changes_nothing(model, (1, 8, 8))


def test_the_module_is_not_changed() -> None:
    net = convolutional(nn.BatchNorm2d(4).eval())
    before, names = copy.deepcopy(net.state_dict()), [name for name, _ in net.named_modules()]
    model = from_module(net, (1, 8, 8), 3)
    params = model.init(KEY)
    x = random.normal(KEY, (2, 1, 8, 8))
    torch.func.grad(lambda params: model.apply(params, x, KEY).sum())(params)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [name for name, _ in net.named_modules()] == names
    assert net.training
    params["body"]["0"]["weight"].add_(1.0)  # every start is a copy
    assert torch.equal(model.init(KEY)["body"]["0"]["weight"], net[0].weight)


def test_dropout_is_drawn_from_the_key() -> None:
    model = from_module(convolutional(nn.Identity()), (1, 8, 8), 3)
    body, x = model.init(KEY)["body"], random.normal(KEY, (4, 1, 8, 8))
    state = torch.random.get_rng_state()
    wet = model.features(body, x, KEY)
    assert torch.equal(wet, model.features(body, x, KEY))
    assert not torch.equal(wet, model.features(body, x, random.key(8)))
    assert not torch.equal(wet, model.features(body, x, None))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_channel_dropout_drops_channels() -> None:
    model = from_module(nn.Sequential(nn.Dropout2d(0.5), nn.Flatten()), (6, 4, 4), 3, head=None)
    seen = model.features({}, torch.ones(50, 6, 4, 4), KEY).reshape(300, 16)
    assert torch.equal(seen, seen[:, :1].expand(300, 16))
    assert set(seen.unique().tolist()) == {0.0, 2.0}
    assert float(seen.mean()) == pytest.approx(1.0, abs=5 / 300**0.5)  # each channel is 0 or 2: standard deviation 1


def test_a_dropout_layer_used_twice_draws_twice() -> None:
    drop = nn.Dropout(0.5)
    model = from_module(nn.Sequential(drop, drop), (400,), 3, head=None)
    share = float((model.features({}, torch.ones(2, 400), KEY) > 0).float().mean())
    assert share == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 800) ** 0.5)
    again = model.features({}, torch.ones(2, 400), KEY)
    assert float((again > 0).float().mean()) == share  # the second call starts from its key anew


def test_tied_and_repeated_layers() -> None:
    """A layer in two places, and one parameter in two layers, travel once; torch's own tying would forget to put the first back."""
    repeated, tied = nn.Linear(4, 4), nn.Linear(4, 4)
    tied.weight = repeated.weight
    net = nn.Sequential(nn.Linear(3, 4), repeated, nn.Tanh(), repeated, nn.Tanh(), tied, nn.ReLU(), nn.Linear(4, 2))
    model = from_module(net, (3,), 2)
    params, x = model.init(KEY), random.normal(KEY, (5, 3))
    assert sorted(params["body"]) == ["0", "1", "5"]
    assert list(params["body"]["5"]) == ["bias"]
    for factor in (1.0, 0.5, 1.0):
        with torch.no_grad():
            scaled = copy.deepcopy(net)
            scaled[1].weight.mul_(factor)
        params["body"]["1"]["weight"] = net[1].weight.detach() * factor
        assert torch.allclose(model.apply(params, x, None), scaled(x), atol=1e-6)


def test_frozen_parameters_and_buffers_stay() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 5), nn.Linear(5, 2))
    net[0].requires_grad_(requires_grad=False)
    model = from_module(net, (3,), 2)
    assert sorted(model.init(KEY)["body"]) == ["1", "2"]
    agree_with_loops(model, (3,))  # in float64: what is fixed follows


def test_a_head_is_found_named_or_added() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 7), nn.Tanh(), nn.Linear(7, 2))
    assert from_module(net, (3,), 2).width == 7
    assert from_module(net, (3,), 2, head="4").width == 7
    added = from_module(net, (3,), 2, head=None)
    assert (added.width, sorted(added.init(KEY)["body"])) == (2, ["0", "2", "4"])
    assert from_module(nn.Linear(3, 6), (3,), 2).width == 6
    alone = from_module(nn.Linear(3, 2), (3,), 2)
    assert (alone.width, alone.init(KEY)["body"], alone.dense) == (3, {}, None)
    plain = from_module(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False)), (3,), 2)
    assert plain.init(KEY)["head"]["bias"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("head, message", [("0", "has 4 outputs"), ("9", r"is no nn.Linear of the network.*\['0', '1'\]")])
def test_a_wrong_head_is_refused(head: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_module(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (3,), 2, head=head)


@pytest.mark.parametrize("end", [nn.Softmax(-1), nn.Linear(2, 5), nn.Tanh()])
def test_what_comes_after_the_head_is_refused(end: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"something comes after it|head='path'"):
        from_module(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), end), (3,), 2)


def test_a_head_that_shares_its_weight_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    with pytest.raises(ModelError, match="shares a weight"):
        from_module(net, (4,), 4)


def test_seeded_starts_follow_the_key_and_keep_norms() -> None:
    net = convolutional(nn.GroupNorm(2, 4))
    with torch.no_grad():
        net[1].weight.fill_(3.0)
    model = from_module(net, (1, 8, 8), 3, initial="seeded")
    first, other = model.init(random.key(1)), model.init(random.key(2))
    assert torch.equal(first["body"]["0"]["weight"], model.init(random.key(1))["body"]["0"]["weight"])
    for path in ("body/0/weight", "body/0/bias", "body/6/weight", "head/weight", "head/bias"):
        assert not torch.equal(tree.flatten(first)[path], tree.flatten(other)[path])
    assert first["body"]["1"]["weight"].tolist() == [3.0] * 4
    for layer, fan_in in (("0", 9), ("6", 64)):
        assert float(first["body"][layer]["weight"].abs().max()) <= fan_in**-0.5
        assert float(first["body"][layer]["bias"].abs().max()) <= fan_in**-0.5
    with pytest.raises(ConfigError, match="initial='random'"):
        from_module(net, (1, 8, 8), 3, initial="random")  # type: ignore[arg-type]


def test_regression() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model = from_module(net, (3,), 2, "regression")
    x = random.normal(KEY, (5, 3))
    out = model.apply(model.init(KEY), x, None)
    assert torch.allclose(out[:, :2], net(x), atol=1e-6)
    assert torch.equal(out[:, 2:], torch.zeros(5, 2))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)])
def test_batch_norm_is_refused_by_name(norm: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"layer '1' \(BatchNorm2d\).*GroupNorm"):
        from_module(convolutional(norm), (1, 8, 8), 3)


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_are_refused_unless_not_vectorised(cell: type[nn.RNNBase]) -> None:
    net = Recurrent(cell)
    with pytest.raises(ModelError, match=rf"layer 'encoder.cell' \({cell.__name__}\).*vectorise=False"):
        from_module(net, (6, 3), 3)
    model = from_module(net, (6, 3), 3, vectorise=False)
    params, x = model.init(KEY), random.normal(KEY, (4, 6, 3))
    assert torch.allclose(model.apply(params, x, None), net(x), atol=1e-6)
    gradient = torch.func.grad(lambda params: model.apply(params, x, KEY).square().sum())(params)
    net(x).square().sum().backward()
    for name, parameter in net.encoder.named_parameters():
        assert torch.allclose(gradient["body"]["encoder"]["cell"][name.split(".")[1]], parameter.grad, atol=1e-5)


def own_mean(layer: Function, x: Tensor) -> Tensor:
    layer.count = 0.5 * layer.count + x.detach().mean()
    return x


REFUSED = {
    "instance norm with a state": (nn.Sequential(nn.Unflatten(1, (1, 5)), nn.InstanceNorm1d(1, track_running_stats=True)), "InstanceNorm1d"),
    "alpha dropout": (nn.AlphaDropout(0.1), "AlphaDropout.*nn.Dropout"),
    "dropout of everything": (nn.Dropout(1.0), "Dropout.*rate is 1.0"),
    "torch's randomness": (Function(lambda layer, x: F.dropout(x, 0.5, layer.training)), r"'1.0' \(Function\).*its own random numbers"),
    "python's randomness": (Function(lambda layer, x: x * python_random.random()), r"'1.0' \(Function\).*its own random numbers"),
    "random slopes": (nn.RReLU(), "RReLU.*its own random numbers"),
    "a buffer written in place": (Function(lambda layer, x: x + 0 * layer.count.add_(1.0)), r"'1.0' \(Function\).*buffer '1.0.count' in place"),
    "control flow on values": (Function(lambda layer, x: x if x[0, 0] != 0.0 else -x), r"'1.0' \(Function\).*vectorise=False"),
    "numbers taken out": (Function(lambda layer, x: x * x[0, 0].sign().abs().item()), r"'1.0' \(Function\).*vectorise=False"),
    "batch statistics": (Function(lambda layer, x: x - x.mean(0)), r"'1.0' \(Function\).*alone.*GroupNorm"),
    "a lost axis": (Function(lambda layer, x: x.squeeze()), r"'1.0' \(Function\).*squeeze"),
    "a failure": (Function(lambda layer, x: x @ x), r"'1.0' \(Function\).*failed with RuntimeError"),
    "NumPy": (Function(lambda layer, x: torch.from_numpy(x.detach().numpy())), r"'1.0' \(Function\).*failed with RuntimeError"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_work_is_refused_by_name(case: str) -> None:
    layer, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        from_module(around(layer), (3,), 3)


def test_control_flow_works_when_not_vectorised() -> None:
    net = around(Function(lambda layer, x: x if x.shape[0] > 0 and bool(torch.isfinite(x).all()) else -x))
    model = from_module(net, (3,), 3, vectorise=False)
    x = random.normal(KEY, (4, 3))
    assert torch.allclose(model.apply(model.init(KEY), x, None), net(x), atol=1e-6)


def test_a_buffer_that_is_replaced_leaves_no_trace() -> None:
    """Writing ``self.count = ...`` is undone after every call, so the function stays pure."""
    net = around(Function(own_mean))
    model = from_module(net, (3,), 3)
    params, x = model.init(KEY), random.normal(KEY, (4, 3))
    assert torch.equal(model.apply(params, x, None), model.apply(params, x, None))


def test_attention_without_dropout_and_with() -> None:
    def encoder(dropout: float) -> nn.Sequential:
        return nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, dropout, batch_first=True), nn.Flatten(), nn.Linear(24, 3))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # torch has no batching rule for its fused attention, and loops
        model = from_module(encoder(0.0), (6, 4), 3)
        assert (model.width, model.dense) == (24, ("0/linear1", 4, 1))
        with pytest.raises(ModelError, match="attention: dropout=0"):
            from_module(encoder(0.1), (6, 4), 3)


def test_inputs_may_be_given_as_examples() -> None:
    net = nn.Sequential(Function(lambda layer, x: x.long()), nn.Embedding(10, 5), nn.Flatten(), nn.Linear(20, 3))
    with pytest.raises(ModelError, match=r"\(Embedding\).*example=x"):
        from_module(net, (4,), 3)
    model = from_module(net, (4,), 3, example=torch.arange(8.0).reshape(2, 4))
    assert model.width == 20
    with pytest.raises(ModelError, match="expected two or more inputs of shape"):
        from_module(net, (4,), 3, example=torch.ones(2, 5))


@pytest.mark.parametrize(
    "net, shape, message",
    [
        (nn.Linear(4, 2), (3,), "without its head the network yields 3 features, the head takes 4"),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), (3,), "the head takes 5"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 8, 8), r"yields \(4, 2, 6, 6\) for 4 inputs, expected features \(4, M\)"),
        (nn.Sequential(Function(lambda layer, x: (x, x))), (3,), "yields tuple"),
        (nn.Sequential(nn.LazyLinear(4)), (3,), "lazy"),
        (nn.ModuleDict({"a/b": nn.Linear(3, 2)}), (3,), "'/' in it"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(9, 2)), (1, 2, 2), r"layer '0' \(Conv2d\).*failed"),
    ],
)
def test_networks_that_do_not_fit_are_refused(net: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_module(net, shape, 2)


def test_a_module_that_holds_a_computed_tensor_is_refused() -> None:
    net = nn.Linear(3, 2)
    net.computed = net.weight * 2
    with pytest.raises(ModelError, match="cannot be copied"):
        from_module(net, (3,), 2)
