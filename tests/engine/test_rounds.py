"""Training: stateless in (seed, round), early stopping on validation clients, and a clear end when numbers run away."""

from __future__ import annotations

import itertools

import pytest
import torch

from metabayfl import tree
from metabayfl.algorithms import ALGORITHMS
from metabayfl.data import Federation
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.rounds import TrainState, begin, rounds
from metabayfl.errors import ConfigError, MetabayflError
from metabayfl.models import mlp
from metabayfl.types import Algorithm


@pytest.fixture
def algorithm() -> Algorithm:
    built = ALGORITHMS["fedavg"](mlp((4,), 3, hidden=(6,)))
    return built._replace(init=lambda key: tree.to(mlp((4,), 3, hidden=(6,)).init(key), torch.float64))


def _last(algorithm: Algorithm, federation: Federation, options: TrainOptions, seed: int = 0, state: TrainState | None = None) -> TrainState:
    states = [state for state, _ in rounds(algorithm, federation, options, seed, state)]
    return states[-1]


def _same(a: TrainState, b: TrainState) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a.server.meta), tree.leaves(b.server.meta), strict=True))


def test_stopping_and_going_on_gives_the_same_bits(algorithm: Algorithm, federation: Federation) -> None:
    options = TrainOptions(rounds=6, cohort=3, validate_every=2)
    halfway = next(itertools.islice(rounds(algorithm, federation, options, 0), 2, None))[0]
    whole, resumed = _last(algorithm, federation, options), _last(algorithm, federation, options, state=halfway)
    assert _same(whole, resumed)
    assert (whole.best_round, whole.best_loss, whole.stalled) == (resumed.best_round, resumed.best_loss, resumed.stalled)


def test_the_seed_decides_everything(algorithm: Algorithm, federation: Federation) -> None:
    options = TrainOptions(rounds=2, cohort=3)
    assert _same(_last(algorithm, federation, options), _last(algorithm, federation, options))
    assert not _same(_last(algorithm, federation, options), _last(algorithm, federation, options, seed=1))


def test_training_learns_and_keeps_the_best_on_validation(algorithm: Algorithm, federation: Federation) -> None:
    looks = [info.validation for _, info in rounds(algorithm, federation, TrainOptions(rounds=12, cohort=8, validate_every=3), 0)]
    losses = [look for look in looks if look is not None]
    state = _last(algorithm, federation, TrainOptions(rounds=12, cohort=8, validate_every=3))
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert state.best_loss == min(losses)


def test_patience_stops_the_run(algorithm: Algorithm, federation: Federation) -> None:
    still = algorithm._replace(server=lambda state, aggregate: state)
    state = _last(still, federation, TrainOptions(rounds=50, cohort=2, validate_every=1, patience=3))
    assert state.round == 4
    assert state.best_round == 1


def test_without_validation_the_last_strategy_is_kept(algorithm: Algorithm, federation: Federation) -> None:
    state = _last(algorithm, federation, TrainOptions(rounds=3, cohort=2, validate_every=0))
    assert state.best_round == 3


def test_an_algorithm_without_communication_runs_no_round(federation: Federation) -> None:
    local = ALGORITHMS["local"](mlp((4,), 3, hidden=(6,)))
    assert list(rounds(local, federation, TrainOptions(rounds=5), 0)) == []
    assert begin(local, TrainOptions(), 0).round == 0


def test_a_loss_that_runs_away_says_so(federation: Federation) -> None:
    wild = ALGORITHMS["fedavg"](mlp((4,), 3, hidden=(6,)), client_lr=1e30)
    wild = wild._replace(init=lambda key: tree.to(mlp((4,), 3, hidden=(6,)).init(key), torch.float64))
    with pytest.raises(MetabayflError, match="lower its learning rates"):
        _last(wild, federation, TrainOptions(rounds=5, cohort=2, validate_every=0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampler": "unifrom"}, "did you mean 'uniform'"),
        ({"weighting": "size"}, "unknown weighting"),
        ({"support_share": 1.0}, "support_share"),
        ({"cohort": 0}, "cohort is 0"),
        ({"rounds": -1}, "rounds is -1"),
    ],
)
def test_options_refuse_what_makes_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainOptions(**wrong)  # type: ignore[arg-type]
