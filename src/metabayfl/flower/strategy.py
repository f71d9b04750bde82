"""The coordinator as a Strategy of Flower's, with its own ``start``; Flower's word: ours for what clients download is the artifact.

``start`` has what Flower's own loop lacks: quorum, deadlines, resending, checkpoints. The four abstract methods are the same round cut where
Flower's loop wants it cut, for those who need that loop: one try per round, no checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from metabayfl import tree
from metabayfl.engine import pipeline
from metabayfl.engine.rounds import TrainState, begin, looks, mean_loss, round_key, server_step
from metabayfl.errors import ConfigError
from metabayfl.flower import closing, codec
from metabayfl.flower import round as one_round
from metabayfl.flower.acceptance import Heard
from metabayfl.flower.coordinator import Info, Job, federate, opened
from metabayfl.flower.flower_transport import Clock, FlowerTransport, incoming, outgoing
from metabayfl.flower.members import Members
from metabayfl.flower.network import Replies, Requests, Unreachable
from metabayfl.flower.round import Cohort, Setting

log = logging.getLogger(__name__)


class FederatedStrategy(Strategy):  # type: ignore[misc]  # Flower's types are not read
    """One run of a server.

    Args:
        job: the plan, where to write, and how long to wait.
        clock: for tests; the real one unless given.
    """

    def __init__(self, job: Job, clock: Clock | None = None) -> None:
        self.job = job
        self._clock = clock
        self._open: tuple[Members, Setting] | None = None
        self._state: TrainState | None = None
        self._asked: tuple[Cohort, Requests] | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        **others: object,
    ) -> Result:
        """Run or go on with the federation; the strategy and all records of it are in ``job.out``.

        Raises:
            ConfigError: for arguments of Flower's loop that the plan decides here.
            FederationError: if too few sites or clients answered in time; the checkpoint is kept.
        """
        given = [name for name, value in {"initial_arrays": initial_arrays, "num_rounds": num_rounds, **others}.items() if value]
        if given:
            raise ConfigError(f"start was given {', '.join(given)}: the plan decides the beginning, the rounds and the time limits")
        result, steps = Result(), federate(self.job, FlowerTransport(grid, self._clock))
        for state, info in steps:
            log.info("round %d: loss %s, %d clients, skipped %s", info.round, info.loss, info.clients, info.skipped or "none")
            result.train_metrics_clientapp[info.round] = _metrics(info)
            result.arrays = _arrays(state)
        return result

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Requests to the cohort's sites that are connected; ``arrays`` are this object's own state and are not looked at."""
        members, setting = self._opened(grid)
        if setting.run.options.secure is not None or setting.run.options.asynchronous is not None:
            raise ConfigError("Flower's own loop has rounds of one phase, and secure or asynchronous aggregation has not: call this strategy's start")
        state = self._current(setting)
        drawn = one_round.draw(setting.run, members.registry, state.round)
        requests = one_round.train_requests(setting, drawn, state)
        self._asked = drawn, requests
        return self._messages(members, requests)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The server's step on what came; nothing if that is too little."""
        members, setting = self._ready()
        assert self._asked is not None, "configure_train comes first"
        drawn, requests = self._asked
        heard = one_round.hear_all(setting, members.registry, requests, drawn, _sorted(members, requests, replies))
        if len(heard.messages) < min(setting.quorum, len(drawn.ids)):
            log.warning("round %d is left out: %s", server_round, heard.skipped)
            return None, None
        self._state, metrics = _stepped(setting, self._current(setting), drawn, heard)
        return _arrays(self._state), metrics

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Requests to the sites of validation clients, in rounds that look."""
        members, setting = self._opened(grid)
        state = self._current(setting)
        return self._messages(members, closing.validation_requests(setting, members, state) if looks(setting.run.options, state.round) else {})

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean loss of the validation clients, if all answered."""
        members, setting = self._ready()
        requests = closing.validation_requests(setting, members, self._current(setting))
        loss, missing = closing.validation_mean(requests, _sorted(members, requests, replies))
        return None if loss is None or missing or not requests else MetricRecord({"loss": loss})

    def summary(self) -> None:
        """Say what is about to run."""
        plan, options = self.job.plan, self.job.options
        log.info("%s with %s, seed %d, %d sites or more, quorum %d", plan.config.name, plan.algorithm, plan.seed, options.sites, options.quorum)

    def _opened(self, grid: Grid) -> tuple[Members, Setting]:
        if self._open is None:
            self._open = opened(self.job, FlowerTransport(grid, self._clock))
        return self._open

    def _ready(self) -> tuple[Members, Setting]:
        assert self._open is not None, "configure_train comes first"
        return self._open

    def _current(self, setting: Setting) -> TrainState:
        return begin(setting.run.algorithm, setting.run.options, setting.run.seed) if self._state is None else self._state

    def _messages(self, members: Members, requests: Requests) -> list[Message]:
        places, seconds = members.places(), self.job.options.patience.reply
        return [outgoing(places[site], request, seconds) for site, request in requests.items() if site in places]


def _sorted(members: Members, requests: Requests, replies: Iterable[Message]) -> Replies:
    """Flower's replies by site."""
    sites = {node: site for site, node in members.places().items()}
    found = {sites[message.metadata.src_node_id]: incoming(message) for message in replies if message.metadata.src_node_id in sites}
    records = {site: reply for site, reply in found.items() if not isinstance(reply, Unreachable) and site in requests}
    failed = {site: reply.reason for site, reply in found.items() if isinstance(reply, Unreachable)}
    return Replies(records, {site: failed.get(site, "it did not answer") for site in requests if site not in records})


def _stepped(setting: Setting, state: TrainState, drawn: Cohort, heard: Heard) -> tuple[TrainState, MetricRecord]:
    run, steps = setting.run, pipeline.build(setting.run.options)
    aggregate = one_round.aggregate(setting, steps, state, drawn, heard)
    loss, examples = mean_loss(aggregate)
    metrics = MetricRecord({"num-examples": examples, **({} if loss is None else {"loss": loss})})
    return server_step(run.algorithm, steps, state, aggregate, round_key(run.seed, state.round)), metrics


def _metrics(info: Info) -> MetricRecord:
    values = {"num-examples": info.examples, "clients": info.clients, "loss": info.loss, "validation": info.validation}
    return MetricRecord({name: value for name, value in values.items() if value is not None})


def _arrays(state: TrainState) -> ArrayRecord:
    return codec.array_record(tree.flatten(state.server.meta))
