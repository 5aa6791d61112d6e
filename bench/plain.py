"""One model at a time in ordinary PyTorch: torch.nn, autograd, default torch.optim.Adam, NCHW.

The reference for tests of arrays, and the rivals of the benchmarks. The networks follow Tables 1-3 literally.
`RecMixVAE` with `pseudocode_step` is the listing of the supplement's section 4, with its names. `MODELS` holds the
other methods, each with its loss. `draw(shape)` returns standard normal noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

ImageShape = tuple[int, int, int]
Draw = Callable[[tuple[int, ...]], Tensor]

ENCODERS = {
    # Table 1, MNIST and OMNIGLOT: 28 -> 14 -> 7 -> 3
    (1, 28, 28): lambda p: nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Flatten(), nn.Linear(3 * 3 * 64, 256), nn.LeakyReLU(0.01),
        nn.Linear(256, 2 * p),
    ),
    # Table 2, CIFAR10 and SVHN: 32 -> 16 -> 8 -> 4
    (3, 32, 32): lambda p: nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Flatten(), nn.Linear(4 * 4 * 64, 512), nn.LeakyReLU(0.01),
        nn.Linear(512, 2 * p),
    ),
    # Table 3, CelebA: 64 -> 32 -> 16 -> 8 -> 4
    (3, 64, 64): lambda p: nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 32, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Conv2d(64, 64, 4, 2, 1), nn.LeakyReLU(0.01),
        nn.Flatten(), nn.Linear(4 * 4 * 64, 512), nn.LeakyReLU(0.01),
        nn.Linear(512, 2 * p),
    ),
}  # fmt: skip

DECODERS = {
    (1, 28, 28): lambda p: nn.Sequential(
        nn.Linear(p, 256), nn.ReLU(),
        nn.Linear(256, 3 * 3 * 64), nn.ReLU(), nn.Unflatten(1, (64, 3, 3)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, output_padding=1), nn.ReLU(),  # 3 -> 7
        nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
    ),
    (3, 32, 32): lambda p: nn.Sequential(
        nn.Linear(p, 512), nn.ReLU(),
        nn.Linear(512, 4 * 4 * 64), nn.ReLU(), nn.Unflatten(1, (64, 4, 4)),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
    ),
    (3, 64, 64): lambda p: nn.Sequential(
        nn.Linear(p, 512), nn.ReLU(),
        nn.Linear(512, 4 * 4 * 64), nn.ReLU(), nn.Unflatten(1, (64, 4, 4)),
        nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
    ),
}  # fmt: skip


def fc_decoder(p: int, image_shape: ImageShape, width: int) -> nn.Sequential:
    """Table 5's decoder: two hidden layers of equal width."""
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(
        nn.Linear(p, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, pixels),
        nn.Unflatten(1, image_shape),
    )  # fmt: skip


def weighted(module: nn.Module) -> list[Any]:
    """Layers with weights, in order of application."""
    return [layer for layer in module.modules() if isinstance(getattr(layer, "weight", None), Tensor)]


def copy_member(array: nn.Module, i: int, plain: nn.Module) -> None:
    """Copy the weights of member i of an array of networks into a plain network, layer by layer."""
    pairs = list(zip(weighted(array), weighted(plain), strict=True))
    with torch.no_grad():
        for theirs, own in pairs:
            own.weight.copy_(theirs.weight[i])
            own.bias.copy_(theirs.bias[i])


class ConvEncoder(nn.Module):
    def __init__(self, z_dim: int, x_dim: ImageShape) -> None:
        super().__init__()
        self.layers = ENCODERS[x_dim](z_dim)

    def forward(self, x: Tensor) -> Independent:
        mu, logvar = self.layers(x).chunk(2, dim=1)
        return Independent(Normal(mu, torch.exp(logvar / 2)), 1)


