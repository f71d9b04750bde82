"""What server and sites must see alike in a masked sum: who is summed, in which pass of the combine, from which strategy, and what the integers mean.

A digest of all of it goes into the protocol's setup, so that a site masks for nothing else than what it was asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

from torch import Tensor

from metabayfl import tree
from metabayfl.engine import pipeline, private, secure
from metabayfl.engine.options import TrainOptions
from metabayfl.engine.pipeline import Pipeline
from metabayfl.engine.secure import Secure
from metabayfl.errors import FederationError
from metabayfl.flower import records
from metabayfl.flower.records import Header, Record, record
from metabayfl.privacy.secure_aggregation import Encoding, Terms, fixed_point, graph
from metabayfl.types import Key, Tree

MESSAGE, COHORT = "message", "cohort"
"""What differs from site to site in a request: the protocol's own message, and the site's clients."""

_CENTRE = "centre/"


class Counts(NamedTuple):
    """Numbers that decide the encoding and the noise."""

    clients: int  # in the cohort, as it was drawn
    parties: int  # sites that they are at
    population: int  # training clients in all


def invitation(header: Header, plan: dict[str, object], counts: Counts, strategy: Tensor, centre: Tree | None) -> Record:
    """What all sites of a masked sum are asked alike; ``centre`` is what the combine's last pass found."""
    arrays = {"strategy": strategy} | ({} if centre is None else {_CENTRE + path: leaf for path, leaf in tree.flatten(centre).items()})
    return record(header, {"plan": plan, **counts._asdict()}, arrays)


def for_site(common: Record, clients: list[str], message: bytes) -> Record:
    """An invitation as one site gets it."""
    return common._replace(body={**common.body, COHORT: clients}, arrays={**common.arrays, MESSAGE: records.as_array(message)})


def common_part(request: Record) -> Record:
    """The inverse of :func:`for_site`."""
    body = {name: value for name, value in request.body.items() if name != COHORT}
    return request._replace(body=body, arrays={name: value for name, value in request.arrays.items() if name != MESSAGE})


def counts_of(request: Record) -> Counts:
    """The counts of an invitation.

    Raises:
        FederationError: if they make no sense.
    """
    found = Counts(*(request.body.get(name) for name in Counts._fields))  # type: ignore[arg-type]  # looked at in the next line
    if not all(type(value) is int for value in found) or not 2 <= found.parties <= found.clients <= found.population < 2**40:
        raise FederationError(f"an invitation to a sum over {tuple(found)} parties, clients and training clients: install the same metabayfl")
    return found


def centre_of(request: Record, template: Tree) -> Tree | None:
    """What the combine's last pass found, in the shapes of ``template``; None in the first pass.

    Raises:
        FederationError: if it is something else.
    """
    found = {name.removeprefix(_CENTRE): value for name, value in request.arrays.items() if name.startswith(_CENTRE)}
    if not found:
        return None
    expected = tree.flatten(template)
    if found.keys() != expected.keys() or any(found[path].shape != leaf.shape or found[path].dtype != leaf.dtype for path, leaf in expected.items()):
        raise FederationError("what the last pass found does not fit this algorithm and model: install the same metabayfl at both ends")
    paths = tree.paths(template)
    return tree.map(lambda leaf: found[next(paths)], template)


def site_steps(options: TrainOptions, counts: Counts, meta: Tree, key: Key) -> Pipeline:
    """The pipeline of a round's first pass as a site runs it: clipping, and its share of privacy's noise where clients add it.

    How much noise the server adds is no affair of a site, which is spared the search for it: that takes seconds.
    """
    privacy = options.privacy
    if privacy is not None and privacy.mechanism == "gaussian":
        options = dataclasses.replace(options, privacy=dataclasses.replace(privacy, noise_multiplier=1.0))
    return pipeline.drawn(private.guarded(pipeline.build(options), options, counts.population, meta), key)


def around(first: Pipeline, centre: Tree | None) -> Pipeline:
    """The pipeline of the pass that sums around ``centre``; the first itself where there is none.

    Raises:
        FederationError: for a second pass of a combine that has one.
    """
    if centre is None:
        return first
    if first.combine.around is None:
        raise FederationError(f"{first.combine.name} takes one pass, and a second was asked for: both ends must run the same metabayfl")
    return first._replace(combine=first.combine.around(centre))


def secured(taken: Pipeline) -> Secure:
    """How messages become integers.

    Raises:
        FederationError: if the plan wants no secure aggregation.
    """
    if taken.secure is None:
        raise FederationError("this federation agreed on no secure aggregation: both ends must follow one plan")
    return taken.secure


def terms(how: Encoding, common: Record, options: secure.SecureOptions) -> Terms:
    """What a site takes part in, and what the server's setup must say."""
    about = hashlib.sha256(fixed_point.digest(how) + bytes.fromhex(records.digest(common))).digest()
    choice = graph.choose(counts_of(common).parties, colluding=options.colluding, dropouts=options.dropouts)
    return Terms(fixed_point.length(how), fixed_point.modulus_bits(how), about, choice.threshold)
