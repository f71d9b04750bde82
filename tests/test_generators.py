"""Generators: seeded starts, exact sizes, and a count sketch that keeps inner products."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from metabayfl import random, tree
from metabayfl.compression import int8
from metabayfl.errors import ConfigError, ModelError
from metabayfl.generators import GENERATORS, Generator, count_sketch, full, hashed, mixed, separable, theta0
from metabayfl.heads import conjugate_classification
from metabayfl.models.cnn import cnn
from metabayfl.models.cnn1d import cnn1d
from metabayfl.models.mlp import mlp
from metabayfl.types import DenseLayer, Model, Tree

IMAGES = cnn((1, 28, 28), 10)
TABLE = mlp((20,), 3, hidden=(16, 8))
WIDE = mlp((300,), 3, hidden=(64, 8))


def noise(generator: Generator, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tree:
    start = generator.init(random.key(0))
    return tree.unflatten(
        {path: random.normal(random.fold(random.key(seed), path), tuple(z.shape), dtype) for path, z in tree.flatten(start).items()}
    )


def flat(body: Tree) -> torch.Tensor:
    return torch.cat([leaf.flatten() for leaf in tree.leaves(body)])


@pytest.mark.parametrize("model", [IMAGES, TABLE, WIDE], ids=["images", "table", "wide"])
@pytest.mark.parametrize("name", GENERATORS)
def test_no_numbers_give_the_seeded_start(name: str, model: Model) -> None:
    generator = GENERATORS[name](model, seed=3)
    body = generator.body(generator.init(random.key(9)))
    assert list(tree.paths(body)) == list(tree.paths(model.init(random.key(3))["body"]))
    assert torch.equal(flat(body), flat(model.init(random.key(3))["body"]))


@pytest.mark.parametrize("name", GENERATORS)
def test_same_seed_same_bits_and_other_seed_other_body(name: str) -> None:
    one, again, other = (GENERATORS[name](IMAGES, seed=seed) for seed in (1, 1, 2))
    z = noise(one, dtype=torch.float32)
    assert torch.equal(flat(one.body(z)), flat(again.body(z)))
    assert not torch.allclose(flat(tree.subtract(one.body(z), theta0(IMAGES, 1))), flat(other.body(z)) - flat(theta0(IMAGES, 1)))


@pytest.mark.parametrize("name", GENERATORS)
def test_follows_the_type_of_its_numbers_and_leaves_them_alone(name: str) -> None:
    generator = GENERATORS[name](IMAGES)
    z = noise(generator)
    before = tree.map(torch.clone, z)
    body = generator.body(z)
    assert {leaf.dtype for leaf in tree.leaves(body)} == {torch.float64}
    assert {path: leaf.shape for path, leaf in tree.flatten(body).items()} == {
        path: leaf.shape for path, leaf in tree.flatten(theta0(IMAGES, 0)).items()
    }
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves(z), strict=True))
    assert tree.leaves(generator.init(random.key(0)))[0].data_ptr() != tree.leaves(generator.init(random.key(0)))[0].data_ptr()


def test_sizes() -> None:
    free = 16 * 9 + 16 + 24 * 16 * 9 + 24 + 32
    spatial = 2 * 49 + 2 * 24 * 32
    sizes = {name: tree.size(build(IMAGES).init(random.key(0))) for name, build in GENERATORS.items()}
    assert sizes == {"full": free + 24 * 49 * 32, "hashed": 5000, "separable": free + spatial, "mixed": free + spatial + 2000}


def test_full_adds_every_number() -> None:
    generator = full(TABLE)
    z = noise(generator)
    torch.testing.assert_close(flat(generator.body(z)), flat(theta0(TABLE, 0)).double() + flat(z["full"]))


def test_hashed_is_the_documented_sum_in_tree_order() -> None:
    generator = hashed(TABLE, seed=5, size=50)
    z = noise(generator)
    bucket, sign = count_sketch(random.fold(random.key(5), "hash"), tree.size(theta0(TABLE, 5)), 50)
    at, expected = 0, []
    for leaf in tree.leaves(theta0(TABLE, 5)):
        unit = 1 / math.sqrt(leaf.shape[1]) if leaf.ndim == 2 else 0.1
        expected += [float(w) + float(z["hash"][bucket[at + i]] * sign[at + i]) * unit for i, w in enumerate(leaf.flatten())]
        at += leaf.numel()
    torch.testing.assert_close(flat(generator.body(z)), torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)


def test_hashed_is_a_count_sketch_with_unbiased_inner_products() -> None:
    count, size = 400, 40
    a = random.normal(random.key(1), (count,), torch.float64)
    b = a + random.normal(random.key(2), (count,), torch.float64)

    def sketched(key: torch.Tensor) -> torch.Tensor:
        bucket, sign = count_sketch(key, count, size)
        return torch.zeros(2, size, dtype=torch.float64).index_add(1, bucket, torch.stack([a, b]) * sign).prod(0).sum()

    products = torch.func.vmap(sketched)(random.keys(random.key(0), 2000))
    standard_error = float(products.std() / math.sqrt(len(products)))
    assert abs(float(products.mean() - a @ b)) < 3 * standard_error
    # Charikar, Chen, Farach-Colton: the variance is at most (|a|^2 |b|^2 + (a.b)^2) / D
    assert float(products.var()) < 1.1 * float(a @ a * (b @ b) + (a @ b) ** 2) / size


def test_the_transpose_of_the_generator_sketches() -> None:
    generator = hashed(TABLE, size=30)
    start = generator.init(random.key(0))
    weight = random.normal(random.key(4), (tree.size(theta0(TABLE, 0)),))
    _, pull = torch.func.vjp(lambda z: flat(generator.body(z)), start)
    (sketch,) = pull(weight)
    bucket, sign = count_sketch(random.fold(random.key(0), "hash"), len(weight), 30)
    units = torch.cat(
        [torch.full((leaf.numel(),), 1 / math.sqrt(leaf.shape[1]) if leaf.ndim == 2 else 0.1) for leaf in tree.leaves(theta0(TABLE, 0))]
    )
    torch.testing.assert_close(sketch["hash"], torch.zeros(30).index_add(0, bucket, weight * sign * units))


def test_as_many_numbers_as_weights_collide_nowhere() -> None:
    generator = hashed(TABLE, size=10**6)
    assert tree.size(generator.init(random.key(0))) == tree.size(theta0(TABLE, 0))
    jacobian = torch.func.jacrev(lambda z: flat(generator.body(z)))(generator.init(random.key(0)))["hash"]
    assert torch.equal(jacobian != 0, torch.eye(len(jacobian), dtype=torch.bool))


def test_separable_is_a_sum_of_space_times_channel_maps() -> None:
    generator = separable(IMAGES, rank=2)
    z = noise(generator)
    zero = {**z, "channel": torch.zeros_like(z["channel"])}
    offset = (generator.body(z)["dense"]["weight"] - generator.body(zero)["dense"]["weight"]).view(32, 24, 49)
    maps = random.normal(random.fold(random.key(0), "space"), (2, 49)).double()
    maps[0] = 1.0
    expected = sum((maps + z["space"])[r].view(1, 1, 49) * z["channel"][r].T.view(32, 24, 1) for r in range(2)) / 7
    torch.testing.assert_close(offset, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(generator.body(z)["conv0"]["weight"], theta0(IMAGES, 0)["conv0"]["weight"].double() + z["free"]["conv0"]["weight"])


def test_mixed_is_separable_plus_hashed_on_the_dense_layer() -> None:
    both, alone = mixed(IMAGES, size=100), separable(IMAGES)
    z = noise(both)
    rest = {name: block for name, block in z.items() if name != "hash"}
    difference = tree.subtract(both.body(z), alone.body(rest))
    offset = difference["dense"].pop("weight")
    assert all(not leaf.any() for leaf in tree.leaves(difference))
    bucket, sign = count_sketch(random.fold(random.key(0), "hash"), offset.numel(), 100)
    torch.testing.assert_close(offset.flatten(), z["hash"][bucket] * sign / math.sqrt(24 * 49), atol=1e-6, rtol=0)


def test_without_positions_the_largest_matrix_is_of_low_rank() -> None:
    generator = separable(WIDE, rank=2)
    z = noise(generator)
    assert set(z) == {"free", "input", "feature"}
    offset = generator.body(z)["dense0"]["weight"] - generator.body(tree.zeros_like(z))["dense0"]["weight"]
    assert torch.linalg.matrix_rank(offset, rtol=1e-6) == 2
    assert "weight" in z["free"]["dense1"]
    assert "weight" not in z["free"]["dense0"]


def test_a_small_layer_stays_free_since_compact_would_be_larger() -> None:
    generator = mixed(TABLE)
    assert tree.size(generator.init(random.key(0))) == tree.size(theta0(TABLE, 0))
    z = noise(generator)
    torch.testing.assert_close(flat(generator.body(z)), flat(theta0(TABLE, 0)).double() + flat(z["free"]))


def test_a_body_of_vectors_alone_is_free() -> None:
    model = TABLE._replace(init=lambda key: {"body": {"gain": torch.ones(4)}, "head": {}}, dense=None)
    generator = mixed(model)
    assert list(tree.paths(generator.init(random.key(0)))) == ["free/gain"]


def test_a_body_of_one_matrix_has_nothing_free() -> None:
    model = TABLE._replace(init=lambda key: {"body": {"only": torch.ones(50, 60)}, "head": {}}, dense=None)
    z = separable(model).init(random.key(0))
    assert set(z) == {"input", "feature"}
    assert torch.equal(separable(model).body(z)["only"], torch.ones(50, 60))


def test_vmap_over_clients_leaves_the_body_unbatched() -> None:
    generator = mixed(IMAGES)
    z = noise(generator, dtype=torch.float32)
    seen = []

    def client(x: torch.Tensor) -> torch.Tensor:
        body = generator.body(z)
        seen.append(any(torch._C._functorch.is_batchedtensor(leaf) for leaf in tree.leaves(body)))
        return IMAGES.features(body, x, None)

    out = torch.func.vmap(client)(torch.ones(3, 2, 1, 28, 28))
    assert out.shape == (3, 2, 32)
    assert seen == [False]


def test_bad_options_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="size 0"):
        hashed(TABLE, size=0)
    with pytest.raises(ConfigError, match="separable"):
        mixed(IMAGES, size=0)
    with pytest.raises(ConfigError, match="rank 0"):
        separable(IMAGES, rank=0)
    with pytest.raises(ModelError, match=r"'dense/weight' with 100 inputs.*\(32, 1176\)"):
        separable(IMAGES._replace(dense=DenseLayer("dense", 10, 10)))
    with pytest.raises(ModelError, match="no such weight"):
        separable(IMAGES._replace(dense=DenseLayer("nowhere", 24, 49)))


def test_the_documented_sizes_are_the_computed_ones() -> None:
    """The table of docs/strategy.md: the numbers of the whole strategy, and the bytes that it takes with the default codec."""
    models = {
        "cnn (1, 28, 28) 10": IMAGES,
        "cnn (3, 32, 32) 10": cnn((3, 32, 32), 10),
        "cnn1d (9, 128) 6": cnn1d((9, 128), 6),
        "mlp (20,) 2 hidden=(64, 32)": mlp((20,), 2, hidden=(64, 32)),
    }
    page = (Path(__file__).parents[1] / "docs" / "strategy.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split("|") for line in page.splitlines() if line.startswith(("| `cnn", "| `mlp"))]
    documented = {name.strip(" `"): [int(number.replace(",", "")) for number in numbers] for name, *numbers in rows}
    assert documented.keys() == models.keys()
    for name, model in models.items():
        head = tree.size(conjugate_classification(model.outputs, model.width).init(random.key(0)))
        sizes = [tree.size(build(model).init(random.key(0))) + head for build in GENERATORS.values()]
        assert documented[name] == [tree.size(model.init(random.key(0))), *sizes]
    strategy = {"z": mixed(IMAGES).init(random.key(0)), "head": conjugate_classification(10, 32).init(random.key(0))}
    assert 7681 < len(int8().encode(strategy, None)) <= 7681 + 70
