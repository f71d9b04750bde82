"""A site under secure aggregation: its clients' messages become one vector of integers, of which nobody sees more than the sum with other sites'.

The sites are the protocol's parties: a site adds its clients' vectors first. It trains when it is invited, so that a site that cannot train is gone
before a mask depends on it. What it needs for the phases to come is on its disk before a reply leaves, in a file for its owner alone, since secrets
are in it; so a site may be killed at any moment, and the same request gets the same bytes. The newest round takes the older one's place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabayfl import storage, tree, tree_file
from metabayfl.engine import cohort, pipeline, secure
from metabayfl.engine.pipeline import Pipeline
from metabayfl.engine.rounds import round_key
from metabayfl.errors import ArtifactError, ConfigError, FederationError, QuorumError
from metabayfl.flower import masked, records, store
from metabayfl.flower.node_config import Site
from metabayfl.flower.records import Record, as_array, record
from metabayfl.flower.site_training import DIVERGED, Asked, finite_message, named, run_of, strategy_of
from metabayfl.privacy.secure_aggregation import Terms, client, fixed_point, packing
from metabayfl.privacy.secure_aggregation import records as states
from metabayfl.privacy.secure_aggregation.messages import Header, unseal
from metabayfl.study import Run
from metabayfl.types import Message, Tree

log = logging.getLogger(__name__)

_MANY = "it brings more samples than secure.most_samples, or a number out of its range; the site's log says which"


class Share(NamedTuple):
    """What a site adds to a masked sum."""

    work: str  # digest of the request that it was made for
    terms: Terms
    vector: bytes  # uint64 (L,), little-endian
    clients: tuple[str, ...]  # whose messages are in it
    failed: dict[str, str]  # why others are not


class Seat(NamedTuple):
    """What a site keeps of the newest round that it takes part in."""

    round: int
    sessions: tuple[bytes, ...]  # of this round, the newest last
    share: Share
    state: bytes  # the protocol's own


class Guarded(NamedTuple):
    """A site's messages of one round, clipped, and ready for every pass of the combine."""

    messages: Message  # with a leading axis C
    keys: Tensor  # (C,)
    clients: tuple[str, ...]
    failed: dict[str, str]


def answer(site: Site, request: Record, understood: Callable[[], Asked]) -> Record:
    """The reply in one phase of a masked sum.

    Args:
        site: this one.
        request: of one of :data:`~metabayfl.flower.records.SECURE`.
        understood: reads the site's data, which only a new invitation needs.

    Raises:
        FederationError: if the request is damaged, foreign, replayed, of a session that is over, or there is nothing to add to the sum.
        StorageError: if the state could not be kept; then nothing is sent.
    """
    with store.alone(site.folder, request.header.experiment):
        return _answer(site, request, understood)


