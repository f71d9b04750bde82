"""Strokes and edges of images by direction and size: first-order scattering coefficients, brought to one contrast. Nothing here is learned.

A Morlet wavelet ``psi_{j,l}`` answers to edges across the angle ``pi l / L`` that are about ``2^j`` pixels wide; the modulus of its response
says how strong they are and forgets where exactly; a Gaussian ``phi_J`` averages that over ``2^J`` pixels, and one value for each such cell is kept
(Bruna and Mallat 2013, "Invariant scattering convolution networks", section 2, the first layer)::

    S_{j,l} = |x * psi_{j,l}| * phi_J,        S_0 = x * phi_J

How dark the ink was says nothing about what is drawn, so each cell is divided by its mean over all directions and sizes, much as in histograms of
oriented gradients (Dalal and Triggs 2005, section 6.4). What is left is taken about its mean over directions: that brings the features near mean
zero, and training on them forward, without a look at a single image::

    C_{j,l} = q_{j,l} - mean_l q_{j,l},       q_{j,l} = sqrt(S_{j,l} / (mean_{j,l} S_{j,l} + floor))
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

_WIDTH = 0.8  # sigma of the finest wavelet's envelope along its wave, in pixels; it doubles with every scale, like all lengths
_FREQUENCY = 3.0 * math.pi / 4.0  # of the finest wavelet, in radians per pixel
_SLANT = 0.5  # width along the wave over width across it
_CUT = 2.5  # where a Gaussian ends, in sigmas
_FLOOR = 0.05  # a mean response at which there is nothing to be seen, in standard deviations of the inputs
_CONTRAST, _BRIGHTNESS = 7.0, 1.5  # gains that bring both kinds of features to about one standard deviation


class Wavelets(NamedTuple):
    """Filters in float64, and the strides at which they are applied."""

    scales: int  # J
    angles: int  # L
    waves: tuple[Tensor, ...]  # for each scale (2 L, 1, k, k): real parts of every direction, then imaginary parts
    strides: tuple[int, ...]  # of each scale's responses
    averages: tuple[Tensor, ...]  # for each scale (1, 1, k, k): phi on the grid of the responses
    average: Tensor  # (1, 1, k, k): phi on the grid of the pixels


def wavelets(scales: int, angles: int) -> Wavelets:
    """The filters for ``J`` scales and ``L`` directions."""
    strides = tuple(2 ** min(max(j, 1), scales - 1) for j in range(scales))
    width = _WIDTH * 2**scales
    return Wavelets(
        scales,
        angles,
        tuple(_stacked([morlet(j, math.pi * turn / angles) for turn in range(angles)]) for j in range(scales)),
        strides,
        tuple(_gaussian(width / stride) for stride in strides),
        _gaussian(width),
    )


def morlet(j: int, angle: float) -> Tensor:
    """``(k, k)`` complex128: a plane wave under a Gaussian longer across it than along it, less what would make it answer to even light.

    The sum is zero and the envelope's sum one, so that a wave of the wavelet's own frequency and amplitude 1 has a response of about one half.

    Args:
        j: the scale: all lengths double with each.
        angle: between the wave and the horizontal, radians.
    """
    along, frequency = _WIDTH * 2**j, _FREQUENCY / 2**j
    reach = math.ceil(_CUT * along / _SLANT)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    y, x = torch.meshgrid(places, places, indexing="ij")
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    envelope = torch.exp(-(u.square() + (_SLANT * v).square()) / (2.0 * along**2))
    wave = torch.exp(1j * frequency * u)
    mean = (envelope * wave).sum() / envelope.sum()
    return envelope * (wave - mean) / envelope.sum()


def moduli(bank: Wavelets, x: Tensor) -> tuple[Tensor, Tensor]:
    """``S_0`` as ``(N, C, 1, h, w)`` and ``S`` as ``(N, C, J L, h, w)``, scale after scale, of images ``(N, C, H, W)``; ``h = H // 2^J``.

    The border is continued outward as it is, and rows and columns beyond a multiple of ``2^J`` are left out.
    """
    count, channels = x.shape[:2]
    cell = 2**bank.scales
    h, w = (side // cell for side in x.shape[2:])
    x = x[..., : h * cell, : w * cell].reshape(-1, 1, h * cell, w * cell)
    responses = []
    for waves, stride, average in zip(bank.waves, bank.strides, bank.averages, strict=True):
        parts = _filtered(x, waves, stride, waves.shape[-1] // 2)
        strength = (parts[:, : bank.angles].square() + parts[:, bank.angles :].square()).sqrt()
        averaged = _averaged(strength.flatten(0, 1).unsqueeze(1), average, cell // stride)
        responses.append(averaged.reshape(count, channels, bank.angles, h, w))
    light = _averaged(x, bank.average, cell).reshape(count, channels, 1, h, w)
    return light, torch.cat(responses, 2)


def contrasts(bank: Wavelets, x: Tensor) -> Tensor:
    """``(N, C, H, W) -> (N, C (1 + J L), h, w)``: for every channel the averaged image and the contrasts ``C_{j,l}``, each of about unit scale."""
    light, strength = moduli(bank, x)
    count, channels, _, h, w = strength.shape
    evened = (strength / (strength.mean(2, keepdim=True) + _FLOOR)).sqrt().view(count, channels, bank.scales, bank.angles, h, w)
    directed = (evened - evened.mean(3, keepdim=True)).flatten(2, 3)
    return torch.cat([_BRIGHTNESS * light, _CONTRAST * directed], 2).flatten(1, 2)


def _stacked(waves: list[Tensor]) -> Tensor:
    together = torch.stack(waves)
    return torch.cat([together.real, together.imag]).unsqueeze(1)


def _gaussian(width: float) -> Tensor:
    """Of an even side: it stands between pixels, in the middle of the cell that it averages."""
    reach = math.ceil(_CUT * width)
    places = torch.arange(reach, dtype=torch.float64) + 0.5
    line = torch.exp(-torch.cat([places.flip(0), places]).square() / (2.0 * width**2))
    return (torch.outer(line, line) / line.sum().square()).view(1, 1, 2 * reach, 2 * reach)


def _averaged(x: Tensor, average: Tensor, stride: int) -> Tensor:
    return _filtered(x, average, stride, (average.shape[-1] - stride) // 2)


def _filtered(x: Tensor, kernels: Tensor, stride: int, border: int) -> Tensor:
    return conv2d(pad(x, (border,) * 4, mode="replicate"), kernels.to(x), stride=stride)
