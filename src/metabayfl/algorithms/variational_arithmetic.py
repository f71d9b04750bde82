"""What :mod:`metabayfl.algorithms.variational_sweep` does to vectors as long as the weights, for clients side by side.

There is little arithmetic in each of these operations, so memory bounds them: they are written with as few passes as they allow, in place where they
may. Shapes are ``(C, P)``, and ``(C, S, P)`` for draws, whose first halves' noise ``e`` is ``(C, ceil(S / 2), P)``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metabayfl import posterior
from metabayfl.posterior import Prox


class Prior(NamedTuple):
    """A Gaussian for every weight, and the proximal map of every client's pull towards it."""

    mean: Tensor  # (P,)
    sd: Tensor  # (P,)
    prox: Prox  # leaves (C, P)


class Step(NamedTuple):
    """What a variational step leaves behind for its way back."""

    noise: Tensor  # e
    ratio: Tensor  # r
    lag: Tensor  # u - sum g
    descent: Tensor  # sum +-g e
    reached: Tensor  # r'


class Bars(NamedTuple):
    """Derivatives of the query loss: by the state on its way back, and sums over steps by what the prior decides."""

    shift: Tensor  # u
    ratio: Tensor  # r
    mean: Tensor  # m0
    sd: Tensor  # s0, where it scales the noise
    keep: Tensor  # k, with the share of c = 1 - k
    gain: Tensor  # h


def draw(prior: Prior, shift: Tensor, ratio: Tensor, noise: Tensor, draws: int) -> Tensor:
    """``w = m0 + u +- s0 r e``, shape ``(C, S, P)``."""
    return _pairs(prior.mean + shift, prior.sd * ratio, noise, draws, 1.0)


def _pairs(mean: Tensor, along: Tensor, noise: Tensor, draws: int, sign: float) -> Tensor:
    """``mean + sign along e`` for the first half of the draws, ``mean - sign along e`` for the second."""
    out, half, mean, along = mean.new_empty(len(mean), draws, mean.shape[-1]), noise.shape[1], mean.unsqueeze(1), along.unsqueeze(1)
    torch.addcmul(mean, along, noise, value=sign, out=out[:, :half])
    torch.addcmul(mean, along, noise[:, : draws - half], value=-sign, out=out[:, half:])
    return out


def _over_draws(slope: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """``sum g`` and ``sum +-g e`` over the draws."""
    ahead, behind = torch.split(slope, [noise.shape[1], slope.shape[1] - noise.shape[1]], 1)
    pairs = behind.shape[1]
    along = _sum((ahead[:, :pairs] - behind).mul_(noise[:, :pairs]))
    return _sum(slope), along if pairs == noise.shape[1] else along.addcmul_(ahead[:, -1], noise[:, -1])


def _sum(draws: Tensor) -> Tensor:
    return draws.squeeze(1) if draws.shape[1] == 1 else draws.sum(1)


def advance(prior: Prior, slope: Tensor, noise: Tensor, shift: Tensor, ratio: Tensor) -> tuple[Step, Tensor]:
    """One step from ``u``, ``r`` along the gradients ``g (C, S, P)``: what it leaves behind, with ``r'``, and ``u'``."""
    total, descent = _over_draws(slope, noise)
    lag = shift - total
    return Step(noise, ratio, lag, descent, posterior.step_sd(prior.prox, ratio, descent)), prior.prox.keep * lag


def bars_of(prior: Prior, slope: Tensor, noise: Tensor, ratio: Tensor) -> Bars:
    """The derivatives at the posterior that the steps reached, from the query's gradients ``w_bar (C, S, P)``."""
    total, along = _over_draws(slope, noise)
    return Bars(total.clone(), prior.sd * along, total.clone(), along * ratio, torch.zeros_like(total), torch.zeros_like(total))


def back(prior: Prior, step: Step, bars: Bars, draws: int) -> Tensor:
    """``g_bar (C, S, P)``, with ``bars`` taken back through the proximal maps, in place."""
    lift_bar = bars.ratio.div_((prior.prox.lift / step.reached).add_(step.reached))
    b_bar = lift_bar * step.reached
    bars.keep.addcmul_(bars.shift, step.lag).addcmul_(b_bar, step.ratio).sub_(lift_bar)
    bars.gain.addcmul_(b_bar, step.descent, value=-1.0)
    bars.shift.mul_(prior.prox.keep)
    torch.mul(prior.prox.keep, b_bar, out=bars.ratio)
    return _pairs(-bars.shift, b_bar.mul_(prior.prox.gain), step.noise, draws, -1.0)


def absorb(prior: Prior, step: Step, found: Tensor, bars: Bars) -> None:
    """Add ``w_bar (C, S, P)`` to ``bars``: a draw depends on ``u`` and ``r``, and on the prior."""
    total, along = _over_draws(found, step.noise)
    bars.mean.add_(total)
    bars.shift.add_(total)
    bars.ratio.addcmul_(prior.sd, along)
    bars.sd.addcmul_(along, step.ratio)


def by_log_sd(prior: Prior, bars: Bars) -> Tensor:
    """The sums of ``bars`` as one derivative by ``log s0``, where ``dk = 2 k c``, ``dh = (2 c - 1) h`` and ``ds0 = s0``."""
    keep, lift, gain = prior.prox
    return (prior.sd * bars.sd).addcmul_(2.0 * keep * lift, bars.keep).addcmul_(gain * (2.0 * lift - 1.0), bars.gain)
