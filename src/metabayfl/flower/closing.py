"""What the server asks of sites beside training: how good the strategy is on validation clients, and to take the final one."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from metabayfl import storage
from metabayfl.artifact import Strategy
from metabayfl.engine.rounds import TrainState
from metabayfl.errors import FederationError
from metabayfl.flower import registry
from metabayfl.flower.acceptance import check_reply
from metabayfl.flower.members import Members
from metabayfl.flower.network import Ask, Patience, Replies, Requests
from metabayfl.flower.records import Header, Record, as_array, record
from metabayfl.flower.round import Setting, strategy_array

DELIVERED = "delivered.json"


def validate(setting: Setting, members: Members, state: TrainState, patience: Patience) -> tuple[float | None, dict[str, str]]:
    """Mean loss over the validation clients of all sites, in nats, or None and the reasons if one did not answer: means over other clients could
    not be compared."""
    requests = validation_requests(setting, members, state)
    return validation_mean(requests, members.exchange(Ask(requests, lambda answered: True), patience))


def validation_requests(setting: Setting, members: Members, state: TrainState) -> Requests:
    """What sites with validation clients are asked."""
    header = Header(setting.experiment, "evaluate", state.round)
    request = record(header, {"plan": setting.plan}, {"strategy": strategy_array(setting.run, state.server.meta)})
    return dict.fromkeys(registry.sites(members.registry, "validation"), request)


def validation_mean(requests: Requests, replies: Replies) -> tuple[float | None, dict[str, str]]:
    """The mean that :func:`validate` gives, from the replies."""
    sums, missing = [], {site: f"validation: {reason}" for site, reason in replies.failed.items()}
    for site, reply in replies.records.items():
        try:
            sums.append(_sums(reply, requests[site].header))
        except FederationError as error:
            missing[site] = f"validation: {error}"
    return (None if missing else sum(loss for loss, _ in sums) / max(sum(samples for _, samples in sums), 1.0)), missing


def _sums(reply: Record, header: Header) -> tuple[float, float]:
    check_reply(reply, header)
    values = [reply.arrays.get(name) for name in ("loss", "samples")]
    if not all(value is not None and value.shape == () and value.dtype == torch.float64 for value in values):
        raise FederationError("the reply holds no sums of losses: install the same metabayfl there")
    loss, samples = (float(value) for value in values if value is not None)
    if not (math.isfinite(loss) and 0 <= samples < 2**40):
        raise FederationError(f"a summed loss of {loss} over {samples} samples: the strategy, or the site's data, are not finite")
    return loss, samples


def deliver(out: Path, setting: Setting, members: Members, strategy: Strategy, patience: Patience) -> tuple[list[str], dict[str, str]]:
    """Send the final strategy to every site that has not confirmed this very one; returns those that have it now, and why others have not."""
    digest = strategy.digest()
    done = _confirmed(out, digest)
    asked = [site for site in registry.sites(members.registry) if site not in done]
    header = Header(setting.experiment, "personalize", 0)
    request = record(header, {"plan": setting.plan}, {"strategy": as_array(strategy.to_bytes())})
    replies = members.exchange(Ask(dict.fromkeys(asked, request), lambda answered: True), patience)
    good, failed = _checked(replies, dict.fromkeys(asked, request))
    delivered = sorted({*done, *good})
    storage.write_json(out / DELIVERED, {"strategy": digest, "sites": delivered})
    return delivered, failed


def _confirmed(out: Path, digest: str) -> list[str]:
    path = out / DELIVERED
    kept = storage.read_json(path) if path.exists() else {}
    return list(kept["sites"]) if kept.get("strategy") == digest else []


def _checked(replies: Replies, requests: Requests) -> tuple[list[str], dict[str, str]]:
    good, failed = [], dict(replies.failed)
    for site, reply in replies.records.items():
        try:
            check_reply(reply, requests[site].header)
            good.append(site)
        except FederationError as error:
            failed[site] = str(error)
    return good, failed
