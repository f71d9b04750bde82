"""What the server rebuilds when the vectors are in: a seed for every survivor, a masking key for everyone that dropped out; never both of one client.

A rebuilt secret is checked, a seed against its commitment and a key against its public key, so a false share is noticed. One false share among more
than ``threshold`` is left out, and its giver named.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from metabayfl.errors import ArtifactError, QuorumError
from metabayfl.privacy.secure_aggregation import keys, shamir
from metabayfl.privacy.secure_aggregation.bodies import Peer
from metabayfl.privacy.secure_aggregation.messages import Setup
from metabayfl.privacy.secure_aggregation.primitives import agreement, public_key

Shares: TypeAlias = list[tuple[int, bytes]]
"""Shares of one secret: the holder's place and its share."""


class Shared(NamedTuple):
    """A client that shared its secrets."""

    client: Peer
    commitment: bytes
    survived: bool  # its vector is in the sum
    peers: Sequence[Peer]  # its neighbours that shared and whose vectors are in the sum
    shares: Shares  # of its seed if it survived, of its masking key if not


class Masks(NamedTuple):
    """Keys of the masks that stand between the sum of the masked vectors and the sum."""

    plus: list[bytes]  # to be added
    minus: list[bytes]  # to be subtracted
    liars: dict[int, str]  # places whose shares were false, and of what


def masks_left(setup: Setup, cohort: Sequence[Shared]) -> Masks:
    """All keys that are needed.

    ``sum_{u alive} x_u = sum_{u alive} y_u - sum_{u alive} PRG(b_u) - sum_{u alive, v dropped} (sign(v - u) PRG(s_uv))``: the pair masks of two
    survivors cancel, and those with a client that dropped out come from its masking key (Bonawitz et al. 2017, Figure 4, round 4).

    Raises:
        QuorumError: if fewer than ``threshold`` shares of a secret are there.
        ArtifactError: if too many of them are false.
    """
    masks = Masks([], [], {})
    for shared in cohort:
        name = shared.client.name
        if shared.survived:
            seed = _rebuilt(setup, shared, "seed", functools.partial(_is_seed, setup, shared), masks.liars)
            masks.minus.append(keys.self_mask(seed, setup, name))
        elif shared.peers:
            secret = _rebuilt(setup, shared, "masking key", functools.partial(_is_key, shared), masks.liars)
            agree = agreement(secret)
            for peer in shared.peers:
                added = peer.position < shared.client.position  # the peer added this mask; the other sign undoes it
                (masks.minus if added else masks.plus).append(keys.pair_mask(agree(peer.mask), setup, name, peer.name))
    return masks


def _is_key(shared: Shared, secret: bytes) -> bool:
    return public_key(secret) == shared.client.mask


def _is_seed(setup: Setup, shared: Shared, seed: bytes) -> bool:
    return keys.commitment(seed, setup, shared.client.name) == shared.commitment


def _rebuilt(setup: Setup, shared: Shared, what: str, right: Callable[[bytes], bool], liars: dict[int, str]) -> bytes:
    """The secret that passes the check; who spoiled it is added to ``liars`` and not listened to again."""
    shares = [share for share in shared.shares if share[0] not in liars]
    name, needed = shared.client.name, setup.threshold
    if len(shares) < needed:
        raise QuorumError(
            f"{len(shares)} good shares of the {what} of {name!r} arrived, {needed} are needed: no sum was made; repeat in a new session"
        )
    secret = shamir.combine(shares, needed)
    if right(secret):
        return secret
    for i, (place, _) in enumerate(shares[:needed] if len(shares) > needed else []):
        secret = shamir.combine(shares[:i] + shares[i + 1 :], needed)
        if right(secret):
            liars[place] = f"it gave a false share of the {what} of {name!r}"
            return secret
    raise ArtifactError(f"false shares of the {what} of {name!r} are among the {len(shares)} that arrived: no sum was made; repeat in a new session")
