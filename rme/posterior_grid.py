"""The true posterior of a model with two latents, on a grid: p(z|x) = p(x, z) / p(x), normalised by summing.

p(x, z) is known at any z, so with two latents the posterior needs no approximation beyond the grid. A coarse grid over
the prior finds where p(z|x) has its mass, and a fine grid there shows its shape. The sums also give log p(x).

Shapes: images x (B, N, C, H, W); grids (B, N, side, side), the first latent along the first `side`.
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
"""Half width of the coarse grid: all but about 1e-6 of the prior's mass lies within."""

COARSE, FINE = 101, 81
"""Points per side of the two grids."""

DEPTH = 16.0
"""A window contains the coarse points within this many nats of the highest: a narrow peak may lie between them."""

MARGIN = 0.15
"""Empty margin of a window on each side, as a fraction of the width it encloses."""

DRAWS = 200
"""Draws of q(z|x); a window also contains the middle 98% of them."""


@dataclass(frozen=True)
class Grids:
    """Densities on each image's window, in nats.

    Attributes:
        axes: (B, N, 2, side), the coordinates.
        log_posterior: (B, N, side, side), log p(z|x).
        log_q: (B, N, side, side), log q(z|x).
        log_p: (B, N), log p(x), without the mass outside the window.
    """

    axes: Tensor
    log_posterior: Tensor
    log_q: Tensor
    log_p: Tensor


@torch.no_grad()
@precision.scoring()
def grids(method: Method, x: Tensor, q: Posterior, noise: Noise, side: int = FINE) -> Grids:
    """The true posterior and q of each image, on a window that contains both.

    Raises:
        ValueError: the model does not have two latents.
    """
    if method.spec.dim != 2:
        raise ValueError(f"dim={method.spec.dim}: a posterior grid needs dim=2")
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
    """A square window for each image, (B, N, 2, 2): the lowest and highest value of each latent."""
    members, n = x.shape[:2]
    line = torch.linspace(-REACH, REACH, COARSE, dtype=x.dtype, device=x.device)
    z = torch.cartesian_prod(line, line).expand(members, -1, -1)  # the same for all images: decoded once
    log_joint = evaluate.log_joint_everywhere(method, x, z)  # (B, G, N)
    negligible = log_joint < log_joint.amax(1, keepdim=True) - DEPTH
    points = z.unsqueeze(2)  # (B, G, 1, 2)
    low = points.masked_fill(negligible.unsqueeze(-1), math.inf).amin(1)
    high = points.masked_fill(negligible.unsqueeze(-1), -math.inf).amax(1)
    # the true peak may lie up to half a step from the nearest coarse point
    step = 2 * REACH / (COARSE - 1)
    of_p = torch.stack([low - step / 2, high + step / 2], -1)
    quantiles = torch.tensor([0.01, 0.99], dtype=x.dtype, device=x.device)
    of_q = torch.quantile(q.sample(noise, DRAWS), quantiles, dim=1).movedim(0, -1)  # (B, N, 2, 2)
    low = torch.minimum(of_p[..., 0], of_q[..., 0])
    high = torch.maximum(of_p[..., 1], of_q[..., 1])
    half = (0.5 + MARGIN) * (high - low).amax(-1, keepdim=True)
    middle = (low + high) / 2
    return torch.stack([middle - half, middle + half], -1).view(members, n, 2, 2)


def _axes(window: Tensor, side: int) -> Tensor:
    """The centres of `side` cells along each latent: (B, N, 2, side)."""
    centres = (torch.arange(side, dtype=window.dtype, device=window.device) + 0.5) / side
    return window[..., :1] + (window[..., 1:] - window[..., :1]) * centres


def _points(axes: Tensor) -> Tensor:
    """All pairs of coordinates: (B, N, 2, side) -> (B, N, side * side, 2)."""
    side = axes.shape[-1]
    first = axes[..., 0, :].unsqueeze(-1).expand(*axes.shape[:2], side, side)
    second = axes[..., 1, :].unsqueeze(-2).expand(*axes.shape[:2], side, side)
    return torch.stack([first, second], -1).flatten(2, 3)
