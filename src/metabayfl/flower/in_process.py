"""The same apps without processes: a grid that calls each site's app where a message is sent, for rehearsals and tests.

Every message goes through Flower's own serialisation both ways. Time stands still but for what is slept, so that a deadline costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from metabayfl.artifact import Strategy, load_strategy
from metabayfl.flower.client_app import client_app
from metabayfl.flower.coordinator import Job
from metabayfl.flower.flower_transport import Clock
from metabayfl.flower.node_config import Site, to_node
from metabayfl.flower.server_app import server_app
from metabayfl.flower.telling import STRATEGY

App = Callable[[Message, Context], Message]

SERVER = 1
"""The server's own node id, as Flower has it."""


class InProcessGrid(Grid):  # type: ignore[misc]  # Flower's types are not read
    """Sites as calls.

    Args:
        apps: a site's app by node id.
        configs: each node's own config.
        names: under which nodes are registered; empty texts unless given.
    """

    def __init__(self, apps: Mapping[int, App], configs: Mapping[int, Mapping[str, Any]], names: Mapping[int, str] | None = None) -> None:
        self.apps = dict(apps)
        self._configs, self._names = configs, names or {}
        self._replies: dict[str, bytes] = {}
        self._sent, self._time = 0, 0.0
        self._run: Run | None = None
        self.clock = Clock(lambda: self._time, self._pass)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SERVER, 1  # as Flower's runtime does for a server's process

    def _pass(self, seconds: float) -> None:
        self._time += seconds

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run, if one was set."""
        return self._run

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None) -> Message:
        """A message, as Flower's constructor makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Nodes in order."""
        return sorted(self.apps)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Nodes with their names."""
        return [NodeInfo(node_id=node, name=self._names.get(node, "")) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Call the apps now and keep their replies."""
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self._sent += 1
        ticket = f"message-{self._sent}"
        message.metadata.__dict__["_message_id"] = ticket
        reply = self._reply(message_from_proto(message_to_proto(message)))
        self._replies[ticket] = message_to_proto(reply).SerializeToString()
        return ticket

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = Context(1, node, dict(self._configs.get(node, {})), RecordDict(), {})
        try:
            return self.apps[node](message, context)
        except Exception as error:  # what Flower's runtime makes of an exception
            return Message(Error(code=2, reason=f"{type(error).__name__}: {error}"), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages, each once."""
        return [message_from_proto(ProtoMessage.FromString(self._replies.pop(ticket))) for ticket in message_ids if ticket in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push and pull at once."""
        return self.pull_messages(self.push_messages(messages))


def grid_of(sites: Sequence[Site]) -> InProcessGrid:
    """A grid of these sites, node ids from 2."""
    app = client_app()
    configs = {SERVER + 1 + at: to_node(site) for at, site in enumerate(sites)}
    return InProcessGrid(dict.fromkeys(configs, app), configs, {node: str(config["site"]) for node, config in configs.items()})


def run_on(grid: InProcessGrid, job: Job) -> Strategy:
    """Run a job's server app on a grid; returns the strategy that ``job.out`` then holds."""
    server_app(lambda context: job, grid.clock)(grid, Context(1, SERVER, {}, RecordDict(), {}))
    return load_strategy(job.out / STRATEGY)


def rehearse(job: Job, sites: Sequence[Site]) -> Strategy:
    """Run a job with all its sites in this process."""
    return run_on(grid_of(sites), job)
