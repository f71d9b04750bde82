"""Every algorithm, by name."""

from __future__ import annotations

from collections.abc import Callable

from metabayfl.algorithms.fed_opt import fedadagrad, fedadam, fedyogi
from metabayfl.algorithms.fedavg import fedavg
from metabayfl.algorithms.fedprox import fedprox
from metabayfl.algorithms.fine_tuning import fedavg_ft, fedavg_head_ft
from metabayfl.algorithms.local import local
from metabayfl.algorithms.maml import maml
from metabayfl.algorithms.mean_field import mean_field
from metabayfl.algorithms.meta_bayfl import meta_bayfl
from metabayfl.algorithms.meta_bayfl_published import meta_bayfl_published
from metabayfl.algorithms.meta_sgd import meta_sgd
from metabayfl.algorithms.per_fedavg import per_fedavg
from metabayfl.algorithms.reptile import reptile
from metabayfl.types import Algorithm

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "local": local,
    "fedavg": fedavg,
    "fedprox": fedprox,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "fedadagrad": fedadagrad,
    "fedavg_ft": fedavg_ft,
    "fedavg_head_ft": fedavg_head_ft,
    "maml": maml,
    "meta_sgd": meta_sgd,
    "meta_bayfl": meta_bayfl,
    "per_fedavg": per_fedavg,
    "reptile": reptile,
    "mean_field": mean_field,
    "meta_bayfl_published": meta_bayfl_published,
}
