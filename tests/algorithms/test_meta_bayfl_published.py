"""Meta-BayFL as published: its parts on constructed examples, its training loop against one written with torch's own modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.func import vmap
from torch.nn.functional import softplus

from metabayfl import posterior, random, tree
from metabayfl.aggregators import weighted_mean
from metabayfl.algorithms.meta_bayfl_published import Local, as_posterior, free_energy, hold_out, meta_bayfl_published, pick_rate, train
from metabayfl.batches import minibatches
from metabayfl.errors import ConfigError, ModelError
from metabayfl.models import cnn
from metabayfl.types import Algorithm, Batch, Task, Tree
from quadratics import class_batch, smooth_model
from scenarios import batch, double, padded, small_model, squared_error_model

F64 = torch.float64
KEY = random.key(11)
RATES = (1e-2, 1e-3, 1e-4)
HOW = Local(batch_size=4, kl_weight=0.5, whole_kl=False, prior_sd=0.8)


def smooth() -> tuple[Algorithm, Tree]:
    algorithm = meta_bayfl_published(smooth_model(), initial_sd=0.2)
    return algorithm, double(algorithm.init(KEY))


def regression(distance: float, count: int = 20) -> tuple[Algorithm, Tree, Batch]:
    """Noise-free linear regression whose solution is ``distance`` from the global model in every weight, which is next to certain of itself."""
    model = squared_error_model(3)
    algorithm = meta_bayfl_published(model, initial_sd=1e-6, kl_weight=1e-12, local_epochs=1, batch_size=0)
    meta = algorithm.init(KEY)
    x = random.normal(random.fold(KEY, "x"), (count, 3), F64)
    y = x @ (meta["mean"]["head"]["weight"].to(F64) + distance).T
    return algorithm, double(meta), batch(x.numpy(), y.numpy())


def chosen_rate(algorithm: Algorithm, meta: Tree, support: Batch) -> Tensor:
    """Adam's first step has its rate's length in every weight."""
    return tree.flatten(tree.subtract(algorithm.adapt(meta, support, KEY)["mean"], meta["mean"]))["head/weight"].abs()


@pytest.mark.parametrize("distance, rate", [(10.0, 1e-2), (2e-3, 1e-3), (0.0, 1e-4)])
def test_the_rate_that_serves_the_set_aside_examples_is_chosen(distance: float, rate: float) -> None:
    algorithm, meta, support = regression(distance)
    torch.testing.assert_close(chosen_rate(algorithm, meta, support), torch.full((1, 3), rate, dtype=F64), rtol=0.2, atol=0)


def test_each_client_chooses_for_itself() -> None:
    algorithm, meta, far = regression(10.0)
    near = regression(0.0)[2]
    support = Batch(*(torch.stack(pair) for pair in zip(far, near, strict=True)))
    adapted = vmap(algorithm.adapt, (None, 0, None))(meta, support, KEY)["mean"]["head"]["weight"]
    lengths = (adapted - meta["mean"]["head"]["weight"]).abs().amax((1, 2))
    torch.testing.assert_close(lengths, torch.tensor([1e-2, 1e-4], dtype=F64), rtol=0.2, atol=0)


@pytest.mark.parametrize(
    "losses, rate",
    [([3.0, 1.0, 2.0], 1e-3), ([1.0, 2.0, 3.0], 1e-2), ([float("nan"), 5.0, 4.0], 1e-4), ([float("inf"), 4.0, float("nan")], 1e-3)],
)
def test_pick_rate_takes_the_argmin_of_what_is_finite(losses: list[float], rate: float) -> None:
    assert float(pick_rate(torch.tensor(RATES), torch.tensor(losses))) == pytest.approx(rate)
    together = vmap(pick_rate, (None, 0))(torch.tensor(RATES), torch.tensor([losses, [9.0, 9.0, 0.0]]))
    torch.testing.assert_close(together, torch.tensor([rate, 1e-4]))


@pytest.mark.parametrize("count, aside", [(0, 0), (1, 0), (2, 1), (4, 1), (5, 1), (9, 1), (10, 2), (35, 7)])
def test_a_fifth_is_set_aside_and_nothing_is_in_both_parts(count: int, aside: int) -> None:
    x = torch.arange(40.0).unsqueeze(1)
    practice, held = hold_out(Batch(x, x, (x[:, 0] < count).double()), 0.2, KEY)
    assert (float(practice.mask.sum()), float(held.mask.sum())) == (count - aside, aside)
    both = torch.cat([part.x[part.mask > 0] for part in (practice, held)])
    assert both.flatten().sort().values.tolist() == list(range(count))


def test_only_dense_layers_are_variational() -> None:
    algorithm = meta_bayfl_published(cnn((1, 8, 8), 3, "classification"), initial_sd=0.3)
    meta = algorithm.init(KEY)
    paths = set(tree.paths(meta["rho"]))
    assert paths == set(posterior.dense_paths(meta["mean"]))
    assert any(leaf.ndim == 4 for path, leaf in tree.flatten(meta["mean"]).items() if path not in paths)
    for rho in tree.leaves(meta["rho"]):
        torch.testing.assert_close(softplus(rho), torch.full_like(rho, 0.3))


def test_a_model_without_dense_layers_is_refused() -> None:
    model = squared_error_model(3)._replace(init=lambda key: {"body": {"filter": torch.zeros(2, 2, 2)}, "head": {}})
    with pytest.raises(ModelError, match="dense"):
        meta_bayfl_published(model).init(KEY)


def test_convolutions_and_the_noise_scale_are_trained_as_points() -> None:
    algorithm = meta_bayfl_published(small_model("regression"))
    meta = double(algorithm.init(KEY))
    support = batch(*(random.normal(random.key(j), (8, w), F64).numpy() for j, w in ((1, 4), (2, 2))))
    adapted = algorithm.adapt(meta, support, KEY)
    assert "log_scale" not in adapted["log_sd"]["head"]
    assert (adapted["mean"]["head"]["log_scale"] != meta["mean"]["head"]["log_scale"]).all()
    assert (adapted["mean"]["head"]["log_scale"].abs() < 0.2).all()


@pytest.mark.parametrize("whole_kl", [False, True])
def test_free_energy_is_the_mean_nll_of_one_draw_plus_the_kl(whole_kl: bool) -> None:
    algorithm, meta = smooth()
    part, how = class_batch(1, 5), HOW._replace(whole_kl=whole_kl)
    value, nll = free_energy(meta, algorithm.model, part, torch.tensor(20.0, dtype=F64), KEY, how)
    params = tree.map(lambda leaf: leaf[0], posterior.draw(as_posterior(meta), random.fold(KEY, "weights"), 1))
    logits = algorithm.model.apply(params, part.x, None)
    assert float(nll) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, part.y)), rel=1e-12)
    pairs = zip(tree.leaves(posterior.pick(meta["mean"], tree.paths(meta["rho"]))), tree.leaves(meta["rho"]), strict=True)
    prior = Normal(torch.zeros((), dtype=F64), torch.tensor(0.8, dtype=F64))
    kl = sum(kl_divergence(Normal(mean, softplus(rho)), prior).sum() for mean, rho in pairs)
    assert float(value - nll) == pytest.approx(float(kl) * (0.5 if whole_kl else 0.5 / 20), rel=1e-12)


def reference(algorithm: Algorithm, meta: Tree, data: Batch, rate: float, epochs: int) -> Tree:
    """The training loop with ``torch.optim.Adam`` and autograd."""
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(meta)]
    adam = torch.optim.Adam(leaves, lr=rate, eps=1e-7)
    parts = minibatches(data, HOW.batch_size, epochs, KEY)
    for step, part in enumerate(parts):
        at = random.fold(KEY, *divmod(step, len(parts) // epochs))
        adam.zero_grad()
        free_energy(tree.like(meta, leaves), algorithm.model, part, data.mask.sum(), at, HOW)[0].backward()
        adam.step()
    return tree.like(meta, [leaf.detach() for leaf in leaves])


def test_training_is_adam_on_minibatches() -> None:
    algorithm, meta = smooth()
    data = class_batch(3, 10)
    trained, metrics = train(algorithm.model, meta, data, KEY, torch.tensor(1e-2, dtype=F64), 5, HOW)
    torch.testing.assert_close(trained, reference(algorithm, meta, data, 1e-2, 5), rtol=0, atol=1e-10)
    assert float(metrics["examples"]) == 10
    assert 0.3 < float(metrics["loss"]) / 10 < 3.0


def test_empty_minibatches_and_padded_values_change_nothing() -> None:
    algorithm, meta = smooth()
    data, rate = class_batch(3, 6), torch.tensor(1e-2, dtype=F64)
    alone, loss = train(algorithm.model, meta, data, KEY, rate, 3, HOW)
    wide, wide_loss = train(algorithm.model, meta, padded(data, 9, 1e12), KEY, rate, 3, HOW)
    torch.testing.assert_close((wide, wide_loss), (alone, loss), rtol=0, atol=1e-12)


def test_without_data_the_personal_posterior_is_the_global_one_to_the_bit() -> None:
    algorithm, meta = smooth()
    data = class_batch(3, 6)
    nothing = data._replace(mask=torch.zeros_like(data.mask))
    torch.testing.assert_close(algorithm.adapt(meta, nothing, KEY), as_posterior(meta), rtol=0, atol=0)


def test_every_client_counts_the_same_and_the_average_is_over_all_tensors() -> None:
    algorithm, meta = smooth()
    parts = [padded(class_batch(1, 4), 8), class_batch(2, 12), class_batch(4, 12)._replace(mask=torch.zeros(12, dtype=F64))]
    support = Batch(*(torch.stack(leaves) for leaves in zip(*parts, strict=True)))
    keys, nothing = random.keys(KEY, 3), Batch(support.x[:, :1], support.y[:, :1], torch.zeros(3, 1, dtype=F64))
    messages = vmap(algorithm.client, (None, 0, 0))(meta, Task(support, nothing), keys)
    assert messages.weight.tolist() == [1.0, 1.0, 0.0]
    combine = weighted_mean()
    after = algorithm.server(algorithm.begin(meta), combine.finish(combine.partial(messages))).meta
    mean = tree.map(lambda start, change: start - change[:2].mean(0), meta, messages.update)
    torch.testing.assert_close(after, mean, rtol=0, atol=1e-14)
    assert all((leaf != 0).any() for leaf in tree.leaves(tree.map(lambda leaf: leaf[0], messages.update)["rho"]))


def test_personalisation_is_the_same_procedure_as_a_round() -> None:
    algorithm, meta = smooth()
    data = class_batch(3, 10)
    nothing = Batch(data.x[:0], data.y[:0], data.mask[:0])
    update = algorithm.client(meta, Task(data, nothing), KEY).update
    torch.testing.assert_close(algorithm.adapt(meta, data, KEY), as_posterior(tree.subtract(meta, update)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"client_lrs": ()}, "client_lrs"),
        ({"client_lrs": (1e-2, 0.0)}, "client_lrs"),
        ({"validation_share": 0.0}, "validation_share"),
        ({"validation_share": 1.0}, "validation_share"),
        ({"kl_weight": 0.0}, "kl_weight"),
        ({"prior_sd": -1.0}, "prior_sd"),
        ({"initial_sd": 0.0}, "initial_sd"),
        ({"samples": 0}, "samples"),
        ({"batch_size": -1}, "batch_size"),
        ({"trial_epochs": -1}, "trial_epochs"),
        ({"kl_scale": "publised"}, "did you mean 'published'"),
    ],
)
def test_numbers_outside_their_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        meta_bayfl_published(small_model("classification"), **options)
