"""What hostile clients do, to measure what a defence is worth.

None of this runs unless a simulation asks for it; it is no part of what a client or a server runs in a deployment.
"""

from __future__ import annotations

from collections.abc import Callable

from metabayfl.attacks import poison, prior, updates
from metabayfl.attacks.attack import Attack, AttackOptions, Plan, hostile
from metabayfl.errors import unknown
from metabayfl.types import Kind

__all__ = ["ATTACKS", "Attack", "AttackOptions", "build_attack", "hostile"]

ATTACKS: dict[str, Callable[[Plan], Attack]] = {
    "sign_flip": updates.sign_flip,
    "gaussian": updates.gaussian,
    "label_flip": poison.label_flip,
    "scaling": poison.scaling,
    "a_little": updates.a_little,
    "inner_product": updates.inner_product,
    "backdoor": poison.backdoor,
    "prior_strong": prior.prior_strong,
    "prior_weak": prior.prior_weak,
    "not_a_number": updates.not_a_number,
    "size": updates.size,
}
"""Attacks by name."""


def build_attack(options: AttackOptions, kind: Kind, outputs: int) -> Attack:
    """The attack of ``options`` on a federation of this kind.

    Args:
        options: see :class:`~metabayfl.attacks.attack.AttackOptions`.
        kind: classification or regression.
        outputs: K classes or R targets.

    Raises:
        ConfigError: for an unknown name, or an attack that does not fit the kind.
    """
    if options.name not in ATTACKS:
        raise unknown("attack", options.name, ATTACKS)
    return ATTACKS[options.name](Plan(options.strength, options.target, kind, outputs))