class ConvDecoder(nn.Module):
    def __init__(self, z_dim: int, x_dim: ImageShape) -> None:
        super().__init__()
        self.layers = DECODERS[x_dim](z_dim)
        self.logvar = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Independent:
        return Independent(Normal(self.layers(z), torch.exp(self.logvar / 2)), 3)


class Const(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), self.value, dtype=x.dtype, device=x.device)


class BaseBoundedRegressor(nn.Module):
    def __init__(self, x_dim: ImageShape, eps_min: float, eps_max: float, dim: int) -> None:
        super().__init__()
        self.low, self.high = eps_min, eps_max
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(x_dim[0] * x_dim[1] * x_dim[2], dim), nn.ReLU(), nn.Linear(dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(self.layers(x)[:, 0])


class RecMixVAE(nn.Module):
    """The supplement's main class."""

    def __init__(
        self, z_dim: int, x_dim: ImageShape, num_comps: int, eps_min: float, eps_max: float, draw: Draw
    ) -> None:
        super().__init__()
        self.M = num_comps - 1
        self.decoder = ConvDecoder(z_dim, x_dim)
        self.register_buffer("prior_mean", torch.zeros(z_dim))
        self.register_buffer("prior_scale", torch.ones(z_dim))
        self.comps = nn.ModuleList([ConvEncoder(z_dim, x_dim) for _ in range(num_comps)])
        self.eps_regrs = nn.ModuleList(
            [Const(1.0)] + [BaseBoundedRegressor(x_dim, eps_min, eps_max, 10) for _ in range(num_comps - 1)]
        )
        self.draw = draw

    prior_mean: Tensor
    prior_scale: Tensor

    @property
    def prior(self) -> Independent:
        return Independent(Normal(self.prior_mean, self.prior_scale), 1)

    def encoder_upto_kth(self, x: Tensor, k: int) -> MixtureSameFamily:
        eps = [regr(x) for regr in self.eps_regrs[: k + 1]]
        alphas = []
        for m in range(k + 1):
            alpha = eps[m]
            for j in range(m + 1, k + 1):
                alpha = alpha * (1 - eps[j])
            alphas.append(alpha)
        comps = [self.comps[m](x).base_dist for m in range(k + 1)]
        normal = Normal(torch.stack([c.loc for c in comps], 1), torch.stack([c.scale for c in comps], 1))
        return MixtureSameFamily(Categorical(probs=torch.stack(alphas, 1)), Independent(normal, 1))

    def encoder_kth_comp(self, x: Tensor, k: int) -> Independent:
        return self.comps[k](x)

    def eval_elbo_for_mixture(self, x: Tensor, mixture: MixtureSameFamily) -> tuple[Tensor, Tensor]:
        alphas = mixture.mixture_distribution.probs
        normal = mixture.component_distribution.base_dist  # type: ignore[attr-defined]
        n, comps, p = normal.loc.shape
        noise = self.draw((comps, n, p))
        ell = kl = torch.zeros(n, dtype=x.dtype, device=x.device)
        for m in range(comps):
            z = normal.loc[:, m] + normal.scale[:, m] * noise[m]
            ell = ell + alphas[:, m] * self.decoder(z).log_prob(x)
            kl = kl + alphas[:, m] * (mixture.log_prob(z) - self.prior.log_prob(z))
        return ell, kl

    def forward(self, x: Tensor, k: int, loss_type: str) -> tuple[Tensor, Tensor | None]:
        if loss_type == "mixture":
            ell, kl = self.eval_elbo_for_mixture(x, self.encoder_upto_kth(x, k))
            return (ell - kl).mean(), None
        q = self.encoder_kth_comp(x, k)
        z = q.base_dist.loc + q.base_dist.scale * self.draw(tuple(q.base_dist.loc.shape))
        prior = self.prior.expand(q.batch_shape)
        elbo = (self.decoder(z).log_prob(x) - kl_divergence(q, prior)).mean()
        if k == 0:
            return elbo, None
        return elbo, (q.log_prob(z) - self.encoder_upto_kth(x, k - 1).log_prob(z)).mean()

    def parts(self) -> list[nn.Module]:
        """The parts with an update each: components, regressors, decoder."""
        return [*self.comps, *self.eps_regrs[1:], self.decoder]

    def enable_grad(self, part: nn.Module) -> None:
        self.requires_grad_(False)
        part.requires_grad_(True)


def pseudocode_step(
    model: RecMixVAE, adam: dict[nn.Module, torch.optim.Adam], x: Tensor, kl_max: float
) -> tuple[Tensor, list[Tensor]]:
    """One pass of the main algorithm's inner loop.

    Returns the losses before each update, (2M + 2,), and for m = 1..M the KL in the penalty (kl_max - KL)_+.
    """
    losses, kls = [], []

    def descend(part: nn.Module, loss: Tensor) -> None:
        adam[part].zero_grad()
        loss.backward()
        adam[part].step()
        losses.append(loss.detach())

    model.enable_grad(model.comps[0])
    elbo, _ = model(x, 0, "new_comp")
    descend(model.comps[0], -elbo)
    for m in range(1, model.M + 1):
        model.enable_grad(model.comps[m])
        elbo, kl = model(x, m, "new_comp")
        descend(model.comps[m], -elbo + (kl_max - kl).relu())
        kls.append(kl.detach())
        model.enable_grad(model.eps_regrs[m])
        elbo, _ = model(x, m, "mixture")
        descend(model.eps_regrs[m], -elbo)
    model.enable_grad(model.decoder)
    elbo, _ = model(x, model.M, "mixture")
    descend(model.decoder, -elbo)
    return torch.stack(losses), kls


# ---------------------------------------------------------------------- the other methods
class PlainVAE(nn.Module):
    """A VAE with its formulas written out. The methods below differ in what comes between encoder and decoder."""

    def __init__(self, z_dim: int, x_dim: ImageShape) -> None:
        super().__init__()
        *trunk, head = ENCODERS[x_dim](z_dim)
        assert isinstance(head, nn.Linear)
        self.trunk, self.head, self.width = nn.Sequential(*trunk), head, head.in_features
        self.decoder = DECODERS[x_dim](z_dim)
        self.logvar = nn.Parameter(torch.zeros(()))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) of each image."""
        squares = ((x - self.decoder(z)) ** 2).flatten(1).sum(1)
        return -0.5 * (squares / self.logvar.exp() + x[0].numel() * (self.logvar + math.log(2 * math.pi)))

    def loss(self, x: Tensor, draw: Draw) -> Tensor:
        mu, logvar = self.head(self.trunk(x)).chunk(2, dim=1)
        z = mu + torch.exp(logvar / 2) * draw(tuple(mu.shape))
        return -self.elbo(x, z, mu, logvar).mean()

    def elbo(self, x: Tensor, z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return self.log_likelihood(x, z) - 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)


class PlainSA(PlainVAE):
    def __init__(self, z_dim: int, x_dim: ImageShape, order: int, svi_step: float = 1e-3) -> None:
        super().__init__(z_dim, x_dim)
        self.order, self.svi_step = order, svi_step

    def loss(self, x: Tensor, draw: Draw) -> Tensor:
        mu, logvar = self.head(self.trunk(x)).chunk(2, dim=1)
        for _ in range(self.order):
            z = mu + torch.exp(logvar / 2) * draw(tuple(mu.shape))
            elbo = self.elbo(x, z, mu, logvar).sum()
            by_mu, by_logvar = torch.autograd.grad(elbo, [mu, logvar], create_graph=True)
            mu, logvar = mu + self.svi_step * by_mu, logvar + self.svi_step * by_logvar
        z = mu + torch.exp(logvar / 2) * draw(tuple(mu.shape))
        return -self.elbo(x, z, mu, logvar).mean()


class PlainHF(PlainVAE):
    def __init__(self, z_dim: int, x_dim: ImageShape, order: int) -> None:
        super().__init__(z_dim, x_dim)
        widths = [self.width] + [z_dim] * (order - 1)
        self.vectors = nn.ModuleList(nn.Linear(width, z_dim) for width in widths)

    def loss(self, x: Tensor, draw: Draw) -> Tensor:
        h = self.trunk(x)
        mu, logvar = self.head(h).chunk(2, dim=1)
        z, v = mu + torch.exp(logvar / 2) * draw(tuple(mu.shape)), h
        for linear in self.vectors:
            v = linear(v)
            z = z - 2 * v * (v * z).sum(1, keepdim=True) / (v**2).sum(1, keepdim=True)
        return -self.elbo(x, z, mu, logvar).mean()


class PlainMADE(nn.Module):
    def __init__(self, z_dim: int, context: int, backwards: bool, hidden: int = 500) -> None:
        super().__init__()
        position = torch.arange(z_dim, 0, -1) if backwards else torch.arange(1, z_dim + 1)
        degree = torch.arange(hidden) % z_dim
        self.register_buffer("mask_in", (degree[:, None] >= position).float())
        self.register_buffer("mask_out", (position[:, None] > degree).float().repeat(2, 1))
        self.inputs = nn.Linear(z_dim, hidden)
        self.context = nn.Linear(context, hidden)
        self.outputs = nn.Linear(hidden, 2 * z_dim)

    mask_in: Tensor
    mask_out: Tensor

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        h = F.linear(z, self.inputs.weight * self.mask_in, self.inputs.bias) + self.context(context)
        return F.linear(h.relu(), self.outputs.weight * self.mask_out, self.outputs.bias).chunk(2, dim=1)


class PlainIAF(PlainVAE):
    def __init__(self, z_dim: int, x_dim: ImageShape, order: int) -> None:
        super().__init__(z_dim, x_dim)
        self.mades = nn.ModuleList(PlainMADE(z_dim, self.width, backwards=t % 2 == 1) for t in range(order))

    def loss(self, x: Tensor, draw: Draw) -> Tensor:
        h = self.trunk(x)
        mu, logvar = self.head(h).chunk(2, dim=1)
        eps = draw(tuple(mu.shape))
        z = mu + torch.exp(logvar / 2) * eps
        log_q = -0.5 * (eps**2 + logvar + math.log(2 * math.pi)).sum(1)
        for made in self.mades:
            m, s = made(z, h)
            z = torch.sigmoid(s + 2) * z + (1 - torch.sigmoid(s + 2)) * m
            log_q = log_q - F.logsigmoid(s + 2).sum(1)
        log_prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
        return -(self.log_likelihood(x, z) + log_prior - log_q).mean()


MODELS: dict[str, type[PlainVAE]] = {"vae": PlainVAE, "sa": PlainSA, "hf": PlainHF, "iaf": PlainIAF}
"""By name in the registry. `rme` is `RecMixVAE`; the remaining methods have no plain version."""


def training_step(model: PlainVAE, adam: torch.optim.Adam, x: Tensor, draw: Draw) -> Tensor:
    """One step of a method with a single update. Returns the loss before it."""
    adam.zero_grad()
    loss = model.loss(x, draw)
    loss.backward()
    adam.step()
    return loss.detach()


@torch.no_grad()
def iwae(model: PlainVAE, x: Tensor, eps: Tensor) -> Tensor:
    """IWAE bound on log p(x), one decoder pass per sample: x (n, C, H, W), noise eps (K, n, p) -> (n,)."""
    mu, logvar = model.head(model.trunk(x)).chunk(2, dim=1)
    log_w = []
    for e in eps:
        z = mu + torch.exp(logvar / 2) * e
        log_prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
        log_q = -0.5 * (e**2 + logvar + math.log(2 * math.pi)).sum(1)
        log_w.append(model.log_likelihood(x, z) + log_prior - log_q)
    return torch.logsumexp(torch.stack(log_w), 0) - math.log(len(eps))
