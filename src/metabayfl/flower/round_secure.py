"""A training round under secure aggregation: the server learns the sum of the cohort's messages, and of no site what it added.

A round is a session of the protocol with four phases, or one such session for every pass of the combine. The sites are the parties. What the server
knows between two phases lies beside its checkpoint before it asks anybody, so a server that was killed goes on in the same session. Where too few
sites are left, nothing was revealed, and all sites of the cohort are asked once more in a new session with new keys.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Generator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from metabayfl import tree_file
from metabayfl.engine import cohort, pipeline, private, secure
from metabayfl.engine.pipeline import Pipeline
from metabayfl.engine.rounds import TrainState, nobody, round_key
from metabayfl.errors import ArtifactError, FederationError, QuorumError
from metabayfl.flower import masked
from metabayfl.flower.acceptance import check_reply
from metabayfl.flower.masked import MESSAGE, Counts
from metabayfl.flower.network import Ask, Replies, Requests
from metabayfl.flower.records import Header, Record, as_array, record
from metabayfl.flower.registry import Registry
from metabayfl.flower.round import Cohort, Gathered, Round, Setting, cohort_of, draw, no_quorum, strategy_array
from metabayfl.privacy.secure_aggregation import Encoding, ServerState, Terms, fixed_point, server
from metabayfl.types import Aggregate, Tree

log = logging.getLogger(__name__)

FILE, _KIND = "secure_round.safetensors", "secure round"


class Secret(NamedTuple):
    """What stays the same from round to round."""

    setting: Setting
    steps: Pipeline
    population: int  # training clients
    shares: int  # clients whose noise privacy counts on; 0 where the server adds it, or there is none
    out: Path


class Turn(NamedTuple):
    """One pass of a round, which is one sum."""

    drawn: Cohort
    steps: Pipeline  # of this pass
    place: int  # among the passes
    centre: Tree | None  # what the last pass found
    common: Record  # what all sites are asked alike
    how: Encoding
    like: Tree  # a part, for its shapes and types


class Session(NamedTuple):
    """Where the server stands in a pass."""

    attempt: int
    protocol: ServerState
    told: dict[str, list[str]]  # by site, the clients whose messages it adds
    failed: dict[str, str]  # clients that their own site left out
    lost: dict[str, str]  # sites that dropped out, and why


class Kept(NamedTuple):
    """What a server that was killed finds."""

    drawn: Cohort
    place: int
    centre: Tree | None
    session: Session


Summing: TypeAlias = Generator[Ask, Replies, Session]


def in_secret(secret: Secret, registry: Registry, state: TrainState) -> Round:
    """A round, or what is left of one.

    Raises:
        FederationError: if no sum of enough clients came about in any session.
    """
    kept = _found(secret, registry, state)
    drawn = draw(secret.setting.run, registry, state.round) if kept is None else kept.drawn
    if len(drawn.owners) < 2:
        alone = "a sum over one site would be its own message: its clients are left out of this round"
        return Gathered(nobody(secret.steps.combine, state.server.meta), 0, dict.fromkeys(drawn.ids, alone))
    if len(drawn.ids) < secret.shares:
        raise FederationError(
            f"round {state.round + 1}: {len(drawn.ids)} clients were drawn, and privacy counts on the noise of {secret.shares}: lower answering"
        )
    key = round_key(secret.setting.run.seed, state.round)
    first = pipeline.drawn(secret.steps, key)
    place, centre = (0, None) if kept is None else (kept.place, kept.centre)
    while True:
        turn = _turn(secret, state, drawn, first, place, centre)
        session = yield from _sum(secret, state, turn, None if kept is None else kept.session)
        found = turn.steps.combine.finish(_decoded(secret, turn, session))
        place, centre, kept = place + 1, found.update, None
        if place == first.combine.passes:
            return _gathered(drawn, session, found)


def secret_of(setting: Setting, steps: Pipeline, population: int, state: TrainState, out: Path) -> Secret:
    """What stays the same from round to round of this run, with ``population`` training clients."""
    options = setting.run.options
    grid = None if options.privacy is None else private.plan(options, population, state.server.meta).grid
    return Secret(setting, steps, population, 0 if grid is None else grid.shares, out)


def forget(out: Path) -> None:
    """Drop what was kept of a round whose result is in the checkpoint."""
    (out / FILE).unlink(missing_ok=True)


def _turn(secret: Secret, state: TrainState, drawn: Cohort, first: Pipeline, place: int, centre: Tree | None) -> Turn:
    setting, steps = secret.setting, masked.around(first, centre)
    counts = Counts(len(drawn.ids), len(drawn.owners), secret.population)
    header = Header(setting.experiment, "advertise", state.round)
    common = masked.invitation(header, setting.plan, counts, strategy_array(setting.run, state.server.meta), centre)
    with torch.no_grad():
        like = steps.combine.partial(pipeline.on_messages(steps, state.guards, cohort.stack([setting.like]), drawn.keys[:1]))
    how = secure.encoding(masked.secured(steps), steps.combine, like, counts.clients)
    return Turn(drawn, steps, place, centre, common, how, like)


def _sum(secret: Secret, state: TrainState, turn: Turn, kept: Session | None) -> Summing:
    """One pass, in as many sessions as it takes."""
    setting, terms, why = secret.setting, masked.terms(turn.how, turn.common, masked.secured(turn.steps).options), ""
    kept = None if kept is None or kept.protocol.setup.about != terms.about else kept
    for attempt in range(0 if kept is None else min(kept.attempt, setting.retries), setting.retries + 1):
        session = _begun(turn, terms, attempt) if kept is None or attempt > kept.attempt else kept
        try:
            return (yield from _session(secret, state, turn, session))
        except (QuorumError, ArtifactError) as error:  # one of the protocol's: nothing was revealed
            log.warning("round %d, session %s: %s", state.round, session.protocol.setup.session.hex(), error)
            why = str(error)
    forget(secret.out)
    raise FederationError(no_quorum(state.round, why, setting))


def _begun(turn: Turn, terms: Terms, attempt: int) -> Session:
    options = masked.secured(turn.steps).options
    shares = {"colluding": options.colluding, "dropouts": options.dropouts}
    setup = server.plan(len(turn.drawn.owners), terms.length, terms.bits, number=turn.common.header.round, about=terms.about, **shares)
    return Session(attempt, server.begin(setup, turn.drawn.owners), {}, {}, {})


def _session(secret: Secret, state: TrainState, turn: Turn, session: Session) -> Summing:
    """The phases that are left of one session; the state is on the disk before anybody is asked."""
    need = max(min(secret.setting.quorum, len(turn.drawn.ids)), secret.shares)
    while session.protocol.phase != "done":
        _keep(secret, state, turn, session)
        replies = yield Ask(_requests(secret, turn, session), functools.partial(_enough, turn, session, need))
        session = _advanced(turn, session, replies)
        _require(session, need)
    _keep(secret, state, turn, session)
    return session


def _decoded(secret: Secret, turn: Turn, session: Session) -> Tree:
    try:
        return fixed_point.decode(turn.how, server.result(session.protocol).total, turn.like)
    except ArtifactError as error:  # no new session: a second sum of the same round might tell a site from the others
        forget(secret.out)
        raise FederationError(
            f"round {turn.common.header.round + 1} came to nothing: {error}; ask the sites {', '.join(_counted(session))}"
        ) from error


def _requests(secret: Secret, turn: Turn, session: Session) -> Requests:
    sealed, phase = session.protocol.requests, session.protocol.phase
    if phase == "advertise":
        return {site: masked.for_site(turn.common, turn.drawn.owners[site], message) for site, message in sealed.items()}
    header = turn.common.header._replace(phase=phase)
    return {site: record(header, {"plan": secret.setting.plan}, {MESSAGE: as_array(message)}) for site, message in sealed.items()}


def _enough(turn: Turn, session: Session, need: int, answered: Collection[str]) -> bool:
    clients = session.told or turn.drawn.owners
    return len(answered) >= session.protocol.setup.threshold and sum(len(clients[site]) for site in answered) >= need


def _advanced(turn: Turn, session: Session, replies: Replies) -> Session:
    """One phase on; a reply that cannot be used is a site that dropped out."""
    phase, messages = session.protocol.phase, dict[str, bytes]()
    told, failed, lost = dict(session.told), dict(session.failed), dict(replies.failed)
    for site, reply in replies.records.items():
        try:
            check_reply(reply, turn.common.header._replace(phase=phase))
            messages[site] = _message(reply)
            if phase == "advertise":
                told[site], own = _clients(reply, turn.drawn.owners[site])
                failed |= own
        except FederationError as error:
            messages.pop(site, None)
            lost[site] = str(error)
    try:
        protocol, refused = server.advance(session.protocol, messages.items())
    except QuorumError as error:
        raise QuorumError(f"{error} ({_reasons(lost)})") from error
    for site, reason in {**lost, **refused}.items():
        log.info("round %d, %s, site %s: %s", turn.common.header.round, phase, site, reason)
    return Session(session.attempt, protocol, told, failed, {**session.lost, **lost, **refused})


def _reasons(lost: dict[str, str]) -> str:
    return "; ".join(sorted(set(lost.values()))[:5])


def _message(reply: Record) -> bytes:
    found = reply.arrays.get(MESSAGE)
    if found is None or found.dtype != torch.uint8 or found.ndim != 1:
        raise FederationError("the reply holds no message of secure aggregation: install the same metabayfl there")
    return found.numpy().tobytes()


def _clients(reply: Record, wanted: list[str]) -> tuple[list[str], dict[str, str]]:
    """Whose messages a site adds, and why not those of the others that it was asked for."""
    done, failed = reply.body.get("clients"), reply.body.get("failed")
    if not isinstance(done, list) or not isinstance(failed, dict) or not done:
        raise FederationError("the reply names no clients: install the same metabayfl there")
    if not all(isinstance(name, str) for name in done) or len(set(done)) != len(done) or not set(done) <= set(wanted):
        raise FederationError("the reply names a client twice, or one that was not asked: the site is left out")
    reasons = {name: failed.get(name) for name in wanted if name not in done}
    return done, {name: reason[:500] if isinstance(reason, str) else "its site left it out" for name, reason in reasons.items()}


def _counted(session: Session) -> Collection[str]:
    """The sites that are still in the sum."""
    return session.protocol.survivors or session.protocol.requests.keys()


def _require(session: Session, need: int) -> None:
    clients = sum(len(session.told[site]) for site in _counted(session))
    if clients < need:
        raise QuorumError(f"{clients} clients are left where {need} are needed ({_reasons({**session.failed, **session.lost})}): no sum was made")


def _gathered(drawn: Cohort, session: Session, found: Aggregate) -> Gathered:
    counted = [name for site in _counted(session) for name in session.told[site]]
    missing = [(site, name) for site, names in drawn.owners.items() for name in names if name not in counted]
    reasons = {name: session.failed.get(name) or session.lost.get(site, "it dropped out") for site, name in missing}
    return Gathered(found, len(counted), {name: f"site {site!r}: {reasons[name]}" for site, name in missing})


def _keep(secret: Secret, state: TrainState, turn: Turn, session: Session) -> None:
    about = {
        "experiment": secret.setting.experiment,
        "round": state.round,
        "strategy": tree_file.digest(state.server.meta, {}),
        "ids": list(turn.drawn.ids),
        "owners": turn.drawn.owners,
        "place": turn.place,
        **{name: getattr(session, name) for name in ("attempt", "told", "failed", "lost")},
    }
    numbers: Tree = {"protocol": as_array(server.to_bytes(session.protocol)), **({} if turn.centre is None else {"centre": turn.centre})}
    tree_file.save_tree(secret.out / FILE, numbers, about, kind=_KIND)


def _found(secret: Secret, registry: Registry, state: TrainState) -> Kept | None:
    """What was kept of this very round; None if there is nothing, or a client of it has left."""
    path = secret.out / FILE
    if not path.exists():
        return None
    numbers, about = tree_file.load_tree(path, kind=_KIND)
    here = (secret.setting.experiment, state.round, tree_file.digest(state.server.meta, {}))
    training = {name for name, client in registry.items() if client.role == "train"}
    if (about["experiment"], about["round"], about["strategy"]) != here or not set(about["ids"]) <= training:
        return None
    drawn = cohort_of(secret.setting.run, registry, state.round, tuple(about["ids"]))
    if drawn.owners != about["owners"]:
        return None
    protocol = server.from_bytes(numbers["protocol"].numpy().tobytes())
    session = Session(about["attempt"], protocol, about["told"], about["failed"], about["lost"])
    return Kept(drawn, about["place"], numbers.get("centre"), session)
