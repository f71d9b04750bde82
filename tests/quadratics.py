"""Problems whose meta-gradient is known on paper, as models: quadratics with given Hessians, and a smooth net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from metabayfl import random, tree
from metabayfl.losses import CATEGORICAL
from metabayfl.models.model import assemble, layer
from metabayfl.types import Batch, Likelihood, Model, Task, Tree

# The outputs are already the losses, so the targets go unused.
IDENTITY = Likelihood("regression", lambda outputs, y: outputs.squeeze(-1), CATEGORICAL.predict, CATEGORICAL.predict_samples)


def vector(params: Tree) -> Tensor:
    """All weights as one vector ``(P,)``."""
    return torch.cat([leaf.flatten() for leaf in tree.leaves(params)])


def params_of(values: Tensor) -> Tree:
    """The inverse of :func:`vector` for the quadratic model."""
    return {"body": {"w": values[:-1]}, "head": {"bias": values[-1:]}}


def quadratic_model(size: int) -> Model:
    """A model of ``P`` weights whose loss on an example ``x = (A, b)`` is ``1/2 (w - b)' A (w - b)``."""

    def apply(params: Tree, x: Tensor, key: Tensor | None) -> Tensor:
        A, b = x[:, : size**2].view(-1, size, size), x[:, size**2 :]
        gap = vector(params) - b
        return 0.5 * torch.einsum("np,npq,nq->n", gap, A, gap).unsqueeze(-1)

    return Model(
        name="quadratic",
        kind="regression",
        outputs=1,
        width=size,
        init=lambda key: params_of(random.normal(key, (size,), torch.float64)),
        features=lambda body, x, key: x,
        apply=apply,
        dense=None,
        likelihood=IDENTITY,
        head=lambda head, features: features,
    )


def quadratic_batch(matrices: Sequence[Tensor], centres: Sequence[Tensor]) -> Batch:
    """Examples ``(A_n, b_n)``: the mean loss is the quadratic of the means."""
    x = torch.stack([torch.cat([A.flatten(), b]) for A, b in zip(matrices, centres, strict=True)])
    return Batch(x, torch.zeros(len(x), 1, dtype=x.dtype), torch.ones(len(x), dtype=x.dtype))


def hessian(size: int, seed: int, least: float = 0.3, most: float = 1.5) -> Tensor:
    """A symmetric matrix with eigenvalues between ``least`` and ``most``."""
    root, _ = torch.linalg.qr(random.normal(random.key(seed), (size, size), torch.float64))
    return root @ torch.diag(torch.linspace(least, most, size, dtype=torch.float64)) @ root.T


def centre(size: int, seed: int) -> Tensor:
    """A vector ``(P,)``."""
    return random.normal(random.key(1000 + seed), (size,), torch.float64)


def quadratic_task(size: int, seed: int) -> tuple[Task, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """One client with a support quadratic and another query quadratic, and ``A, b, A_query, b_query``."""
    A, b, Aq, bq = hessian(size, 2 * seed), centre(size, 2 * seed), hessian(size, 2 * seed + 1), centre(size, 2 * seed + 1)
    return Task(quadratic_batch([A], [b]), quadratic_batch([Aq], [bq])), (A, b, Aq, bq)


def smooth_model(inputs: int = 4, hidden: int = 6, classes: int = 3, dropout: float = 0.0) -> Model:
    """An ``inputs - hidden - classes`` net with tanh, so that every derivative exists, and dropout on its inputs."""

    def features(body: Tree, x: Tensor, key: Tensor | None) -> Tensor:
        return linear(random.dropout(x, key, dropout), body["dense"]["weight"], body["dense"]["bias"])

    return assemble(
        "smooth",
        "classification",
        classes,
        hidden,
        lambda key: {"dense": layer(key, (hidden, inputs))},
        features,
        dense=None,
        activation=torch.tanh,
    )


def class_batch(seed: int, count: int, inputs: int = 4, classes: int = 3, dtype: torch.dtype = torch.float64) -> Batch:
    """Gaussian inputs with random labels."""
    x = random.normal(random.key(seed), (count, inputs), dtype)
    y = (random.uniform(random.key(seed + 1), (count,)) * classes).long()
    return Batch(x, y, torch.ones(count, dtype=dtype))


def distance(a: Tree, b: Tree) -> float:
    """The largest difference between two trees."""
    return max(float((left - right).abs().max()) for left, right in zip(tree.leaves(a), tree.leaves(b), strict=True))
