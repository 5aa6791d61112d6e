"""The true posterior of a model with two latents, on a grid: p(z|x) = p(x, z) / p(x), normalised by summing.

Where there are two latents nothing has to be believed: p(x, z) is known at any z. A coarse grid over the prior finds
where p(z|x) has its mass, a fine one there shows its shape. The sums also give log p(x).

Shapes: images x (B, N, C, H, W); grids (B, N, side, side), the first latent along the first of the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rme import evaluate, precision
from rme.distributions import Posterior
from rme.methods.base import Method
from rme.noise import Noise

REACH = 5.0
"""Half width of the coarse grid: the prior has all but 1e-6 of its mass within."""

COARSE, FINE = 101, 81
"""Points along a side."""

DEPTH = 16.0
"""Nats below the highest density down to which the coarse grid's points count: a narrow peak may lie between them."""

MARGIN = 0.15
"""What a window leaves free on each side, a part of its width."""

DRAWS = 200
"""Draws of q(z|x) of which the middle 98% are to be seen as well."""


@dataclass(frozen=True)
class Grids:
    """Densities of each image's window.

    Attributes:
        axes: (B, N, 2, side), the coordinates.
        log_posterior: (B, N, side, side), log p(z|x).
        log_q: (B, N, side, side), log q(z|x).
        log_p: (B, N), log p(x), up to what lies outside the window.
    """

    axes: Tensor
    log_posterior: Tensor
    log_q: Tensor
    log_p: Tensor


@torch.no_grad()
@precision.scoring()
def grids(method: Method, x: Tensor, q: Posterior, noise: Noise, side: int = FINE) -> Grids:
    """The true posterior and q of each image, on a window that shows both.

    Raises:
        ValueError: the model has not two latents.
    """
    if method.spec.dim != 2:
        raise ValueError(f"dim={method.spec.dim}: a grid needs a model of two latents")
    axes = _axes(windows(method, x, q, noise), side)
    z = _points(axes).transpose(1, 2).contiguous()  # (B, side * side, N, 2)
    log_joint = evaluate.log_joint(method, x, z).double()  # (B, side * side, N)
    area = (axes[..., 1] - axes[..., 0]).double().log().sum(-1)  # of a cell
    log_p = torch.logsumexp(log_joint, 1) + area
    shape = (side, side)
    return Grids(
        axes=axes,
        log_posterior=(log_joint - log_p.unsqueeze(1)).mT.unflatten(-1, shape),
        log_q=q.log_prob(z).double().mT.unflatten(-1, shape),
        log_p=log_p,
    )


@torch.no_grad()
def windows(method: Method, x: Tensor, q: Posterior, noise: Noise) -> Tensor:
    """A square for each image, (B, N, 2, 2): of each latent the lowest and the highest value."""
    members, n = x.shape[:2]
    line = torch.linspace(-REACH, REACH, COARSE, dtype=x.dtype, device=x.device)
    z = torch.cartesian_prod(line, line).expand(members, -1, -1)  # the same for all images: decoded once
    log_joint = evaluate.log_joint_everywhere(method, x, z)  # (B, G, N)
    deep = log_joint < log_joint.amax(1, keepdim=True) - DEPTH
    place = z.unsqueeze(2)  # (B, G, 1, 2)
    low = place.masked_fill(deep.unsqueeze(-1), math.inf).amin(1)
    high = place.masked_fill(deep.unsqueeze(-1), -math.inf).amax(1)
    # where the coarse grid sees one point, the peak may be anywhere about it
    step = 2 * REACH / (COARSE - 1)
    peaked = torch.stack([low - step / 2, high + step / 2], -1)
    quantiles = torch.tensor([0.01, 0.99], dtype=x.dtype, device=x.device)
    seen = torch.quantile(q.sample(noise, DRAWS), quantiles, dim=1).movedim(0, -1)  # (B, N, 2, 2)
    low = torch.minimum(peaked[..., 0], seen[..., 0])
    high = torch.maximum(peaked[..., 1], seen[..., 1])
    half = (0.5 + MARGIN) * (high - low).amax(-1, keepdim=True)
    middle = (low + high) / 2
    return torch.stack([middle - half, middle + half], -1).view(members, n, 2, 2)


def _axes(window: Tensor, side: int) -> Tensor:
    """The middles of `side` cells along each latent: (B, N, 2, side)."""
    part = (torch.arange(side, dtype=window.dtype, device=window.device) + 0.5) / side
    return window[..., :1] + (window[..., 1:] - window[..., :1]) * part


def _points(axes: Tensor) -> Tensor:
    """All pairs of coordinates: (B, N, 2, side) -> (B, N, side * side, 2)."""
    side = axes.shape[-1]
    first = axes[..., 0, :].unsqueeze(-1).expand(*axes.shape[:2], side, side)
    second = axes[..., 1, :].unsqueeze(-2).expand(*axes.shape[:2], side, side)
    return torch.stack([first, second], -1).flatten(2, 3)