def _answer(site: Site, request: Record, understood: Callable[[], Asked]) -> Record:
    path = store.seat_path(site.folder, request.header.experiment)
    sealed, kept = _message(request), _kept(path)
    with _told():
        asked = unseal(sealed)[0]
    _check_turn(kept, request, asked)
    seat = _seated(kept, request, asked, understood)
    with _told():
        state = client.from_bytes(seat.state) if seat.state else None
        state, reply = client.answer(state, sealed, site.name, seat.share.terms, lambda: np.frombuffer(seat.share.vector, "<u8").astype(np.uint64))
    store.keep_secret(path, states.to_bytes(seat._replace(state=client.to_bytes(state))))
    words = {"clients": list(seat.share.clients), "failed": seat.share.failed} if asked.phase == "advertise" else {}
    return record(request.header, words, {masked.MESSAGE: as_array(reply)}, {"clients": len(seat.share.clients)})


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors of the protocol speak of its messages alone, so the server may hear them."""
    try:
        yield
    except (ArtifactError, QuorumError) as error:
        raise FederationError(str(error)) from error


def _message(request: Record) -> bytes:
    found = request.arrays.get(masked.MESSAGE, torch.zeros(0, dtype=torch.uint8))
    if found.dtype != torch.uint8 or found.ndim != 1:
        raise FederationError(f"a message of secure aggregation is {found.dtype} {list(found.shape)}, expected bytes: install the same metabayfl")
    return found.numpy().tobytes()


def _kept(path: Path) -> Seat | None:
    try:
        return states.from_bytes(Seat, storage.read_bytes(path)) if path.exists() else None
    except ArtifactError as error:
        log.error("%s is damaged (%s): delete it, and this site takes part again from the next session on", path, error)
        raise FederationError("what this site kept of its round is damaged; its log says where") from error


def _check_turn(kept: Seat | None, request: Record, asked: Header) -> None:
    """Refuse what belongs to another round, or to a session that was left."""
    if (asked.phase, asked.round) != (request.header.phase, request.header.round):
        raise FederationError(
            f"a request of phase {request.header.phase!r}, round {request.header.round} holds a message of another: it was not answered"
        )
    if kept is not None and request.header.round < kept.round:
        raise FederationError(
            f"{asked.phase} of round {asked.round} was asked for, but this site is in round {kept.round}: the request was replayed, or the server "
            "went back; restore its checkpoint, or start a new experiment"
        )
    if kept is not None and request.header.round == kept.round and asked.session in kept.sessions[:-1]:
        raise FederationError(
            f"session {asked.session.hex()} of round {asked.round} is over at this site: the request was replayed, and not answered"
        )


def _seated(kept: Seat | None, request: Record, asked: Header, understood: Callable[[], Asked]) -> Seat:
    """The seat in which the request is answered: a new one for an invitation to a session that is not known yet."""
    here = kept is not None and kept.round == asked.round
    if kept is not None and here and (asked.phase != "advertise" or asked.session == kept.sessions[-1]):
        return kept
    if asked.phase != "advertise":
        raise FederationError(f"{asked.phase} of round {asked.round} was asked for, and this site was not invited to it: invite it in a new session")
    work = records.digest(_without_message(request))
    share = kept.share if kept is not None and kept.share.work == work else _share(understood(), work)
    return Seat(asked.round, (*(kept.sessions if kept is not None and here else ()), asked.session), share, b"")


def _without_message(request: Record) -> Record:
    return request._replace(arrays={name: value for name, value in request.arrays.items() if name != masked.MESSAGE})


def _share(asked: Asked, work: str) -> Share:
    """Train, clip, encode and add up."""
    run, counts = run_of(asked), masked.counts_of(asked.request)
    meta = strategy_of(asked, run)
    first = masked.site_steps(run.options, counts, meta, round_key(run.seed, asked.request.header.round))
    taken = masked.around(first, masked.centre_of(asked.request, meta))
    secured = masked.secured(taken)
    own = _guarded(asked, run, first, cohort.by_columns(meta))
    vectors, failed = dict[str, NDArray[np.uint64]](), dict(own.failed)
    for row, name in enumerate(own.clients):
        try:
            vectors[name] = secure.vector(secured, taken.combine, _single(own.messages, row), own.keys[row], counts.clients)
        except (ArtifactError, ConfigError) as error:
            log.error("site %s, client %s in round %d: %s", asked.site.name, name, asked.request.header.round, error)
            failed[name] = _MANY
    if not vectors:
        raise _nothing(failed)
    how = secure.encoding(secured, taken.combine, taken.combine.partial(_single(own.messages, 0)), counts.clients)
    terms = masked.terms(how, masked.common_part(asked.request), secured.options)
    total = np.add.reduce(list(vectors.values())) & packing.largest(fixed_point.modulus_bits(how))
    return Share(work, terms, total.astype("<u8").tobytes(), tuple(vectors), failed)


def _single(messages: Message, row: int) -> Message:
    own = slice(row, row + 1)
    metrics = {name: value[own] for name, value in messages.metrics.items()}
    return Message(tree.map(lambda leaf: leaf[own], messages.update), messages.weight[own], metrics)


def _guarded(asked: Asked, run: Run, first: Pipeline, meta: Tree) -> Guarded:
    """The messages of a round; where the combine takes several passes they are kept for the next ones, which no training repeats."""
    if first.combine.passes == 1:
        return _trained(asked, run, first, meta)
    path = store.messages_path(asked.site.folder, asked.request.header.experiment)
    arrays = {"strategy": asked.request.arrays["strategy"]}
    work = records.digest(_without_message(asked.request)._replace(arrays=arrays))
    if path.exists():
        numbers, about = tree_file.load_tree(path, kind="messages")
        if about["work"] == work:
            messages = Message(numbers["update"], numbers["weight"], numbers["metrics"])
            return Guarded(messages, numbers["keys"], tuple(about["clients"]), about["failed"])
    made = _trained(asked, run, first, meta)
    about = {"work": work, "clients": list(made.clients), "failed": made.failed}
    store.keep_secret(path, tree_file.to_bytes({**made.messages._asdict(), "keys": made.keys}, about, kind="messages"))
    return made


def _trained(asked: Asked, run: Run, first: Pipeline, meta: Tree) -> Guarded:
    done, keys, names, failed = list[Message](), list[Tensor](), list[str](), dict[str, str]()
    states = pipeline.begin(first, meta)
    for name in named(asked):
        try:
            message, key = finite_message(asked, run, meta, name)
        except ArtifactError as error:
            log.error("site %s, client %s in round %d: %s", asked.site.name, name, asked.request.header.round, error)
            failed[name] = DIVERGED
            continue
        sent = message._replace(update=run.algorithm.up.round_trip(message.update, cohort.upload_key(key)))
        with torch.no_grad():
            done.append(pipeline.on_messages(first, states, cohort.stack([sent]), key[None]))
        keys.append(key)
        names.append(name)
    if not names:
        raise _nothing(failed)
    return Guarded(cohort.concatenate(done), torch.stack(keys), tuple(names), failed)


def _nothing(failed: dict[str, str]) -> FederationError:
    return FederationError(f"none of its clients has something to add to the sum: {'; '.join(sorted(set(failed.values()))) or 'none was named'}")
