"""The server's side of the agreement on a schema: two rounds of sums from every site, before training."""

from __future__ import annotations

import logging

from metabayfl.data.fit import Survey
from metabayfl.errors import FederationError
from metabayfl.flower import agreement
from metabayfl.flower.acceptance import check_reply
from metabayfl.flower.members import assemble
from metabayfl.flower.network import Patience, Transport, exchange
from metabayfl.flower.plan import Plan, experiment, to_json
from metabayfl.flower.records import Header, Record, record

log = logging.getLogger(__name__)


def complete(draft: Plan, transport: Transport, need: int, patience: Patience) -> Plan:
    """The plan with the schema that the sites' training rows give.

    Args:
        draft: a plan without one.
        transport: what carries records.
        need: fewest sites.
        patience: how long to wait.

    Raises:
        FederationError: if too few sites can be used, or their data do not fit together.
    """
    body, digest = {"plan": to_json(draft)}, experiment(draft)
    found = assemble(transport, record(Header(digest, "survey", 0), body), _read, need, patience)
    surveys = {site: own for site, own in found.values() if own is not None}
    if not surveys:
        raise FederationError("no site has a training client: every one is named in validation_ids or heldout_ids")
    addresses = {site: node for node, (site, own) in found.items() if own is not None}
    about = agreement.agree(surveys)
    request = record(Header(digest, "deviate", 0), body, agreement.centre_message(about))
    replies = exchange(transport, dict.fromkeys(addresses, request), lambda: _connected(transport, addresses), patience, lambda answered: True)
    seconds = {}
    for site, reply in replies.records.items():
        try:
            check_reply(reply, request.header)
            seconds[site] = agreement.read_deviations(reply.arrays, about)
        except FederationError as error:
            log.warning("site %s is left out of the schema: %s", site, error)
    for site, reason in replies.failed.items():
        log.warning("site %s is left out of the schema: %s", site, reason)
    silent = len(found) - len(surveys)
    if not seconds or len(seconds) + silent < need:
        raise FederationError(f"{len(seconds) + silent} of {need} sites answered both rounds of the schema: start the others, or ask for fewer sites")
    return draft._replace(schema=agreement.agreed_schema(surveys, about, seconds, draft.config.data.unseen))


def _connected(transport: Transport, addresses: dict[str, int]) -> dict[str, int]:
    here = transport.nodes()
    return {site: node for site, node in addresses.items() if node in here}


def _read(name: str, reply: Record) -> tuple[str, Survey | None]:
    """A site's name and its survey; None for one that has no training client."""
    site = reply.body.get("site")
    if not isinstance(site, str) or not site or (name and site != name):
        raise FederationError(f"a site says that it is {site!r}, but its key was registered for {name!r}: start it with the name it was given")
    return site, agreement.read_survey(reply.body, reply.arrays) if reply.body.get("rows") else None
