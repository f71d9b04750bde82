"""What a training run may be told; the defaults are a small simulation."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch

from metabayfl.aggregators import COMBINES, DefenceOptions, require_cohort
from metabayfl.attacks import ATTACKS, AttackOptions
from metabayfl.engine.asynchronous import AsynchronousOptions
from metabayfl.engine.population import PopulationOptions
from metabayfl.engine.sampling import SAMPLERS
from metabayfl.errors import ConfigError, unknown


@dataclass(frozen=True)
class TrainOptions:
    """How the engine runs a federation.

    Attributes:
        rounds: communication rounds at most.
        cohort: clients a round.
        sampler: which clients take part: ``uniform``, ``size`` or ``diverse``.
        weighting: how messages count: ``examples`` or ``uniform``.
        support_share: share of a training client's samples that is the support set of its task; the split is drawn anew every round.
        task_samples: a training client brings at most this many samples to a round, drawn anew each time; 0 for all. Set it near the number that new
            clients will have where training clients have many more.
        validate_every: rounds between two looks at the validation clients; 0 never looks, and the last strategy is kept.
        patience: looks without a better loss after which the run stops; 0 never stops early. The best strategy seen is kept either way.
        checkpoint_every: rounds between two checkpoints.
        chunk: clients in one vectorised call; 0 chooses by the model's size.
        vectorise: ``False`` runs one client at a time, with the same numbers.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        defence: how hostile clients' messages are withstood; none by default.
        attack: which training clients are hostile and what they do, to try a defence in simulation.
        population: how training clients come and go; everyone is there unless said.
        asynchronous: how the server works without rounds; it works in rounds unless said.
    """

    rounds: int = 100
    cohort: int = 10
    sampler: str = "uniform"
    weighting: str = "examples"
    support_share: float = 0.5
    task_samples: int = 0
    validate_every: int = 10
    patience: int = 0
    checkpoint_every: int = 10
    chunk: int = 0
    vectorise: bool = True
    device: str = "cpu"
    defence: DefenceOptions | None = None
    attack: AttackOptions | None = None
    population: PopulationOptions = field(default_factory=PopulationOptions)
    asynchronous: AsynchronousOptions | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise unknown("sampler", self.sampler, SAMPLERS)
        if self.weighting not in COMBINES:
            raise unknown("weighting", self.weighting, COMBINES)
        _check_device(self.device)
        if not 0.0 < self.support_share < 1.0:
            raise ConfigError(f"support_share is {self.support_share}, expected a share between 0 and 1, such as 0.5")
        for name in ("cohort", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("rounds", "task_samples", "validate_every", "patience", "chunk"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.defence is not None:
            require_cohort(self.defence, self.cohort)
        if self.attack is not None and self.attack.name not in ATTACKS:
            raise unknown("attack", self.attack.name, ATTACKS)
        _check_turnout(self)


def _check_turnout(options: TrainOptions) -> None:
    if options.sampler == "poisson" and (options.asynchronous or options.population.overselect > 1.0):
        raise ConfigError("sampler is 'poisson', which has no fixed cohort: leave out asynchronous and overselect, or choose another sampler")
    if options.asynchronous and options.population.overselect > 1.0:
        raise ConfigError("overselect fills the cohorts of rounds, and asynchronous has none: raise concurrency instead")


def _check_device(name: str) -> None:
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if found is None:
        raise ConfigError(f"device is {name!r}, expected 'cpu', 'cuda' or such as 'cuda:1'")
    if name != "cpu" and int(found[1] or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices here: choose 'cpu' or another one")
