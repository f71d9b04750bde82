"""What the server makes of a site's reply: every message is decoded against what it must be, or left out with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import random, tree_file
from metabayfl.errors import ArtifactError, FederationError
from metabayfl.flower.records import REASON, REFUSED, Header, Record, check_header
from metabayfl.flower.registry import Registry
from metabayfl.study import Run
from metabayfl.types import Batch, Message, Task


class Heard(NamedTuple):
    """Messages by client, and for each client without one the reason."""

    messages: dict[str, Message]
    skipped: dict[str, str]


def template(run: Run) -> Message:
    """A message of the run's algorithm: its structure, shapes and types, made from two samples of zeros."""
    schema = run.federation.schema
    y = torch.zeros(2, dtype=torch.int64) if schema.kind == "classification" else torch.zeros(2, schema.outputs)
    batch = Batch(torch.zeros(2, *schema.input_shape), y, torch.ones(2))
    with torch.no_grad():
        return run.algorithm.client(run.algorithm.init(random.key(0)), Task(batch, batch), random.key(0))


def check_reply(reply: Record, asked: Header) -> None:
    """Refuse a reply that is a refusal, or belongs elsewhere.

    Raises:
        FederationError: with the site's own reason where it gave one.
    """
    check_header(reply.header, asked)
    if REFUSED in reply.body:
        raise FederationError(f"{_word(reply, REFUSED)}: {_word(reply, REASON)}")


def _word(reply: Record, name: str) -> str:
    value = reply.body.get(name)
    return value[:500] if isinstance(value, str) else "no reason given"


def hear(run: Run, registry: Registry, asked: Header, wanted: Sequence[str], reply: Record, like: Message) -> Heard:
    """The messages of the clients that one site was asked for.

    Raises:
        FederationError: if the reply as a whole cannot be used.
    """
    check_reply(reply, asked)
    done, failed = reply.body.get("clients"), reply.body.get("failed")
    if not isinstance(done, list) or not isinstance(failed, dict):
        raise FederationError("the reply names no clients: install the same metabayfl there")
    if len(set(map(str, done))) != len(done) or not set(map(str, done)) <= set(wanted):
        raise FederationError("the reply names a client twice, or one that was not asked: all of it is left out")
    found, skipped = dict[str, Message](), dict[str, str]()
    for name in wanted:
        try:
            found[name] = _message(run, registry[name].samples, _parts(reply, done.index(name)), like) if name in done else _missing(failed.get(name))
        except (ArtifactError, FederationError) as error:
            skipped[name] = str(error)
    return Heard(found, skipped)


def _missing(reason: object) -> Message:
    raise FederationError(reason[:500] if isinstance(reason, str) else "its site sent no message of it")


def _parts(reply: Record, index: int) -> dict[str, Tensor]:
    begin = f"{index}/"
    return {name.removeprefix(begin): value for name, value in reply.arrays.items() if name.startswith(begin)}


def _message(run: Run, samples: int, parts: dict[str, Tensor], like: Message) -> Message:
    """Decode one client's message and check all that can be known of it."""
    expected = {"weight": like.weight, **{f"metrics/{name}": value for name, value in like.metrics.items()}}
    if parts.keys() != {"update", *expected} or parts["update"].dtype != torch.uint8 or parts["update"].ndim != 1:
        raise FederationError(f"its message has the parts {sorted(parts)}, expected update, {', '.join(sorted(expected))}")
    for name, value in expected.items():
        if parts[name].shape != value.shape or parts[name].dtype != value.dtype or not torch.isfinite(parts[name]).all():
            raise FederationError(f"{name} of its message is {parts[name].dtype} {list(parts[name].shape)} or not finite, expected {value.dtype}")
    update = run.algorithm.up.decode(parts["update"].numpy().tobytes(), like.update)
    tree_file.require_finite(update, "its update")
    if not 0.0 <= float(parts["weight"]) <= samples:
        raise FederationError(f"its message speaks for {float(parts['weight']):g} samples, but it enrolled with {samples}")
    return Message(update, parts["weight"], {name: parts[f"metrics/{name}"] for name in like.metrics})
